"""The callback that ends a training at its budget: on one rank and several, by queries, FLOPs, seconds and price."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kdlab.callbacks.budget import BudgetGuard
from kdlab.runtime import distributed

STEPS = 2000


class Sums:
    """The ledger's sums over all ranks: 4 queries and 1e6 FLOPs a step, and 100 times the FLOPs in every 50th."""

    def __init__(self) -> None:
        self.step, self.asked, self.seconds = 0, 0, 0.5

    def flops(self, steps: int) -> float:
        return 1e6 * (steps + 99 * -(-steps // 50))

    def so_far(self) -> dict[str, Any]:
        self.asked += 1
        return {
            "queries": {"teacher": 4 * self.step},
            "flops": self.flops(self.step),
            "seconds": {"total": self.seconds * self.step},
        }

    def most(self, step: int) -> dict[str, float]:
        return {"queries": 4.0, "flops": 1e8 if step % 50 == 0 else 1e6}


def trained(limits: dict[str, float], start: int = 0) -> tuple[Sums, BudgetGuard]:
    """Take steps from `start` on until the guard ends them, as Lightning calls it."""
    sums = Sums()
    guard = BudgetGuard(limits, sums.most, lambda queries, seconds: 2 * queries + seconds, sums, STEPS)  # pyright: ignore
    trainer: Any = SimpleNamespace(global_step=start, should_stop=False, accumulate_grad_batches=1)
    sums.step = start
    guard.on_train_start(trainer, None)  # pyright: ignore
    while not trainer.should_stop and trainer.global_step < STEPS:
        trainer.global_step += 1
        sums.step = trainer.global_step
        guard.on_train_batch_end(trainer, None, None, None, trainer.global_step - 1)  # pyright: ignore
    return sums, guard


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(
    ("limits", "steps", "kind"),
    [
        ({"queries": 1003.0}, 250, "queries"),
        ({"flops": 1.25e9}, None, "flops"),  # ends before a large step
        ({"seconds": 100.2}, 200, "seconds"),
        ({"price": 1701.0}, 200, "price"),  # 8 of queries and 0.5 of time a step
        ({"queries": 1003.0, "seconds": 100.2}, 200, "seconds"),
    ],
)
def test_a_training_ends_at_the_last_step_that_a_budget_allows(world, limits, steps, kind, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: world)
    sums, guard = trained(limits)
    assert guard.stopped_by == kind
    if steps is None:
        assert sums.flops(sums.step) <= limits["flops"] < sums.flops(sums.step + 1)
    else:
        assert sums.step == steps
    resumed, again = trained(limits, start=sums.step // 2)
    assert resumed.step == sums.step and again.stopped_by == kind  # the decision follows from the ledger alone


def test_several_ranks_sum_their_costs_rarely_until_the_budget_is_near(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    sums, _ = trained({"queries": 4000.0})
    assert sums.step == 1000 and sums.asked < 120
