"""Record during a training which rows each strategy would select (Dynamic KD, Fig. 4; selected.csv)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import pytorch_lightning as pl

from kdlab.methods.selection.strategies import Strategy
from kdlab.modules.row_pool import join_pools, row_pool, selection_rows
from kdlab.modules.views import StudentView
from kdlab.runtime import distributed
from kdlab.types import Batch

COLUMNS = ("step", "strategy", "distance", "rows")  # of selected.csv


class SelectionTrace(pl.Callback):
    """Writes rows of selected.csv (`COLUMNS`) every `every` optimizer steps, before the step, and after the last one.

    The student encodes a pool of labelled training rows, the same each time (`batches` returns this rank's share). For
    each of `strategies` it records the rows kept at `ratio` and their distance from their class's centre; once more for
    all rows. No teacher is queried, and the ledger counts only seconds of evaluation: `python -m kdlab.analyse selected`
    queries the teacher for its entropy of these rows after the run. The trained weights are the same bit for bit.
    """

    def __init__(
        self,
        every: int,
        batches: Callable[[], Iterable[Batch]],
        strategies: Mapping[str, Strategy],
        ratio: float,
        total_steps: int,
        seed: int,
        write: Callable[[dict[str, Any]], None],
    ) -> None:
        self.every, self.ratio, self.total_steps, self.seed = every, ratio, total_steps, seed
        self.batches = batches
        self.strategies = dict(strategies)
        self.write = write

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step % self.every == 0:
            self._trace(trainer.global_step, cast(StudentView, pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trace(trainer.global_step, cast(StudentView, pl_module))

    def _trace(self, step: int, student: StudentView) -> None:
        with student.timed("evaluation"):
            batches = list(self.batches())
            with student.inference_mode():
                own = [row_pool(student.student, batches, student.device)] if batches else []
            pool = join_pools([share for shares in distributed.gather_objects(own) for share in shares])
            progress = step / self.total_steps
            for row in selection_rows(pool, self.strategies, self.ratio, step, progress, self.seed):
                self.write(row)
