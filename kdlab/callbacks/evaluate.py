"""Evaluate the student on held-out rows during its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytorch_lightning as pl

from kdlab.errors import UserError
from kdlab.modules.evaluation import Answers, UnfiniteAnswers, with_answers
from kdlab.modules.views import StudentView
from kdlab.runtime.ledger import Ledger
from kdlab.types import Batch

UNTRAINED = "the model that it starts from, the teacher's layers or student.path, gives no finite answer; take another"


class EvaluationCallback(pl.Callback):
    """Evaluates the student on held-out rows every `every` steps, before the step, and after the last one.

    `heldout` returns the splits (`final`: all of their rows, after the last step). `last`: the scores of the last
    evaluation; `answers`: by split, the answers in it, where a row has one; `fresh`: the scores while `MetricsLog` has
    not written them, else None. UserError for a loss that is not finite.
    """

    def __init__(
        self, every: int, heldout: Callable[[bool], dict[str, Iterator[Batch]]], student: StudentView, ledger: Ledger
    ) -> None:
        self.every, self.heldout, self.ledger = every, heldout, ledger
        self.scores = list(student.score_names)
        self.last: dict[str, float] = {}
        self.fresh: dict[str, float] | None = None
        self.answers: dict[str, Answers] = {}

    def columns(self) -> list[str]:
        """The columns of metrics.csv for the scores."""
        each = [name for name in self.scores if name != "score"]
        scores = [
            f"heldout_{name}_{split}" if split else f"heldout_{name}" for split in self.heldout(False) for name in each
        ]
        return scores + (["heldout_score"] if "score" in self.scores else [])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step % self.every == 0:
            self._evaluate(trainer, cast(StudentView, pl_module), final=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluate(trainer, cast(StudentView, pl_module), final=True)

    def _evaluate(self, trainer: pl.Trainer, student: StudentView, final: bool) -> None:
        """Evaluate (collective); `final`: after the last step."""
        cause = "the training has diverged; try a smaller learning rate" if trainer.global_step else UNTRAINED
        with self.ledger.time("evaluation"):
            try:
                splits = self.heldout(final)
                self.last, self.answers = with_answers(student.evaluate, lambda: student.answers, splits)
                self.fresh = self.last
            except UnfiniteAnswers as error:
                raise UnfiniteAnswers("the student on held-out rows", cause) from error
        if bad := [name for name, value in self.last.items() if name.startswith("loss") and not math.isfinite(value)]:
            raise UserError(
                f"the student's {bad[0]} on held-out rows is {self.last[bad[0]]} after step {trainer.global_step}: {cause}"
            )
