"""The callback that keeps the ledger of a training: seconds, FLOPs, and the cost of distilling on all rows."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytorch_lightning as pl
import torch

from kdlab.callbacks.checkpoint_schedule import PART
from kdlab.modules.distiller import Distiller
from kdlab.runtime.ledger import Ledger
from kdlab.types import Batch


class CostCallback(pl.Callback):
    """Keeps the ledger: seconds of the parts the distiller cannot time itself, and what all-data training would cost.

    At `probes` steps, evenly spread over `total_steps`, the whole batch is put through the plain distillation step as
    well (forward, teacher, backward; no update) and timed, so that the comparison in wall-clock is measured in the
    same run, on the same machine, under the same load. Must come before `Select`.
    """

    def __init__(self, ledger: Ledger, total_steps: int, probes: int) -> None:
        self.ledger = ledger
        self.probe_steps = {round((i + 0.5) * total_steps / probes) for i in range(probes)} if probes else set()
        self.probe_seconds: list[float] = []
        self._open: dict[str, contextlib.ExitStack] = {}

    def _start(self, part: str) -> None:
        self._open[part] = contextlib.ExitStack()
        self._open[part].enter_context(self.ledger.time(part))

    def _stop(self, part: str) -> None:
        if part in self._open:
            self._open.pop(part).close()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start("loop")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distiller)
        pl_module.hearing.begins(batch_idx)
        student, teacher = pl_module.cost(batch)
        self.ledger.all_data(3 * student + teacher, int(batch.real.sum()))
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step in self.probe_steps and pl_module.needs_teacher:
            with self.ledger.time("probe"):
                self.probe_seconds.append(self._probe(trainer, pl_module, batch))

    def _probe(self, trainer: pl.Trainer, module: Distiller, batch: Batch) -> float:
        started = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            loss = module.loss(batch, alone=True)
        # not backward(): under DDP its hooks would start to reduce
        grads = torch.autograd.grad(loss, [p for p in module.parameters() if p.requires_grad], allow_unused=True)
        if loss.is_cuda:
            torch.cuda.synchronize()
        del grads
        return (time.perf_counter() - started) * trainer.accumulate_grad_batches

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self._start("student_backward")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop("student_backward")

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._start("optimizer")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._stop("optimizer")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop("loop")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        for part in list(self._open)[::-1]:
            self._stop(part)

    @property
    def state_key(self) -> str:
        return "Account"  # in checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {"ledger": self.ledger.state_dict(), "probe_seconds": list(self.probe_seconds)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ledger.load_state_dict(state_dict["ledger"])
        self.probe_seconds = list(state_dict["probe_seconds"])


NOT_TRAINING = ("evaluation", "probe", PART)


def training_seconds(seconds: dict[str, float]) -> float:
    """Wall-clock of the training itself: without evaluations, checkpoints and the all-data probes."""
    return seconds.get("total", 0.0) - sum(seconds.get(part, 0.0) for part in NOT_TRAINING)
