"""Importance weights: the loss of sampled rows estimates the mean over the whole batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import Precision

from kdlab.callbacks.scoring.importance import importance, whole_units
from kdlab.callbacks.select import Select
from kdlab.methods.selection import strategies
from kdlab.methods.selection.keeping import Keeping
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.types import Batch, Plan
from tests.unit.modules import test_student, test_student_tasks
from tests.unit.modules.test_student_tasks import COSINE, soft
from tests.unit.modules.test_student_tasks import label as LABEL

TERMS = {"label": LABEL, "soft": soft(2.0), "cosine": COSINE}
HIDDEN = (1,)  # a row without a label


def module_of(stage: str) -> tuple[Any, Batch]:
    if stage == "pretrain":
        return test_student.distiller(), test_student.batch()
    return test_student_tasks.distiller(TERMS), test_student_tasks.batch(hidden=HIDDEN)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_weights_times_the_rows_own_share_of_the_whole_batch(stage):
    """Each row alone, with its weight, sums up to the loss of all rows: the loss is linear in the weights, and 1 for each
    row of the whole batch is its mean, whatever number of units the rows have."""
    module, batch = module_of(stage)
    units = whole_units(batch)
    every = float(module.loss(batch).detach())
    parts = []
    for row in range(len(batch)):
        for weight in (1.0, 2.5):
            given = importance(torch.tensor([weight], dtype=torch.float64), None, units)
            alone = batch.take(torch.tensor([row]))
            parts.append(float(module.loss(alone, plan=Plan(importance=given)).detach()) / weight)
    assert sum(parts[::2]) == pytest.approx(every, rel=1e-5)
    assert parts[::2] == pytest.approx(parts[1::2], rel=1e-5)


def test_sampled_rows_estimate_the_loss_of_the_whole_batch():
    """The weighted losses of the rows that `Select` keeps at many steps have the mean of the whole batch's loss."""
    module, batch = module_of("finetune")
    module._trainer = SimpleNamespace(global_step=0, precision_plugin=Precision())
    units, each = whole_units(batch), []
    for row in range(len(batch)):
        one = importance(torch.ones(1), None, units)
        each.append(float(module.loss(batch.take(torch.tensor([row])), plan=Plan(importance=one)).detach()))
    keeping = Keeping(explore=0.3, temperature=0.5, importance=True)
    selector = RowSelector({"entropy": strategies.entropy}, Fixed(["entropy"]), 0.5, 10, 0, keeping=keeping)
    selector.arm = "entropy"
    select, found = Select(selector), []
    for step in range(40):
        batch.plan = Plan()
        select.answer(module, batch, step)
        rows, given = batch.plan.rows, batch.plan.importance
        assert rows is not None and given is not None and given.units == units
        found.append(sum(float(w) * each[row] for w, row in zip(given.weights, rows.tolist(), strict=True)))
        if step == 0:  # the loss of these rows is that sum
            alone = module.loss(batch.take(rows), plan=Plan(importance=given))
            assert float(alone.detach()) == pytest.approx(found[-1], rel=1e-5)
    estimates = torch.tensor(found)
    error = float(estimates.std()) / len(found) ** 0.5
    assert abs(float(estimates.mean()) - sum(each)) < 4.5 * error


def test_units_of_a_batch_with_a_hidden_label():
    _, batch = module_of("finetune")
    assert whole_units(batch) == {"labelled": (5, 5), "all": (6, 6), "tokens": (56, 6)}
