"""Record the decisions of adoption and weighing rules (knowledge.csv)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl
import torch

from kdlab.callbacks.adopt import Adopt
from kdlab.callbacks.weigh import Weigh
from kdlab.modules.views import StudentView


class DecisionLog(pl.Callback):
    """Writes a row of knowledge.csv each optimizer step: the rules' decisions, as means over the global batch.

    Columns: step, the arms of `adopt` and `weigh` if there are any, and `StudentView.decision_columns`. Nothing is read
    from the device before `flush`, which must be called before a checkpoint; it also runs every `every` steps.
    """

    def __init__(
        self, write: Callable[[dict[str, Any]], None], adopt: Adopt | None, weigh: Weigh | None, every: int = 50
    ) -> None:
        self.write, self.every = write, every
        callbacks = {"adopt": adopt, "weigh": weigh}
        self.selectors = {name: one.selector for name, one in callbacks.items() if one is not None}
        self._micro_steps: list[dict[str, torch.Tensor]] = []
        self._rows: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = []

    def columns(self, student: StudentView) -> list[str]:
        """The columns of knowledge.csv for this module."""
        return ["step", *self.selectors, *student.decision_columns(self.selectors.keys())]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._micro_steps.append(dict(cast(StudentView, pl_module).decisions))
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            names = self._micro_steps[0]
            means = {name: torch.stack([values[name] for values in self._micro_steps]).mean(0) for name in names}
            arms = {name: selector.arm for name, selector in self.selectors.items()}
            self._rows.append(({"step": trainer.global_step - 1, **arms}, means))
            self._micro_steps = []
        if len(self._rows) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Write the rows gathered so far."""
        every = [value.double() for _, means in self._rows for value in means.values()]
        values = iter(torch.stack(every).tolist() if every else [])  # one wait for the device
        for row, means in self._rows:
            self.write({**row, **{name: next(values) for name in means}})
        self._rows = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.flush()
