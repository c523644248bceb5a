"""Evaluate the student on held-out rows during its training (metrics.csv)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytorch_lightning as pl

from kdlab.callbacks.cost import training_seconds
from kdlab.errors import UserError
from kdlab.modules.evaluation import UnfiniteAnswers, over_splits
from kdlab.modules.views import StudentView
from kdlab.runtime.ledger import Ledger
from kdlab.types import Batch

UNTRAINED = "the model that it starts from, the teacher's layers or student.path, gives no finite answer; take another"


class EvaluationCallback(pl.Callback):
    """Evaluates the student on held-out rows every `every` steps, before the step, and after the last one.

    `heldout` returns the splits (`final`: all of their rows, after the last step); `write` takes a row of metrics.csv.
    Columns: step, epoch, train_loss and train_<term> (of the step before, over all ranks), heldout_<score> of each score,
    teacher_queries (of several teachers also queries_<name> of each), flops (of training, so far), seconds (of
    training), lr. `last`: the scores of the last evaluation. UserError for a loss that is not finite.
    """

    def __init__(
        self,
        every: int,
        total_steps: int,
        heldout: Callable[[bool], dict[str, Iterator[Batch]]],
        student: StudentView,
        write: Callable[[dict[str, Any]], None],
        ledger: Ledger,
    ) -> None:
        self.every, self.total_steps = every, total_steps
        self.heldout = heldout
        self.terms, self.scores = list(student.terms), list(student.score_names)
        self.write = write
        self.ledger = ledger
        self.last: dict[str, float] = {}
        names = student.teacher_names
        self.queries = {f"queries_{name}": name for name in names} if len(names) > 1 else {}

    def columns(self) -> list[str]:
        """The columns of metrics.csv for these terms and scores."""
        each = [name for name in self.scores if name != "score"]
        scores = [
            f"heldout_{name}_{split}" if split else f"heldout_{name}" for split in self.heldout(False) for name in each
        ]
        scores += ["heldout_score"] if "score" in self.scores else []
        trained = ["train_loss", *(f"train_{term}" for term in self.terms)]
        return ["step", "epoch", *trained, *scores, "teacher_queries", *self.queries, "flops", "seconds", "lr"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step % self.every == 0:
            self._evaluate(trainer, cast(StudentView, pl_module), batch.epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluate(trainer, cast(StudentView, pl_module), None)

    def _evaluate(self, trainer: pl.Trainer, student: StudentView, epoch: int | None) -> None:
        """Evaluate and write a row; `epoch` None: after the last step."""
        cause = "the training has diverged; try a smaller learning rate" if trainer.global_step else UNTRAINED
        with self.ledger.time("evaluation"):
            try:
                self.last = over_splits(student.evaluate, self.heldout(epoch is None))
            except UnfiniteAnswers as error:
                raise UnfiniteAnswers("the student on held-out rows", cause) from error
        if bad := [name for name, value in self.last.items() if name.startswith("loss") and not math.isfinite(value)]:
            raise UserError(
                f"the student's {bad[0]} on held-out rows is {self.last[bad[0]]} after step {trainer.global_step}: {cause}"
            )
        losses = student.mean_losses()
        totals = self.ledger.totals()
        per_teacher = totals["teacher_queries"]["per_teacher"]
        self.write(
            {
                "step": trainer.global_step,
                "epoch": epoch,
                **{f"train_{name}": value for name, value in losses.items()},
                **{f"heldout_{name}": value for name, value in self.last.items()},
                "teacher_queries": totals["teacher_queries"]["total"],
                **{column: per_teacher.get(name, {}).get("total", 0) for column, name in self.queries.items()},
                "flops": totals["flops"]["total"],
                "seconds": training_seconds(totals["seconds"]),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
        )
