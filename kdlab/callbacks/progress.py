"""Show the progress of a training."""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl

from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.modules.views import TrainedView
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.progress import ProgressBar


class ProgressCallback(pl.Callback):
    """Shows a progress bar of `total_steps` optimizer steps, headed by `title` (`kdlab.runtime.progress`).

    Beside it the loss, the arm in force and last reward of `selector`, if there is one, and the teacher queries in
    `ledger`.
    """

    def __init__(self, total_steps: int, ledger: Ledger, selector: ArmSelector | None, title: str = "training") -> None:
        self.total_steps, self.ledger, self.selector, self.title = total_steps, ledger, selector, title
        self._bar: ProgressBar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar = ProgressBar(self.title, self.total_steps, "steps", trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.to(trainer.global_step, lambda: self._values(cast(TrainedView, pl_module)))

    def _values(self, module: TrainedView) -> str:
        values: dict[str, Any] = {}
        if "loss" in module.losses:
            values["loss"] = f"{float(module.losses['loss']):.3f}"
        if self.selector is not None and self.selector.arm is not None:
            values["arm"] = self.selector.arm
            if self.selector.last_reward is not None:
                values["reward"] = f"{self.selector.last_reward:+.4f}"
        if module.needs_teacher:
            values["queries"] = self.ledger.queries()
        return "  ".join(f"{name} {value}" for name, value in values.items())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
