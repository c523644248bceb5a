"""Micro-batches of an optimizer step scored together: the same rows are kept, for the same FLOPs, from fewer forwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import Precision

from kdlab.callbacks.scoring import ahead
from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.callbacks.select import Select
from kdlab.methods.selection import strategies
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.strategies import Ensemble
from kdlab.models.encoder import Encoder
from kdlab.modules.early_exit import EarlyExit
from kdlab.modules.evidence.votes import Votes
from kdlab.types import Batch, Plan
from tests.unit.modules import test_student, test_student_tasks

ARMS = {
    **{name: getattr(strategies, name) for name in ("entropy", "gradient_norm", "density", "cluster", "committee")},
    "ensemble": Ensemble([strategies.entropy, strategies.density, strategies.random]),
}


class Step:
    """`Select` on the micro-batches of one optimizer step, which are different rows of one batch."""

    def __init__(self, arm: Any, stage: str, look: float = 1.0, execution: str = "packed", **more: Any) -> None:
        if stage == "pretrain":
            self.module = test_student.distiller().eval()
            whole = test_student.batch().take(torch.tensor([0, 1, 2, 3, 4, 5, 2, 0]))
        else:
            self.module = test_student_tasks.distiller(test_student_tasks.KNOWLEDGE["response"])
            whole = test_student_tasks.batch(lengths=[12, 12, 11, 9, 7, 5, 4, 8, 3, 6, 12, 10])
        self.module.student = Encoder(self.module.student.model, execution)
        self.module._trainer = SimpleNamespace(global_step=0, precision_plugin=Precision())  # pyright: ignore
        every = torch.arange(len(whole))
        self.batches = [whole.take(every[first : first + 4]) for first in range(0, len(whole), 4)]
        chooser = RowSelector({"arm": arm}, Fixed(["arm"]), 1 / 4, 10, 0, look=look)
        chooser.arm = "arm"
        self.callback, self.forwards = Select(chooser, **more), 0
        self.module.student.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.forwards += 1

    def kept(self, together: bool) -> list[list[int]]:
        self.batches[0].following = tuple(self.batches[1:]) if together else ()
        found = []
        for number, batch in enumerate(self.batches):
            batch.plan = Plan()
            self.callback.answer(self.module, batch, number)
            assert batch.plan.rows is not None
            found.append(batch.rows[batch.plan.rows].tolist())
        return found

    @property
    def scoring(self) -> int:
        assert self.module.ledger is not None
        return self.module.ledger.totals()["flops"]["scoring"]


@pytest.mark.parametrize("look", [1.0, 0.75])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("name", ARMS)
def test_the_same_rows_from_one_forward(name, stage, look):
    if name == "committee" and stage == "pretrain":
        pytest.skip("an exit of one layer has no vote on text")
    more = {"votes": Votes("exits")} if name == "committee" else {}
    apart, one = (Step(ARMS[name], stage, look, **more) for _ in range(2))
    assert one.kept(True) == apart.kept(False)
    assert one.forwards == 1 and apart.forwards == len(apart.batches) > 1
    assert not one.callback.ahead._held  # nothing is held any more


def test_flops_are_those_of_the_forward_that_runs():
    apart, one = (Step(strategies.entropy, "finetune") for _ in range(2))
    apart.kept(False), one.kept(True)
    of = one.module.distillation.flops
    head = of.student_head(sum(map(len, one.batches)))
    assert one.scoring == of.student_layers(Batch.joined(one.batches), frozenset()) + head
    assert apart.scoring == sum(of.student_layers(batch, frozenset()) for batch in apart.batches) + head


def test_an_early_exit_runs_once():
    apart, one = (Step(strategies.entropy, "finetune", forward=EarlyExit(1)) for _ in range(2))
    assert one.kept(True) == apart.kept(False)


def test_a_forward_has_no_more_tokens_than_allowed(monkeypatch):
    monkeypatch.setattr(ahead, "TOKENS", 90)  # two of the three micro-batches, by the longest, of 44 tokens
    step = Step(strategies.entropy, "finetune")
    assert step.kept(True) == Step(strategies.entropy, "finetune").kept(False) and step.forwards == 2
    monkeypatch.setattr(ahead, "TOKENS", 10)
    step = Step(strategies.entropy, "finetune")
    step.kept(True)
    assert step.forwards == 3


@pytest.mark.parametrize("case", ["padded", "stale", "random"])
def test_micro_batches_are_scored_alone(case):
    """Rows would be padded; a memory runs rows that are due; a random choice runs none."""
    arm = strategies.random if case == "random" else strategies.entropy
    execution = "padded" if case == "padded" else "packed"
    memory = {"memory": ScoreMemory(12, 2)} if case == "stale" else {}
    step = Step(arm, "finetune", execution=execution, **memory)
    step.kept(True)
    assert step.forwards == (0 if case == "random" else 3)


@pytest.mark.parametrize("how", ["in place", "other tensors"])
def test_rows_that_a_callback_changes_are_scored_as_they_are_then(how, monkeypatch):
    """A callback of one's own may change a batch before its selection."""
    step, twin = (Step(strategies.entropy, "finetune") for _ in range(2))
    answer = step.callback.answer

    def changed(batch: Batch, ids: torch.Tensor) -> None:
        if how == "in place":
            batch.input_ids.copy_(ids)
        else:
            batch.input_ids = ids

    def changes(student: Any, batch: Batch, number: int) -> None:
        if number == 1:
            changed(batch, batch.input_ids.flip(0) * batch.attention_mask)
        answer(student, batch, number)

    step.callback.answer = changes
    twin.batches[1].input_ids = twin.batches[1].input_ids.flip(0) * twin.batches[1].attention_mask
    assert step.kept(True) == twin.kept(False) and step.forwards == 2


def test_a_micro_batch_without_a_row_is_left_out():
    step = Step(strategies.entropy, "finetune")
    step.batches[1].real[:] = False
    kept = step.kept(True)
    assert kept[1] == [step.batches[1].rows[0]] and step.forwards == 1


def test_a_joined_batch_has_the_rows_of_all():
    whole = test_student.batch()
    parts = [whole.take(torch.tensor(rows)) for rows in ([5, 4], [0, 1, 2, 3])]
    assert parts[0].input_ids.shape[1] < parts[1].input_ids.shape[1]
    found = Batch.joined(parts)
    assert found.rows.tolist() == [5, 4, 0, 1, 2, 3]
    for name in ("input_ids", "attention_mask", "labels"):
        of_rows = getattr(found, name)
        for place, row in enumerate(found.rows.tolist()):
            length = int(whole.attention_mask[row].sum())
            assert of_rows[place, :length].tolist() == getattr(whole, name)[row, :length].tolist()
    assert int(found.attention_mask.sum()) == int(whole.attention_mask.sum())
    assert int(found.labelled().sum()) == int(whole.labelled().sum())


def test_documents_and_segments_are_joined():
    def rows(length: int) -> Batch:
        ids = torch.ones(2, length, dtype=torch.long)
        ones = torch.ones(2, dtype=torch.bool)
        return Batch(torch.arange(2), 0, ids, ids, ids, ones, token_types=ids, documents=ids * length)

    found = Batch.joined([rows(2), rows(4)])
    assert found.documents is not None and found.documents.tolist() == [[2, 2, 0, 0]] * 2 + [[4] * 4] * 2
    assert found.token_types is not None and found.token_types.tolist() == [[1, 1, 0, 0]] * 2 + [[1] * 4] * 2
