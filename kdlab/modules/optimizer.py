"""The optimizer's settings and the learning rate's schedule."""

from __future__ import annotations

import bisect
from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with linear warm-up and linear decay to zero; `warmup` is a share of the steps, `clip` a gradient norm.

    `restarts` are shares of the training at which the schedule begins anew (the phases of TinyBERT). `fused` must be
    off where gradients are scaled (float16): the fused step would unscale them after they are clipped.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    fused: bool = True
    restarts: tuple[float, ...] = ()

    def factor(self, step: int, total_steps: int) -> float:
        """The learning rate at `step`, as a share of `lr`."""
        # the first step n with n / total_steps >= share, as terms decide it
        begins = (
            bisect.bisect_left(range(total_steps), share, key=lambda n: n / total_steps) for share in self.restarts
        )
        bounds = sorted({0, *begins, total_steps})
        start = max(bound for bound in bounds[:-1] if bound <= step)
        steps = min(bound for bound in bounds[1:] if bound > start) - start
        warmup = max(1, round(self.warmup * steps))
        step -= start
        return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
