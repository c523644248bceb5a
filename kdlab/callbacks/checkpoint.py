"""Save checkpoints during a training, and before it stops at a signal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl

from kdlab.callbacks.checkpoint_schedule import PART, CheckpointSchedule
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.modules.views import TrainedView
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.signals import Stopped
from kdlab.storage import checkpoints
from kdlab.storage.tables import Table


class LedgerState(pl.Callback):
    """Keeps `ledger` in the checkpoints of a training that has no `CostCallback`, and times its loop.

    `spent`: seconds of the training, those before an interruption included. Must come before the checkpoint.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self._began = ledger, ledger.elapsed()
        self._loop = ExitStack()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self.ledger.elapsed() - self._began

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loop.enter_context(self.ledger.time("loop"))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loop.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._loop.close()

    def state_dict(self) -> dict[str, Any]:
        return {"ledger": self.ledger.state_dict(), "began": self._began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ledger.load_state_dict(state_dict["ledger"])
        self._began = state_dict["began"]


class CheckpointCallback(pl.Callback):
    """Saves a checkpoint into `folder` every `every` optimizer steps, or, if None, when rank 0's schedule says it is due.

    It saves after the step and before any evaluation. Before that it calls `before` and flushes `tables` to the disk: a
    checkpoint counts on the rows written before it. When `guard` has read of a signal on any rank, it saves at once and
    raises `Stopped`. Ranks other than 0 read through `guard` that one is due, two steps later. `notify` takes one line if
    checkpoints are further apart than a user might expect.
    """

    FAR = 600.0  # seconds between checkpoints that the user is informed of

    def __init__(
        self,
        folder: Path,
        every: int | None,
        total_steps: int,
        ledger: Ledger,
        guard: NonFiniteGuard,
        tables: Iterable[Table] = (),
        before: Callable[[], None] = lambda: None,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.every, self.total_steps, self.ledger = folder, every, total_steps, ledger
        self.guard, self.tables, self.before, self.notify = guard, tables, before, notify
        self.schedule = CheckpointSchedule(ledger)
        self._informed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.schedule.begin(pl_module.parameters())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = cast(TrainedView, pl_module)
        step, signum = trainer.global_step, self.guard.signum
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step >= self.total_steps:
            return
        if not (self._due(module, step) or signum):
            return
        before = self.ledger.elapsed(PART)
        with self.ledger.time(PART):
            self.before()
            self.guard.read()
            self.guard.check_weights(step)
            for table in self.tables:
                table.sync()
            trainer.save_checkpoint(self.folder / checkpoints.name_of(step))
        self.guard.wants_checkpoint = module.health.wants_checkpoint = False  # after the guard has read the request
        self.schedule.record(self.ledger.elapsed(PART) - before)
        if signum:
            raise Stopped(signum, step)
        if self.every is None and not self._informed and self.schedule.gap > self.FAR:
            self._informed = True
            self.notify(
                f"a checkpoint takes {self.schedule.expected:.0f} s here, so one is written every "
                f"{self.schedule.gap / 60:.0f} minutes; trainer.checkpoint_every= sets a number of steps"
            )

    def _due(self, module: TrainedView, step: int) -> bool:
        """True if all ranks save after this step."""
        if self.every is not None:
            return step % self.every == 0
        due = distributed.rank() == 0 and self.schedule.due()
        if distributed.world() == 1:
            return due
        module.health.wants_checkpoint = due
        return self.guard.wants_checkpoint

    def cost(self, seconds: dict[str, float]) -> dict[str, float]:
        """Number of checkpoints `written`, their `seconds`, and their `share` of a run's `seconds` (of `Ledger.totals`).

        A checkpoint that the run was resumed from is not in them: its ledger was saved before it was written.
        """
        own = seconds.get(PART, 0.0)
        share = own / seconds["total"] if own else 0.0
        return {"written": self.schedule.written, "seconds": own, "share": share}

    @property
    def state_key(self) -> str:
        return "Keep"  # the name of the class in the first checkpoints

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state_dict)
