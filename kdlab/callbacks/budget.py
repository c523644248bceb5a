"""End a training before a step that could exceed its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl

from kdlab.callbacks.cost import training_seconds
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger

# steps from the budget at which the cost of the next one is not computed: of the mean cost, or of the first step's if larger
FAR = 20


class BudgetGuard(pl.Callback):
    """Stops the training, on all ranks at the same step, where the next step could bring its cost over a budget.

    `limits`: the budget by kind ("queries", "flops", "seconds", "price"); `most` returns what a step costs at most, by
    "queries" and "flops"; of seconds it is the mean so far. `price` turns queries and seconds into money. The decision
    follows from the ledger alone, so a resumed training ends at the same step; seconds differ from run to run.
    `stopped_by`: the kind of budget that ended it (None: none).
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        most: Callable[[int], Mapping[str, float]],
        price: Callable[[float, float], float],
        ledger: Ledger,
        total_steps: int,
    ) -> None:
        self.limits, self.most, self.price = dict(limits), most, price
        self.ledger, self.total_steps = ledger, total_steps
        self.stopped_by: str | None = None
        self._next = 0  # the step before which the costs are summed over ranks again
        self._first: Mapping[str, float] = {}  # most that the first step costs, which observes if any step does

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._next, self._first = trainer.global_step, self.most(0)
        self._check(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and trainer.global_step >= self._next:
            self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        """Stop the training, or set the step of the next check (collective)."""
        step = trainer.global_step
        if step >= self.total_steps:
            return
        sums = self.ledger.so_far()
        spent = {
            "queries": float(sum(sums["queries"].values())),
            "flops": float(sums["flops"]),
            "seconds": training_seconds(sums["seconds"]),
        }
        mean = {kind: amount / max(1, step) for kind, amount in spent.items()}
        left = self._left(spent)
        large = self._priced({kind: max(each, self._first.get(kind, 0.0)) for kind, each in mean.items()})
        steps_left = min(left[kind] / each if (each := large[kind]) else FAR + 1 for kind in left)
        if step and steps_left > FAR:
            # ranks sum up their costs rarely, and twice as often as the costliest steps could need
            self._next = step + (1 if distributed.world() == 1 else max(1, min(50, int(steps_left / 8))))
            return
        self._next = step + 1
        coming = self._priced({**self.most(step), "seconds": mean["seconds"]})
        over = [kind for kind, amount in left.items() if coming[kind] > amount]
        if over:
            self.stopped_by = over[0]
            trainer.should_stop = True

    def _priced(self, costs: Mapping[str, float]) -> dict[str, float]:
        return {**costs, "price": self.price(costs["queries"], costs["seconds"])}

    def _left(self, spent: Mapping[str, float]) -> dict[str, float]:
        priced = self._priced(spent)
        return {kind: limit - priced[kind] for kind, limit in self.limits.items()}
