"""The observation of an adaptive policy (AdaDS Eq. 11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytorch_lightning as pl
import torch

from kdlab.modules.views import StudentView
from kdlab.runtime import distributed
from kdlab.types import Batch


class LossObserver:
    """The student's loss on M rows of the training set, drawn once: the observation of an adaptive policy (AdaDS Eq. 11).

    `module` must be a `StudentView`. `batches` returns this rank's share of the rows. `kd` False: the task's own loss,
    without a teacher. True: the whole distillation loss; the teacher is queried once for all rows (M queries, counted),
    and its answers are stored.
    """

    def __init__(self, module: pl.LightningModule, batches: Callable[[], Iterable[Batch]], kd: bool = False) -> None:
        self.module = module
        self.batches = batches
        self.kd = kd
        self._rows: list[Batch] | None = None
        self._answers: list[Any] = []

    def __call__(self) -> float:
        """Mean loss in nats over the rows of all ranks, in eval mode, without gradient (collective)."""
        student = cast(StudentView, self.module)
        with student.timed("observation"):
            if self._rows is None:
                self._rows = [batch.to(student.device) for batch in self.batches()]
                if self.kd:
                    self._query(student, self._rows)
            if self.kd:
                return student.distillation_loss(zip(self._rows, self._answers, strict=True), part="observation")
            return student.evaluate(self._rows, part="observation")["loss"]

    def objective(self) -> list[str]:
        """The terms whose loss is observed now; empty for the task's own loss, which is the same throughout."""
        student = cast(StudentView, self.module)
        active = [name for name, w in student.terms.items() if w.since <= student.progress < w.until]
        return active if self.kd else []

    def _query(self, student: StudentView, rows: list[Batch]) -> None:
        most = int(distributed.all_max(torch.tensor(len(rows))))
        # the first observation is at step 0; a resumed run repeats queries that are counted already
        first = self.module.trainer.global_step == 0
        self._answers = [student.query_teachers(batch, count=first) for batch in rows]
        for _ in range(most - len(rows)):
            student.catch_up()
