"""AdamW and its learning-rate schedule, and the part of a training step that all LightningModules share."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from kdlab.models.sharding.trained import clip_shards
from kdlab.modules.finite_checks import StepHealth
from kdlab.runtime import distributed
from kdlab.runtime.seeding import reseed


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with linear warm-up and linear decay to zero.

    `lr`: the peak learning rate; `betas`, `eps`: AdamW's; `weight_decay`: of matrices, not of vectors (biases, norms);
    `warmup`: share of the steps in [0, 1]; `clip`: largest norm of the gradient; `fused`: AdamW's fused step (False where
    gradients are scaled, in float16: it would unscale them after clipping); `restarts`: shares of the training at which
    the schedule begins anew (the phases of TinyBERT); `phase_lrs`: the peak of each of these schedules (empty: `lr`).
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    fused: bool = True
    restarts: tuple[float, ...] = ()
    phase_lrs: tuple[float, ...] = ()

    def factor(self, step: int, total_steps: int) -> float:
        """Learning rate at `step` as a share of `lr`, not below 0."""
        # the first step n with n / total_steps >= share: terms change at the same step
        begins = [
            bisect.bisect_left(range(total_steps), share, key=lambda n: n / total_steps) for share in self.restarts
        ]
        bounds = sorted({0, *begins, total_steps})
        start = max(bound for bound in bounds[:-1] if bound <= step)
        steps = min(bound for bound in bounds[1:] if bound > start) - start
        peak = self.phase_lrs[sum(begin <= step for begin in begins)] / self.lr if self.phase_lrs else 1.0
        warmup = max(1, round(self.warmup * steps))
        step -= start
        return peak * min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))


class Optimization:
    """Optimizer, gradient clipping, dropout seeds and finite checks of one training of `total_steps` optimizer steps.

    Each LightningModule of this package holds one and forwards its hooks to it. `health`: the finite checks.
    """

    def __init__(self, settings: OptimizerSettings, total_steps: int, seed: int) -> None:
        self.settings, self.total_steps, self.seed = settings, total_steps, seed
        self.health = StepHealth()
        self._trained: list[nn.Parameter] = []

    def configure(self, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
        """The result of `configure_optimizers`: AdamW on the trainable parameters, the schedule once a step."""
        self._trained = [p for p in parameters if p.requires_grad]
        optimizer = self.adamw()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.share_of_peak)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def adamw(self) -> torch.optim.AdamW:
        """AdamW on the parameters that `configure` was given."""
        given = self.settings
        groups = [
            {"params": [p for p in self._trained if p.ndim >= 2], "weight_decay": given.weight_decay},
            {"params": [p for p in self._trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=given.lr, betas=given.betas, eps=given.eps, fused=given.fused)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that `configure` was given and that are trained."""
        return list(self._trained)

    def share_of_peak(self, step: int) -> float:
        """Learning rate at an optimizer step as a share of the settings' `lr`."""
        return self.settings.factor(step, self.total_steps)

    def begin_batch(self, batch_idx: int) -> None:
        """Seed dropout by batch and rank: a resumed run draws the same."""
        reseed(self.seed, "step", batch_idx, distributed.rank())

    def clip(self, module: pl.LightningModule, optimizer: Any) -> None:
        """Clip the gradient, and have the optimizer skip the step if a loss or the norm is not finite (collective)."""
        # Lightning refuses to clip for a fused optimizer under any mixed precision, though only float16 is scaled
        parameters = [p for p in self._trained or module.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if any(isinstance(gradient, DTensor) for gradient in gradients):
            norm = clip_shards(gradients, self.settings.clip)
        else:
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        if module._trainer is not None:
            scaled = getattr(module.trainer.precision_plugin, "scaler", None) is not None
            self.health.judge(norm, optimizer, module.trainer.global_step, scaled)
