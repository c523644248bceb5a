"""The callback that shows the progress of a training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from kdlab.callbacks.decision import ArmSelector
from kdlab.modules.distiller import Distiller
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.progress import ProgressBar


class ProgressCallback(pl.Callback):
    """Tells how far the training is (`kdlab.runtime.progress`), with its loss, current arm, last reward and teacher queries."""

    def __init__(self, total_steps: int, ledger: Ledger, chooser: ArmSelector | None, what: str = "training") -> None:
        self.total_steps, self.ledger, self.chooser, self.what = total_steps, ledger, chooser, what
        self._told: ProgressBar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._told = ProgressBar(self.what, self.total_steps, "steps", trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._told is not None:
            self._told.to(trainer.global_step, lambda: self._more(pl_module))

    def _more(self, module: pl.LightningModule) -> str:
        assert isinstance(module, Distiller)
        shown: dict[str, Any] = {}
        if "loss" in module.report:
            shown["loss"] = f"{float(module.report['loss']):.3f}"
        if self.chooser is not None and self.chooser.arm is not None:
            shown["arm"] = self.chooser.arm
            if self.chooser.last_reward is not None:
                shown["reward"] = f"{self.chooser.last_reward:+.4f}"
        if module.needs_teacher:
            shown["queries"] = self.ledger.queries()
        return "  ".join(f"{name} {value}" for name, value in shown.items())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._told is not None:
            self._told.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._told is not None:
            self._told.close()
