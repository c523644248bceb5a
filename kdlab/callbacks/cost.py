"""Record the cost of a training in the ledger, and the cost that distillation on all rows would have."""

from __future__ import annotations

import contextlib
import time
from typing import Any, cast

import pytorch_lightning as pl
import torch

from kdlab.callbacks.checkpoint_schedule import PART
from kdlab.models.batch_counts import counts_of
from kdlab.models.sharding.trained import is_sharded
from kdlab.modules.views import StudentView
from kdlab.runtime.ledger import Ledger
from kdlab.types import Batch


class CostCallback(pl.Callback):
    """Records in `ledger` the seconds of backward, optimizer and loop, and the FLOPs of all-data distillation.

    At `probes` steps, evenly spread over `total_steps`, the whole batch runs through the plain distillation step as well
    (forward, teacher, backward; no update) and is timed: the comparison of wall-clock is measured in the same run, on
    the same machine, under the same load. `probe_seconds`: their seconds an optimizer step. Must come before `Select`.
    """

    def __init__(self, ledger: Ledger, total_steps: int, probes: int) -> None:
        self.ledger = ledger
        self.probe_steps = {round((i + 0.5) * total_steps / probes) for i in range(probes)} if probes else set()
        self.probe_seconds: list[float] = []
        self._open: dict[str, contextlib.AbstractContextManager[None]] = {}

    def _start(self, part: str) -> None:
        self._open[part] = self.ledger.time(part)
        self._open[part].__enter__()

    def _stop(self, part: str) -> None:
        if part in self._open:
            self._open.pop(part).__exit__(None, None, None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start("loop")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        module = cast(StudentView, pl_module)
        module.begin_queries(batch_idx)
        student, teacher = module.plain_flops(batch)
        counts = counts_of(batch)
        self.ledger.all_data(student + teacher, counts.real, counts.positions)
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step in self.probe_steps and module.needs_teacher:
            with self.ledger.time("probe"):
                self.probe_seconds.append(self._probe(trainer, module, batch))

    def _probe(self, trainer: pl.Trainer, module: StudentView, batch: Batch) -> float:
        """Seconds of an optimizer step of plain distillation on batches like `batch`."""
        started = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            loss = module.loss(batch, local=True)
        if is_sharded(module.student):
            loss.backward()  # layers are gathered and reduced in it, on all ranks alike
            for _, parameter in module.named_parameters():
                parameter.grad = None  # what a step has left is not read again: its loop sets it to zero first
        else:  # not backward(): under DDP its hooks would start to reduce
            parameters = [p for _, p in module.named_parameters() if p.requires_grad]
            torch.autograd.grad(loss, parameters, allow_unused=True)
        if loss.is_cuda:
            torch.cuda.synchronize()
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
        return "Account"  # the name of the class in the first checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {"ledger": self.ledger.state_dict(), "probe_seconds": list(self.probe_seconds)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ledger.load_state_dict(state_dict["ledger"])
        self.probe_seconds = list(state_dict["probe_seconds"])


NOT_TRAINING = ("evaluation", "probe", PART)


def training_seconds(seconds: dict[str, float]) -> float:
    """Seconds of the training itself: without evaluations, checkpoints and probes of all-data distillation."""
    return seconds.get("total", 0.0) - sum(seconds.get(part, 0.0) for part in NOT_TRAINING)
