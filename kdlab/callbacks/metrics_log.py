"""Write the lines of metrics.csv: running means of the training, and the scores of evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl

from kdlab.callbacks.cost import training_seconds
from kdlab.callbacks.evaluate import EvaluationCallback
from kdlab.callbacks.running_means import RunningMeans
from kdlab.modules.views import StudentView
from kdlab.runtime.ledger import Ledger


class MetricsLog(pl.Callback):
    """Writes a line every `every` optimizer steps, at each evaluation, both before the step, and after the last step.

    Columns: step, epoch; train_loss and train_<term>, means over the micro-batches since the last line and all ranks; rows
    that the loss read, a mean over these optimizer steps; heldout_<score> of each score, where `evaluation` evaluated
    before this step; teacher_queries (of several teachers also queries_<name> of each), flops (of training, so far),
    seconds (of training), lr. `write` takes a line. Must come after `evaluation`.
    """

    def __init__(
        self,
        every: int,
        evaluation: EvaluationCallback,
        student: StudentView,
        write: Callable[[dict[str, Any]], None],
        ledger: Ledger,
    ) -> None:
        self.every, self.evaluation, self.write, self.ledger = every, evaluation, write, ledger
        self.terms = list(student.terms)
        names = student.teacher_names
        self.queries = {f"queries_{name}": name for name in names} if len(names) > 1 else {}
        self.means = RunningMeans()

    def columns(self) -> list[str]:
        """The columns of metrics.csv for these terms and scores."""
        trained = ["train_loss", *(f"train_{term}" for term in self.terms), "rows"]
        scores = self.evaluation.columns()
        return ["step", "epoch", *trained, *scores, "teacher_queries", *self.queries, "flops", "seconds", "lr"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and (trainer.global_step % self.every == 0 or self.evaluation.fresh is not None):
            self._line(trainer, batch.epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = cast(StudentView, pl_module)
        self.means.note(module.losses, module.trained_rows, (batch_idx + 1) % trainer.accumulate_grad_batches == 0)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._line(trainer, None)

    def _line(self, trainer: pl.Trainer, epoch: int | None) -> None:
        """Write a line (collective); `epoch` None: after the last step."""
        means, spent = self.means.means(), self.ledger.so_far()
        self.means.clear()
        rows = {"rows": means.pop("rows")} if "rows" in means else {}
        scores, self.evaluation.fresh = self.evaluation.fresh or {}, None
        self.write(
            {
                "step": trainer.global_step,
                "epoch": epoch,
                **{f"train_{name}": value for name, value in means.items()},
                **rows,
                **{f"heldout_{name}": value for name, value in scores.items()},
                "teacher_queries": sum(spent["queries"].values()),
                **{column: spent["queries"].get(name, 0) for column, name in self.queries.items()},
                "flops": spent["flops"],
                "seconds": training_seconds(spent["seconds"]),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
        )

    @property
    def state_key(self) -> str:
        return "MetricsLog"

    def state_dict(self) -> dict[str, Any]:
        return self.means.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.means.load_state_dict(state_dict)
