"""Running means of losses: all micro-batches count once, whenever the sums are read or saved."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from kdlab.callbacks.metrics_log import MetricsLog
from kdlab.callbacks.running_means import RunningMeans
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger

LOSSES = [0.1, 0.7, 0.2, 0.4, 0.9, 0.3, 0.8]


def noted(means: RunningMeans, losses: list[float], rows: int = 4, accumulate: int = 1) -> RunningMeans:
    for i, loss in enumerate(losses, 1):
        means.note({"loss": torch.tensor(loss)}, torch.tensor(rows), i % accumulate == 0)
    return means


def test_the_mean_is_over_all_micro_batches_and_rows_are_of_a_step():
    found = noted(RunningMeans(), LOSSES[:6], 4, accumulate=2).means()
    assert found["loss"] == pytest.approx((0.1 + 0.7 + 0.2 + 0.4 + 0.9 + 0.3) / 6, rel=1e-6) and found["rows"] == 8


@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_bits_depend_neither_on_reads_nor_on_an_interruption(most):
    whole = noted(RunningMeans(), LOSSES).means()
    for cut in range(len(LOSSES) + 1):
        resumed = RunningMeans(most)
        resumed.load_state_dict(noted(RunningMeans(most), LOSSES[:cut]).state_dict())
        assert noted(resumed, LOSSES[cut:]).means() == whole


def test_nothing_is_read_from_the_device_before_the_line(monkeypatch):
    reads = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: reads.append(1) or tensor)
    means = noted(RunningMeans(), LOSSES)
    assert not reads
    means.means()
    assert reads == [1]


def test_terms_of_a_phase_count_where_they_are_and_what_is_not_finite_is_left_out():
    means = RunningMeans()
    means.note({"loss": torch.tensor(1.0), "hidden": torch.tensor(3.0)}, torch.tensor(2), True)
    means.note({"loss": torch.tensor(math.nan), "soft": torch.tensor(5.0)}, torch.tensor(2), True)
    means.note({"loss": torch.tensor(2.0), "soft": torch.tensor(7.0)}, torch.tensor(2), True)
    assert means.means() == {"loss": 1.5, "hidden": 3.0, "soft": 6.0, "rows": 2.0}


def test_ranks_add_up_to_the_global_mean(monkeypatch):
    """A rank's loss is its share times the number of ranks: 3 and 1 rows with means 2 and 6 give 3 (2 x 3/4 + 6 x 1/4)."""
    shares = [2 * 2.0 * 3 / 4, 2 * 6.0 * 1 / 4]
    monkeypatch.setattr(
        distributed,
        "gather_rows",
        lambda own: torch.cat([own, torch.tensor([[[1.0, shares[1]]]], dtype=torch.float64)]),
    )
    means = RunningMeans()
    means.note({"loss": torch.tensor(shares[0])}, torch.tensor(3), True)
    assert means.means() == {"loss": 3.0, "rows": 4.0}


def test_a_line_every_so_many_steps_and_at_evaluations():
    rows: list[dict[str, Any]] = []
    evaluation = cast(Any, SimpleNamespace(fresh=None, columns=lambda: ["heldout_loss"]))
    student = cast(Any, SimpleNamespace(terms={}, teacher_names=["one"], losses={}, trained_rows=torch.tensor(4)))
    log = MetricsLog(2, evaluation, student, rows.append, Ledger(10))
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
    for step, loss in enumerate(LOSSES):
        trainer = cast(Any, SimpleNamespace(accumulate_grad_batches=1, global_step=step, optimizers=[optimizer]))
        evaluation.fresh = {"loss": 9.0} if step in (0, 3) else evaluation.fresh
        log.on_train_batch_start(trainer, student, SimpleNamespace(epoch=0), step)
        student.losses = {"loss": torch.tensor(loss)}
        log.on_train_batch_end(trainer, student, None, None, step)
    evaluation.fresh = {"loss": 8.0}
    trainer.global_step = 7
    log.on_train_end(trainer, student)
    assert [(row["step"], row.get("heldout_loss")) for row in rows] == [
        (0, 9.0), (2, None), (3, 9.0), (4, None), (6, None), (7, 8.0),
    ]  # fmt: skip
    wanted = [None, (0.1 + 0.7) / 2, 0.2, 0.4, (0.9 + 0.3) / 2, 0.8]
    assert [row.get("train_loss") for row in rows] == [w if w is None else pytest.approx(w, rel=1e-6) for w in wanted]
    assert all(set(row) <= set(log.columns()) for row in rows)
