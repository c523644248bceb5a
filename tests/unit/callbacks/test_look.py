"""`Select` with `look` below 1: the rows that the student encodes, and those that are kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import Precision

import kdlab
from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.callbacks.select import Select
from kdlab.methods.selection import strategies
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.strategies import Ensemble
from kdlab.models import flops
from kdlab.modules.early_exit import EarlyExit
from kdlab.types import Plan
from tests.unit.callbacks import test_selectable
from tests.unit.modules import test_student, test_student_tasks

pytestmark = test_selectable.pytestmark

ARMS = {
    **{name: getattr(strategies, name) for name in ("entropy", "margin", "gradient_norm", "density", "cluster")},
    "ensemble": Ensemble([strategies.entropy, strategies.density, strategies.random]),
}


class Scored:
    """`Select` on a student, with the rows that each forward of it reads."""

    def __init__(self, arm: Any, stage: str, look: float, labels_on: str = "selected", **more: Any) -> None:
        if stage == "pretrain":
            self.module, self.batch = test_student.distiller(), test_student.batch()
        else:
            terms = test_student_tasks.KNOWLEDGE["response"]
            self.module, self.batch = (
                test_student_tasks.distiller(terms, labels_on=labels_on),
                test_student_tasks.batch(),
            )
        trainer = SimpleNamespace(global_step=0, precision_plugin=Precision())
        self.module._trainer = trainer  # pyright: ignore[reportAttributeAccessIssue]
        chooser = RowSelector({"arm": arm}, Fixed(["arm"]), 1 / 6, 10, 0, look=look)
        chooser.arm = "arm"
        self.callback = Select(chooser, **more)
        self.encoded: list[list[int]] = []
        encode = self.module.student.encode
        self.module.student.encode = lambda b, *rest: self.encoded.append(b.rows.tolist()) or encode(b, *rest)

    def kept(self, step: int) -> list[int]:
        self.batch.plan = Plan()
        self.callback.answer(self.module, self.batch, step)
        assert self.batch.plan.rows is not None
        return self.batch.rows[self.batch.plan.rows].tolist()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("name", ARMS)
def test_the_student_encodes_the_drawn_rows_alone_and_the_best_of_these_are_kept(name, stage):
    """The same strategy picks the same rows of a batch of the drawn rows alone."""
    scored = Scored(ARMS[name], stage, 0.5)
    for step in range(3):
        kept = scored.kept(step)
        drawn = scored.encoded[-1]
        assert len(kept) == 1 and len(drawn) == 3 and set(kept) <= set(drawn)
        if "random" not in getattr(ARMS[name], "members", {}) and name != "cluster":  # no draws of its own
            alone = Scored(ARMS[name], stage, 1.0)
            alone.batch = alone.batch.take(torch.tensor(drawn))
            assert alone.kept(step) == kept
    assert len(scored.encoded) == 3 and len({tuple(drawn) for drawn in scored.encoded}) > 1


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_all_rows_are_scored_at_look_1_and_the_rows_kept_are_the_same(stage):
    for name, arm in ARMS.items():
        chooser = RowSelector({"arm": arm}, Fixed(["arm"]), 1 / 6, 10, 0)  # as before there was a look
        chooser.arm = "arm"
        whole, plain = Scored(arm, stage, 1.0), Scored(arm, stage, 1.0)
        plain.callback = Select(chooser)
        assert whole.kept(0) == plain.kept(0), name
        assert whole.encoded == [whole.batch.rows.tolist()]


def test_a_strategy_that_needs_no_forward_has_all_rows_to_choose_from():
    few, every = Scored(strategies.random, "finetune", 0.34), Scored(strategies.random, "finetune", 1.0)
    assert [few.kept(step) for step in range(5)] == [every.kept(step) for step in range(5)] and few.encoded == []


def test_scoring_costs_the_share_that_is_looked_at():
    spent = {}
    for look in (0.5, 1.0):
        scored = Scored(strategies.entropy, "finetune", look)
        scored.kept(0)
        assert scored.module.ledger is not None
        spent[look] = scored.module.ledger.totals()["flops"]["scoring"]
        rows = scored.batch.take(torch.tensor(scored.encoded[0]))
        head = flops.classifier_head(scored.module.shape, len(rows), test_student_tasks.CLASSES)
        assert spent[look] == scored.module.distillation.flops.student_layers(rows, frozenset()) + head
    assert 0.35 < spent[0.5] / spent[1.0] < 0.65


def test_the_first_layers_alone_encode_the_drawn_rows():
    few, every = (Scored(strategies.density, "finetune", look, forward=EarlyExit(1)) for look in (0.5, 1.0))
    few.kept(0), every.kept(0)
    spent = [each.module.ledger.totals()["flops"]["scoring"] for each in (few, every)]  # pyright: ignore
    assert 0.35 < spent[0] / spent[1] < 0.65


def test_of_the_drawn_rows_those_without_a_recent_score_run():
    scored = Scored(strategies.entropy, "finetune", 0.5, memory=ScoreMemory(6, 2))
    twin, seen = Scored(strategies.entropy, "finetune", 0.5), set()
    for step in range(6):
        assert scored.kept(step) == twin.kept(step)  # the weights stay: an old score is a fresh one
        due = [row for row in twin.encoded[-1] if row not in seen]
        assert (scored.encoded.pop() if due else []) == due
        seen |= set(due)


@pytest.mark.parametrize("name", ["entropy", "density", "ensemble"])
def test_with_labels_on_all_rows_the_drawn_ones_of_the_training_forward_are_scored(name):
    """One forward; the head scores the drawn rows alone; the rows kept are those of a forward of the drawn rows."""
    scored, twin = (Scored(ARMS[name], "finetune", 0.5, "all") for _ in range(2))
    scored.batch.plan = Plan()
    scored.callback.answer(scored.module, scored.batch, 0)
    assert scored.batch.plan.select is not None and scored.encoded == []
    needed = scored.batch.plan.select.needed
    with torch.no_grad():
        outputs = scored.module.student.encode(scored.batch, needed)
    rows = scored.batch.plan.select(scored.batch, outputs)
    assert scored.encoded == [scored.batch.rows.tolist()]
    twin.module.labels_on_all = False
    assert scored.batch.rows[rows].tolist() == twin.kept(0)


# ---- modules of one's own


@pytest.mark.parametrize("form", test_selectable.FORMS)
def test_a_module_of_ones_own_shows_the_drawn_rows_alone(form):
    shown: list[list[list[float]]] = []

    class Own(test_selectable.Own):
        def show_rows(self, batch: Any) -> kdlab.Evidence:
            shown.append(self.parts(batch)[0].tolist())
            return super().show_rows(batch)

    module = Own(form)
    test_selectable.fit(module, form, kdlab.Select(test_selectable.selector(look=0.5)))
    assert [len(rows) for rows in shown] == [4] * test_selectable.STEPS
    for rows, kept in zip(shown, module.trained, strict=True):
        assert len(kept) == 2 and all(row in rows for row in kept)


def test_a_batch_without_a_tensor_has_no_rows_to_draw_from():
    class Texts(test_selectable.Own):
        def parts(self, batch: Any) -> Any:
            return torch.zeros(len(batch), 4), torch.zeros(len(batch), dtype=torch.long)

    own = kdlab.Select(kdlab.Selector("entropy", ratio=0.25, total_steps=2, look=0.5))
    trainer: Any = SimpleNamespace(global_step=0, accumulate_grad_batches=1, precision_plugin=Precision())
    module = Texts("tuple")
    own.setup(trainer, module, "fit")
    own.on_train_start(trainer, module)
    with pytest.raises(kdlab.UserError, match="a batch of type list holds no tensor"):
        own.on_train_batch_start(trainer, module, ["a", "b", "c", "d"], 0)


def test_rows_that_are_not_real_are_never_drawn():
    scored = Scored(strategies.entropy, "finetune", 0.5)
    scored.batch.real = torch.tensor([True, False, True, True, False, True])
    for step in range(8):
        scored.kept(step)
        assert len(scored.encoded[-1]) == 2 and not {1, 4} & set(scored.encoded[-1])
