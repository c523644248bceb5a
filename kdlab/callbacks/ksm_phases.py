"""Train a knowledge selection module while a student trains: an episode, with a reward at the end of every phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch

from kdlab.errors import UserError
from kdlab.methods.ksm.module import KSM
from kdlab.modules.views import StudentView


def columns(ksm: KSM) -> list[str]:
    """The columns of the rows that `KSMPhases` writes."""
    weights = [f"weight_{term}" for term in ksm.terms]
    return ["step", "measured", "reward", *weights, "phase_error", "exploration_error", "objective"]


class KSMPhases(pl.Callback):
    """Trains `ksm` during one training of a student: every `length` optimizer steps its reward is the decrease of a loss.

    KSM (Wang et al. 2023), section 5.3.3. `measure` returns a number that should fall (the loss, or minus a score) on rows
    that are not trained on. The last phase may be shorter than `length`. `rows` gets a row a phase, which begins with the
    values `given`: step, `measured` at its end, reward, the mean weight of each term, and the losses of the update that learnt
    from it (`KSM.learn`). Checkpoints have these rows, and the state of `ksm`. UserError for a measure that is not finite.
    """

    def __init__(
        self,
        ksm: KSM,
        length: int,
        total_steps: int,
        measure: Callable[[], float],
        rows: list[dict[str, Any]],
        given: Mapping[str, Any],
    ) -> None:
        self.ksm, self.length, self.total_steps = ksm, length, total_steps
        self.measure, self.rows, self.given = measure, rows, given
        self._before = 0.0
        self._weights: list[dict[str, torch.Tensor]] = []
        self._pending: list[dict[str, Any]] = []  # rows of phases that the module has not learnt from yet

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:  # not resumed
            self.ksm.begin_episode()
            self._before = self.measure()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._weights.append(dict(cast(StudentView, pl_module).decisions))
        step = trainer.global_step
        last = step == self.total_steps
        if (batch_idx + 1) % trainer.accumulate_grad_batches or (step % self.length and not last):
            return
        after = self.measure()
        if not math.isfinite(after):
            raise UserError(f"what rewards the module is {after} at step {step}: the student has diverged")
        reward, self._before = self._before - after, after
        names = [f"weight_{term}" for term in self.ksm.terms]
        means = {name: float(torch.stack([weights[name] for weights in self._weights]).mean()) for name in names}
        self._weights = []
        self._pending.append({"step": step, "measured": after, "reward": reward, **means})
        for update in self.ksm.learn(reward, last=last):
            values = {name: update[name] for name in columns(self.ksm) if name in update and name != "reward"}
            self.rows.append({**self.given, **self._pending.pop(0), **values})

    def state_dict(self) -> dict[str, Any]:
        names = ("before", "weights", "pending")
        return {**{name: getattr(self, f"_{name}") for name in names}, "rows": self.rows, "ksm": self.ksm.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["before"]
        self._weights, self._pending = list(state_dict["weights"]), list(state_dict["pending"])
        self.rows[:] = state_dict["rows"]
        self.ksm.load_state_dict(state_dict["ksm"])
