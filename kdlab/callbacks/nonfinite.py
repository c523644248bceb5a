"""Guard a training against steps that are not finite, report loss spikes, and stop at signals of any rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch.distributed.tensor import DTensor

from kdlab.errors import UserError
from kdlab.models.sharding.trained import own_part
from kdlab.modules.views import StepReport, TrainedView
from kdlab.runtime import distributed, signals

COLUMNS = ("step", "kind", "loss", "usual", "rows")  # of events.csv
MAX_ROWS_LISTED = 64  # row ids in one event
MAX_EVENTS = 1000  # rows of events.csv
MAX_SPIKE_LINES = 5  # spikes that are printed
SPIKE = 6.0  # standard deviations above the mean
MEMORY = 0.02  # of the running mean and deviation: about 50 steps


class NonFiniteGuard(pl.Callback):
    """Stops a training, or skips the step, when a loss or gradient is not finite on any rank; reports loss spikes.

    Such a step has changed no weight (`kdlab.modules.finite_checks`), and all ranks read of it. With `stop` False it is
    counted and skipped, and more than `limit` of them stop the training. `write` takes a row of `COLUMNS` for each event,
    1,000 at most: kind "nonfinite" or "spike" (a loss 6 running standard deviations above its running mean, after 50
    steps), the step's loss, the running mean, the ids of its rows; `notify` a line for the user. `signum`: the signal that
    all ranks have read of, or 0; `wants_checkpoint`: all ranks have read that one requests a checkpoint. UserError when
    it stops. Must be the first callback; its module must be a `TrainedView`.
    """

    def __init__(
        self,
        stop: bool = True,
        limit: int = 0,
        notify: Callable[[str], None] = lambda line: None,
        write: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.stop, self.limit, self.notify, self.write = stop, limit, notify, write
        self.counts = {"nonfinite": 0, "spike": 0}
        self.steps, self.mean, self.variance = 0, 0.0, 0.0
        self.signum = 0
        self.wants_checkpoint = False
        self._cause = ""  # of the last step that was left out
        self._module: TrainedView | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._module = cast(TrainedView, pl_module)
        signals.install_handlers()  # Lightning's own handler would run collectives inside a signal handler
        # the step reports carry signals, so several ranks need no broadcast of SIGTERM, and no wait for it, in each step
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.read(1)
            if distributed.world() == 1:
                self.signum = signals.pending()
            if not signals.deferring():
                signals.raise_pending()  # where the exception was swallowed, as those in a weak reference's callback are

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.read()
        self._check_any_step()
        self.check_weights(trainer.global_step)
        if signum := int(distributed.all_max(torch.tensor(signals.pending()))):
            raise signals.Stopped(signum)
        signals.raise_pending()  # nothing is saved after the last step

    def read(self, but: int = 0) -> None:
        """Handle the reports of all steps not read yet, without the newest `but` (collective)."""
        assert self._module is not None
        for report in self._module.health.read(but):
            self.signum = self.signum or report.signum
            self.wants_checkpoint = self.wants_checkpoint or report.wants_checkpoint
            if report.bad_loss or report.bad_gradient:
                self._nonfinite(report)
            else:
                self._finite(report)

    def check_weights(self, step: int) -> None:
        """UserError if a weight is not finite, so that existing checkpoints stay (collective for a sharded student)."""
        assert self._module is not None
        named = list(self._module.named_parameters())
        parts = [own_part(parameter.detach()) for _, parameter in named]
        # 20 times cheaper than isfinite of every number: an extreme is NaN where any number is
        extremes = [torch.stack(torch.aminmax(part)) if part.numel() else part.new_zeros(2) for part in parts]
        damaged = ~torch.stack(extremes).isfinite().all(1)
        if any(isinstance(parameter, DTensor) for _, parameter in named):
            damaged = distributed.all_max(damaged.int())
        bad = [name for (name, _), found in zip(named, damaged.tolist(), strict=True) if found]
        if bad:
            raise UserError(
                f"{len(bad)} of {len(named)} weights are not finite after step {step} ({bad[0]} first): "
                "the training has diverged; try a smaller learning rate. Nothing of it is kept"
            )

    def _check_any_step(self) -> None:
        """UserError if every step of the training was left out."""
        left_out = self.counts["nonfinite"]
        if left_out and not self.steps:
            raise UserError(
                f"the loss or gradient of all {left_out} steps is not finite, and the student is as it was initialised"
                f"{self._cause and ': '}{self._cause}; events.csv lists the rows"
            )

    def _nonfinite(self, report: StepReport) -> None:
        self.counts["nonfinite"] += 1
        what = "loss" if report.bad_loss else "gradient"
        rows = report.rows()
        self._write(report, "nonfinite", math.nan, rows)
        where = f"the {what} of step {report.step} is not finite; rows of the batch: {_listed(rows, ', ')}"
        cause = self._cause = _cause(report.teachers)
        if self.stop:
            advice = cause or "a smaller learning rate may help, or look at these rows"
            raise UserError(
                f"{where}. The step changed nothing; {advice}; trainer.on_nonfinite=skip leaves such steps out"
            )
        count, because = self.counts["nonfinite"], f": {cause}" if cause else ""
        if count > self.limit:
            raise UserError(f"{where}{because}. It is step {count} of this kind, trainer.nonfinite_limit={self.limit}")
        self.notify(f"{where}{because}. Left out, {count} of at most {self.limit}")

    def _finite(self, report: StepReport) -> None:
        """Update the running mean and variance by a step's loss; report it if it is a spike."""
        loss = report.loss
        deviation = math.sqrt(self.variance)
        bound = self.mean + SPIKE * deviation
        if self.steps >= 1 / MEMORY and loss > bound:
            self.counts["spike"] += 1
            self._write(report, "spike", loss, report.rows())
            if self.counts["spike"] <= MAX_SPIKE_LINES:
                self.notify(f"the loss of step {report.step} is {loss:.4g}, {self.mean:.4g} is usual (events.csv)")
            loss = bound  # one outlier does not make the next one usual
        self.steps += 1
        share = max(MEMORY, 1 / self.steps)
        apart = loss - self.mean
        self.mean += share * apart
        self.variance = (1 - share) * (self.variance + share * apart * apart)

    def _write(self, report: StepReport, kind: str, loss: float, rows: list[int]) -> None:
        if sum(self.counts.values()) <= MAX_EVENTS:
            usual = self.mean if self.steps else None
            values = {"step": report.step, "kind": kind, "loss": loss, "usual": usual, "rows": _listed(rows, " ")}
            self.write(values)

    @property
    def state_key(self) -> str:
        return "Guard"  # the name of the class in the first checkpoints

    def state_dict(self) -> dict[str, Any]:
        running = {"steps": self.steps, "mean": self.mean, "variance": self.variance}
        return {"counts": dict(self.counts), **running}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts = dict(state_dict["counts"])
        self.steps, self.mean = state_dict["steps"], state_dict["mean"]
        self.variance = state_dict["variance"]


def _cause(teachers: Sequence[str]) -> str:
    """A clause that names teachers whose answers are not finite; "" without any."""
    if not teachers:
        return ""
    return (
        f"the answers of the teacher{'s' * (len(teachers) > 1)} {', '.join(teachers)} are not finite, and it learns nothing "
        "from them: take another teacher, or trainer.precision=32-true where a lower one overflows"
    )


def _listed(rows: list[int], between: str) -> str:
    """The first row ids in words, and the number of the others."""
    more = f"{between}and {len(rows) - MAX_ROWS_LISTED} more" if len(rows) > MAX_ROWS_LISTED else ""
    return between.join(map(str, rows[:MAX_ROWS_LISTED])) + more
