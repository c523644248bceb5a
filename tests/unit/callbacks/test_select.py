"""kdlab.callbacks.select: the evidence of strategies, and the forward that it comes from."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import Precision

from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.callbacks.select import Select
from kdlab.methods.marks import needs
from kdlab.methods.selection import strategies
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.strategies import Ensemble
from kdlab.models import flops
from kdlab.types import Batch, Evidence, Plan
from tests.unit.modules import test_student, test_student_tasks
from tests.unit.modules.test_student_tasks import label as LABEL

ROWS = 6


def strategy(log: list[Evidence], *fields: str, rowwise: bool = True):
    """A strategy that records its evidence and scores row ids: the last rows are kept."""

    @needs(*fields, rowwise=rowwise)
    def recorded(evidence: Evidence) -> torch.Tensor:
        log.append(evidence)
        assert evidence.rows is not None
        return evidence.rows.double()

    return recorded


def selected(arm: Any, stage: str, memory: bool = False) -> Batch:
    """The batch of `stage` after `Select` with the strategy `arm` has put its plan into it."""
    if stage == "pretrain":
        module, batch = test_student.distiller(), test_student.batch()
    else:
        module, batch = test_student_tasks.distiller({"label": LABEL}), test_student_tasks.batch()
    module._trainer = SimpleNamespace(global_step=0, precision_plugin=Precision())  # pyright: ignore
    batch.plan = Plan()
    chooser = RowSelector({"arm": arm}, Fixed(["arm"]), 0.5, 10, 0)
    chooser.arm = "arm"
    Select(chooser, memory=ScoreMemory(ROWS, 2) if memory else None).answer(module, batch, 0)
    return batch


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("fields", [(), ("labels",), ("logits",), ("logits", "labels"), ("features",)])
def test_labels_are_given_if_they_are_declared(fields, stage, memory):
    log: list[Evidence] = []
    batch = selected(strategy(log, *fields), stage, memory)
    assert batch.plan is not None and batch.plan.rows is not None and batch.plan.rows.tolist() == [3, 4, 5]
    assert_evidence(log, batch, *fields)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_strategies_that_score_whole_batches_get_the_same(stage):
    for fields in [("labels",), ("features", "labels"), ("logits", "labels"), ("logits", "features")]:
        log: list[Evidence] = []
        batch = selected(strategy(log, *fields, rowwise=False), stage)
        assert len(log) == 1
        assert_evidence(log, batch, *fields)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_each_member_of_an_ensemble_gets_what_it_declares(stage, memory):
    logs: dict[str, list[Evidence]] = {"": [], "labels": [], "logits": []}
    batch = selected(
        Ensemble({f"of {name}": strategy(log, *name.split()) for name, log in logs.items()}), stage, memory
    )
    for name, log in logs.items():
        assert_evidence(log, batch, *name.split())


def test_a_strategy_that_declares_nothing_gets_everything():
    log: list[Evidence] = []

    def plain(evidence: Evidence) -> torch.Tensor:
        log.append(evidence)
        return torch.zeros(len(evidence))

    assert_evidence(log, selected(functools.partial(plain), "finetune"), "logits", "features", "labels")


def assert_evidence(log: list[Evidence], batch: Batch, *fields: str) -> None:
    """The evidence of all calls together: the batch's rows, and of labels, logits and features the ones in `fields`."""
    rows = [row for evidence in log for row in evidence.rows.tolist()]  # pyright: ignore[reportOptionalMemberAccess]
    assert rows == batch.rows.tolist()
    for evidence in log:
        assert (evidence.logits is not None) == ("logits" in fields)
        assert (evidence.features is not None) == ("features" in fields)
        if "labels" not in fields:
            assert evidence.labels is None
            continue
        assert evidence.labels is not None and evidence.rows is not None
        for number, row in enumerate(evidence.rows.tolist()):
            labels = evidence.labels[number]
            if batch.labels.ndim == 1:
                assert evidence.mask is None and labels == batch.labels[row]
            else:
                assert evidence.mask is not None
                expected = batch.labels[row][batch.labels[row] != -100]
                assert labels[evidence.mask[number]].tolist() == expected.tolist()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_rows_are_selected_by_labels_though_nothing_is_declared(stage):
    """Row numbers in the place of labels would keep rows 3 to 5."""

    def negated(evidence: Evidence) -> torch.Tensor:
        assert evidence.labels is not None
        labels = evidence.labels if evidence.labels.ndim == 1 else evidence.labels[:, 0]
        return -labels.double()

    batch = selected(negated, stage)
    assert batch.plan is not None and batch.plan.rows is not None
    first = batch.labels if batch.labels.ndim == 1 else torch.stack([row[row != -100][0] for row in batch.labels])
    assert batch.plan.rows.tolist() == first.argsort(stable=True)[:3].sort().values.tolist() != [3, 4, 5]


# ---- labels on all rows: the training forward is scored


@pytest.mark.parametrize("name", ["entropy", "margin", "density", "ensemble"])
def test_where_labels_are_on_all_rows_one_forward_trains_and_scores(name, monkeypatch):
    """The student runs once on the batch; the rows are those of transformers' own logits or states (eval mode)."""
    module, batch = (
        test_student_tasks.distiller(test_student_tasks.KNOWLEDGE["response"], labels_on="all"),
        test_student_tasks.batch(),
    )
    with torch.no_grad():
        given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "output_hidden_states": True}
        plain = module.student.model(**given)
    everything = Evidence(rows=batch.rows, logits=plain.logits, features=plain.hidden_states[-1][:, 0])
    arm = Ensemble([strategies.entropy, strategies.density]) if name == "ensemble" else getattr(strategies, name)
    expected = arm(everything).argsort(descending=True, stable=True)[:3].sort().values.tolist()
    forwards: list[int] = []
    encode = module.student.encode
    monkeypatch.setattr(module.student, "encode", lambda b, *more: forwards.append(len(b)) or encode(b, *more))
    with_plan(module, batch, arm)
    loss = module.training_step(batch, 0)
    assert forwards == [ROWS]
    assert module.ledger is not None
    totals = module.ledger.totals()
    assert totals["teacher_queries"]["total"] == 3
    head = 0 if name == "density" else flops.classifier_head(module.shape, ROWS, test_student_tasks.CLASSES)
    assert totals["flops"].get("scoring", 0) == head
    wanted = module.loss(batch, queried=torch.tensor(expected))
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    loss.backward()


def test_a_random_draw_needs_no_forward_there_either():
    module, batch = test_student_tasks.distiller({"label": LABEL}, labels_on="all"), test_student_tasks.batch()
    with_plan(module, batch, strategies.random)
    assert batch.plan is not None and batch.plan.select is None and batch.plan.rows is not None


def with_plan(module: Any, batch: Batch, arm: Any) -> None:
    module._trainer = SimpleNamespace(global_step=0, precision_plugin=Precision())
    batch.plan = Plan()
    chooser = RowSelector({"arm": arm}, Fixed(["arm"]), 0.5, 10, 0)
    chooser.arm = "arm"
    Select(chooser).answer(module, batch, 0)
