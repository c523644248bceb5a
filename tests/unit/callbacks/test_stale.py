"""`Select` with a memory: strategies that score rows against each other, ensembles, and policies that change the strategy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.callbacks.scoring.stale import VisitRecord
from kdlab.errors import UserError
from kdlab.methods.marks import needs
from kdlab.methods.selection import strategies
from kdlab.modules.early_exit import EarlyExit
from kdlab.stages.decision_callbacks import check_stale, stale_line
from tests.unit.callbacks.test_look import ARMS, Scored


@needs("logits")
def against_others(evidence: Any) -> torch.Tensor:
    """A strategy on logits that is not rowwise."""
    logits = evidence.logits.flatten(1)
    return (logits - logits.mean(0)).norm(dim=1)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("name", ARMS)
def test_with_unchanged_weights_kept_evidence_selects_as_a_fresh_forward(name, stage):
    """Each row runs once in two epochs; in the third it runs again."""
    stale, fresh = Scored(ARMS[name], stage, 1.0, memory=ScoreMemory(6, 2)), Scored(ARMS[name], stage, 1.0)
    for epoch in range(3):
        stale.batch.epoch = epoch
        assert stale.kept(epoch) == fresh.kept(epoch)
    assert stale.encoded == [stale.batch.rows.tolist()] * 2


def test_logits_of_a_classifier_are_kept_for_a_strategy_that_compares_rows():
    stale, fresh = (Scored(against_others, "finetune", 1.0, memory=m) for m in (ScoreMemory(6, 9), None))
    assert [stale.kept(step) for step in range(3)] == [fresh.kept(step) for step in range(3)]
    assert len(stale.encoded) == 1


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_visit_serves_every_arm_of_a_policy(stage):
    scored, twin = (Scored(strategies.entropy, stage, 1.0, memory=m) for m in (ScoreMemory(6, 9), None))
    for each in (scored, twin):
        each.callback.row_selector.arms = {**ARMS, "random": strategies.random}
    for step, arm in enumerate([*ARMS, "random"]):
        for each in (scored, twin):
            each.callback.selector.arm = arm
        assert scored.kept(step) == twin.kept(step), arm
    assert len(scored.encoded) == 1 and len(twin.encoded) == len(ARMS)


def test_the_first_layers_serve_every_arm_too():
    for name, arm in ARMS.items():
        exits, kept = (Scored(arm, "finetune", 1.0, forward=EarlyExit(1), memory=m) for m in (None, ScoreMemory(6, 9)))
        assert exits.kept(0) == kept.kept(0) == kept.kept(0), name


def test_features_alone_run_no_head():
    scored = Scored(strategies.density, "pretrain", 1.0, memory=ScoreMemory(6, 2))
    scored.module.evidence = lambda *_: pytest.fail("the head ran")  # pyright: ignore[reportAttributeAccessIssue]
    scored.kept(0)


@pytest.mark.parametrize("name", ["entropy", "cluster", "ensemble"])
def test_a_resumed_memory_has_the_same_entries(name):
    first = Scored(ARMS[name], "finetune", 0.5, memory=ScoreMemory(6, 9))
    rows = [first.kept(step) for step in range(4)]
    second = Scored(ARMS[name], "finetune", 0.5, memory=ScoreMemory(6, 9))
    assert [second.kept(step) for step in range(2)] == rows[:2]
    state = second.callback.state_dict()
    third = Scored(ARMS[name], "finetune", 0.5, memory=ScoreMemory(6, 9))
    third.callback.load_state_dict(state)
    assert [third.kept(step) for step in range(2, 4)] == rows[2:] and len(second.encoded + third.encoded) >= len(
        first.encoded
    )


def test_what_is_kept_is_printed_and_bounded():
    assert VisitRecord.of({"a": ARMS["ensemble"]}).fields == ("features",)
    arms = {"cluster": strategies.cluster, "entropy": strategies.entropy}
    assert (
        stale_line(arms, "none", 50_000, 384, 2)
        == (
            "select.scoring=stale keeps features of 50,000 rows, 77.2 MB, in checkpoints too"  # 50,000 x (4 x 384 + 8) bytes
        )
    )
    assert stale_line({"entropy": strategies.entropy}, "none", 50_000, 384, 2) == ""
    with pytest.raises(UserError, match="more than 1,074 MB; select.scoring=fresh select.look=0.3"):
        stale_line(arms, "none", 1_000_000, 768, 2)


@needs("logits", "teacher")
def against_the_teacher(evidence: Any) -> torch.Tensor:
    """A strategy on the teacher's answers that is not rowwise."""
    return (evidence.logits - evidence.teacher.mean(0)).norm(dim=1)


@needs("logits", "reference_loss")
def against_a_reference(evidence: Any) -> torch.Tensor:
    """A strategy on a reference's loss that is not rowwise."""
    return evidence.reference_loss - evidence.reference_loss.mean()


@pytest.mark.parametrize(
    ("strategy", "field"), [(against_the_teacher, "teacher"), (against_a_reference, "reference_loss")]
)
def test_rows_are_not_compared_by_other_models_answers_of_earlier_visits(strategy, field):
    with pytest.raises(
        UserError, match=f"select.arms.own scores rows against each other by {field}, which is not kept"
    ):
        check_stale({"own": strategy}, "none", per_row=True)
    check_stale({"disagreement": strategies.disagreement, "reducible": strategies.reducible}, "none", per_row=True)


def test_a_visit_gives_what_the_arms_read_of_other_models_and_of_a_committee():
    """Whatever the arm in force: the teacher answers at the visit, and each version of the student votes."""
    arms = {"entropy": strategies.entropy, "disagreement": strategies.disagreement, "committee": strategies.committee}
    asked: list[list[int]] = []
    stale, fresh = (Scored(strategies.entropy, "finetune", 1.0, memory=m) for m in (ScoreMemory(6, 9), None))
    for each in (stale, fresh):
        each.callback.row_selector.arms = arms
        rows_of = each.module.teacher_rows
        each.module.teacher_rows = lambda b, rows_of=rows_of: rows_of(
            b if b is None else asked.append(b.rows.tolist()) or b
        )  # pyright: ignore
    for step, arm in enumerate(arms):
        for each in (stale, fresh):
            each.callback.selector.arm = arm
        before = len(asked)
        kept = stale.kept(step)
        assert len(asked) - before == (arm == "entropy"), arm  # at the first visit
        assert kept == fresh.kept(step), arm
    assert len(stale.encoded) == 1


def test_logits_of_all_words_are_not_kept():
    check_stale({"own": against_others}, "none", per_row=True)
    check_stale(ARMS, "none", per_row=False)
    with pytest.raises(UserError, match="select.arms.own scores rows against each other by the logits of all words"):
        check_stale({"own": against_others}, "none", per_row=False)
