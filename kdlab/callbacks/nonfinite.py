"""The callback that watches a training's numbers: steps that are not finite, losses that jump, signals of any rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from kdlab.errors import UserError
from kdlab.modules.distiller import Distiller
from kdlab.modules.finite_checks import StepReport
from kdlab.runtime import distributed, signals

COLUMNS = ("step", "kind", "loss", "usual", "rows")
LISTED = 64  # rows of a batch that are named
WRITTEN = 1000  # rows of events.csv
SAID = 5  # spikes that get a line of their own
SPIKE = 6.0  # standard deviations above the mean
MEMORY = 0.02  # of the running mean and deviation: about 50 steps


class NonFiniteGuard(pl.Callback):
    """Ends a training, or leaves the step out, when a loss or gradient is not finite on any rank; notes loss spikes.

    Such a step has changed no weight (`kdlab.modules.finite_checks`), and all ranks know of it. `stop` False: it is counted and left
    out, and more than `limit` of them end the training. `write` takes a row of `COLUMNS` for each event, 1,000 at
    most: kind "nonfinite" or "spike" (a loss 6 running standard deviations above its running mean, after 50 steps),
    the step's loss, the running mean, the ids of its rows. Raises `UserError`. Must be the first callback.
    """

    def __init__(
        self,
        stop: bool = True,
        limit: int = 0,
        say: Callable[[str], None] = lambda line: None,
        write: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.stop, self.limit, self.say, self.write = stop, limit, say, write
        self.counts = {"nonfinite": 0, "spike": 0}
        self.steps, self.mean, self.variance = 0, 0.0, 0.0
        self.signum = 0  # what all ranks know of signals
        self.wants_save = False  # whether all ranks know that one wants a checkpoint
        self._module: Distiller | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Distiller)
        self._module = pl_module
        signals.install_handlers()  # Lightning's own handler would send collectives from within a signal
        # nor is there anything to broadcast, and to wait for, in each step of several ranks: `health` tells of signals
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
        self.check_weights(trainer.global_step)
        if signum := int(distributed.all_max(torch.tensor(signals.pending()))):
            raise signals.Stopped(signum)
        signals.raise_pending()  # nothing is saved after the last step

    def read(self, but: int = 0) -> None:
        """Deal with all steps that are not read yet but the newest `but` (collective)."""
        assert self._module is not None
        for found in self._module.health.read(but):
            self.signum = self.signum or found.signum
            self.wants_save = self.wants_save or found.wants_save
            if found.bad_loss or found.bad_gradient:
                self._nonfinite(found)
            else:
                self._follow(found)

    def check_weights(self, step: int) -> None:
        """UserError if a weight is not finite: the checkpoints that are there stay."""
        assert self._module is not None
        named = list(self._module.named_parameters())
        # 20 times cheaper than to look at every number: an extreme is NaN where any number is
        extremes = [torch.stack(torch.aminmax(parameter.detach())) for _, parameter in named]
        finite = torch.stack(extremes).isfinite().all(1).tolist()
        bad = [name for (name, _), good in zip(named, finite, strict=True) if not good]
        if bad:
            raise UserError(
                f"{len(bad)} of {len(named)} weights are not finite after step {step} ({bad[0]} first): "
                "the training has diverged; try a smaller learning rate. Nothing of it is kept"
            )

    def _nonfinite(self, found: StepReport) -> None:
        self.counts["nonfinite"] += 1
        what = "loss" if found.bad_loss else "gradient"
        rows = found.rows()
        self._write(found, "nonfinite", math.nan, rows)
        where = f"the {what} of step {found.step} is not finite; rows of the batch: {_listed(rows, ', ')}"
        if self.stop:
            raise UserError(
                f"{where}. The step changed nothing; a smaller learning rate may help, or look at these rows; "
                "trainer.on_nonfinite=skip leaves such steps out"
            )
        count = self.counts["nonfinite"]
        if count > self.limit:
            raise UserError(f"{where}. It is step {count} of this kind, trainer.nonfinite_limit={self.limit}")
        self.say(f"{where}. Left out, {count} of at most {self.limit}")

    def _follow(self, found: StepReport) -> None:
        loss = found.loss
        deviation = math.sqrt(self.variance)
        usual = self.mean + SPIKE * deviation
        if self.steps >= 1 / MEMORY and loss > usual:
            self.counts["spike"] += 1
            self._write(found, "spike", loss, found.rows())
            if self.counts["spike"] <= SAID:
                self.say(f"the loss of step {found.step} is {loss:.4g}, {self.mean:.4g} is usual (events.csv)")
            loss = usual  # one outlier does not make the next one usual
        self.steps += 1
        share = max(MEMORY, 1 / self.steps)
        apart = loss - self.mean
        self.mean += share * apart
        self.variance = (1 - share) * (self.variance + share * apart * apart)

    def _write(self, found: StepReport, kind: str, loss: float, rows: list[int]) -> None:
        if sum(self.counts.values()) <= WRITTEN:
            usual = self.mean if self.steps else None
            values = {"step": found.step, "kind": kind, "loss": loss, "usual": usual, "rows": _listed(rows, " ")}
            self.write(values)

    @property
    def state_key(self) -> str:
        return "Guard"  # in checkpoints

    def state_dict(self) -> dict[str, Any]:
        running = {"steps": self.steps, "mean": self.mean, "variance": self.variance}
        return {"counts": dict(self.counts), **running}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts = dict(state_dict["counts"])
        self.steps, self.mean = state_dict["steps"], state_dict["mean"]
        self.variance = state_dict["variance"]


def _listed(rows: list[int], between: str) -> str:
    more = f"{between}and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return between.join(map(str, rows[:LISTED])) + more
