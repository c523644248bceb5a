"""The callback that saves checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from kdlab.callbacks.checkpoint_schedule import PART, TIMES, CheckpointSchedule
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.modules.distiller import Distiller
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.signals import Stopped
from kdlab.storage import checkpoints
from kdlab.storage.tables import Table


class CheckpointCallback(pl.Callback):
    """Saves a checkpoint into `folder` every `every` optimizer steps, or, where that is None, when one is due by the first
    rank's `CheckpointSchedule`; after the step and before any evaluation.

    The tables are flushed to the disk first (`before` is called before that): a checkpoint counts on the rows written
    before it. Where `guard` has heard of a signal, on any rank, it saves at once and raises `Stopped`. Ranks other than
    the first hear through `guard` that one is due, two steps later.
    """

    FAR = 600.0  # seconds: checkpoints that lie further apart than a user might think are told of

    def __init__(
        self,
        folder: Path,
        every: int | None,
        total_steps: int,
        ledger: Ledger,
        guard: NonFiniteGuard,
        tables: Iterable[Table] = (),
        before: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.every, self.total_steps, self.ledger = folder, every, total_steps, ledger
        self.guard, self.tables, self.before, self.say = guard, tables, before, say
        self.cadence = CheckpointSchedule(ledger)
        self._told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.cadence.begin(pl_module.parameters())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distiller)
        step, signum = trainer.global_step, self.guard.signum
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step >= self.total_steps:
            return
        if not (self._due(pl_module, step) or signum):
            return
        before = self.ledger.elapsed(PART)
        with self.ledger.time(PART):
            self.before()
            self.guard.read()
            self.guard.check_weights(step)
            for table in self.tables:
                table.sync()
            trainer.save_checkpoint(self.folder / checkpoints.name_of(step))
        self.guard.wants_save = pl_module.health.wants_save = False  # after the guard has read of the wish
        self.cadence.wrote(self.ledger.elapsed(PART) - before)
        if signum:
            raise Stopped(signum, step)
        if self.every is None and not self._told and TIMES * self.cadence.expected > self.FAR:
            self._told = True
            apart = TIMES * self.cadence.expected / 60
            self.say(
                f"a checkpoint takes {self.cadence.expected:.0f} s here, so one is written every {apart:.0f} minutes; "
                "trainer.checkpoint_every= sets a number of steps"
            )

    def _due(self, module: Distiller, step: int) -> bool:
        if self.every is not None:
            return step % self.every == 0
        wanted = distributed.rank() == 0 and self.cadence.due()
        if distributed.world() == 1:
            return wanted
        module.health.wants_save = wanted
        return self.guard.wants_save

    def took(self, seconds: dict[str, float]) -> dict[str, float]:
        """How many were written, and which share of a run's `seconds` (as of `Ledger.totals`) that took. One that a run
        has gone on from is in neither: the ledger in it was written before it was."""
        spent = seconds.get(PART, 0.0)
        share = spent / seconds["total"] if spent else 0.0
        return {"written": self.cadence.written, "seconds": spent, "share": share}

    @property
    def state_key(self) -> str:
        return "Keep"  # in checkpoints

    def state_dict(self) -> dict[str, Any]:
        return self.cadence.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.cadence.load_state_dict(state_dict)
