"""The callback that records the decisions of adoption and weighing rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from kdlab.callbacks.adopt import Adopt
from kdlab.callbacks.weigh import Weigh
from kdlab.modules.distiller import Distiller


class DecisionLog(pl.Callback):
    """Writes a row of knowledge.csv each optimizer step: what the rules decided, as means over the global batch.

    Columns: step, the arms of `adopt` and `weigh` where there are any, and `Rules.columns`. Nothing is read from
    the device before `flush`, which the table's owner calls before a checkpoint, or `every` steps have gathered.
    """

    def __init__(
        self, write: Callable[[dict[str, Any]], None], adopt: Adopt | None, weigh: Weigh | None, every: int = 50
    ) -> None:
        self.write, self.every = write, every
        self.choosers = {name: one.chooser for name, one in (("adopt", adopt), ("weigh", weigh)) if one is not None}
        self._micro: list[dict[str, torch.Tensor]] = []
        self._rows: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = []

    def columns(self, module: Distiller) -> list[str]:
        """The columns of knowledge.csv for this module."""
        return ["step", *self.choosers, *module.rules.columns(self.choosers.keys())]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distiller)
        self._micro.append(pl_module.rules.decided)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            means = {name: torch.stack([m[name] for m in self._micro]).mean(0) for name in self._micro[0]}
            arms = {name: chooser.arm for name, chooser in self.choosers.items()}
            self._rows.append(({"step": trainer.global_step - 1, **arms}, means))
            self._micro = []
        if len(self._rows) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Write the rows gathered so far."""
        for row, means in self._rows:
            self.write({**row, **{name: float(value) for name, value in means.items()}})
        self._rows = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.flush()
