"""A student's training as an episode of a module that learns to weigh: a reward at the end of every phase."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from kdlab.errors import UserError
from kdlab.methods.ksm.module import KSM
from kdlab.modules.distiller import Distiller


def columns(ksm: KSM) -> list[str]:
    """The columns of the rows that `KSMPhases` writes."""
    weights = [f"weight_{term}" for term in ksm.terms]
    return ["step", "measured", "reward", *weights, "phase_error", "exploration_error", "objective"]


class KSMPhases(pl.Callback):
    """Teaches `ksm` while a student learns: every `length` optimizer steps it is told how far the loss has fallen.

    KSM (Wang et al. 2023), section 5.3.3. `measure` gives a number that should fall (the loss, or minus a score) of rows
    that are not trained on. A last phase may be shorter. `write` takes a row a phase: step, `measured` at its end,
    reward, the mean weight of each term, and what the module says of what it learnt from it (`KSM.learn`).
    """

    def __init__(
        self,
        ksm: KSM,
        length: int,
        total_steps: int,
        measure: Callable[[], float],
        write: Callable[[dict[str, Any]], None],
    ) -> None:
        self.ksm, self.length, self.total_steps = ksm, length, total_steps
        self.measure, self.write = measure, write
        self.before = 0.0
        self._weights: list[dict[str, torch.Tensor]] = []
        self._unlearnt: list[dict[str, Any]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ksm.begin_episode()
        self.before = self.measure()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distiller)
        self._weights.append(pl_module.rules.decided)
        step = trainer.global_step
        last = step == self.total_steps
        if (batch_idx + 1) % trainer.accumulate_grad_batches or (step % self.length and not last):
            return
        after = self.measure()
        if not math.isfinite(after):
            raise UserError(f"what rewards the module is {after} at step {step}: the student has diverged")
        reward, self.before = self.before - after, after
        names = [f"weight_{term}" for term in self.ksm.terms]
        means = {name: float(torch.stack([one[name] for one in self._weights]).mean()) for name in names}
        self._weights = []
        self._unlearnt.append({"step": step, "measured": after, "reward": reward, **means})
        for found in self.ksm.learn(reward, last=last):
            known = {name: found[name] for name in columns(self.ksm) if name in found and name != "reward"}
            self.write({**self._unlearnt.pop(0), **known})
