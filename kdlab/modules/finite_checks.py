"""Whether the numbers of a step are finite: decided by all ranks together, before the update, without waiting for it.

A step whose loss or gradient is not finite on any rank changes no weight: the optimizer is told on the device
(`found_inf`, as a gradient scaler would). The host hears of it a step later, when the copy has long arrived.
"""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdlab.runtime import distributed, signals


@dataclass
class LossReport:
    """What is known of an optimizer step; the tensors are read by `StepHealth.read`."""

    step: int
    # (6,): ranks whose loss, whose gradient is not finite; the mean loss; ranks with SIGTERM, with SIGINT, that want a save
    told: Tensor
    arrived: Any  # a CUDA event, None on the CPU
    rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # of each micro-batch: ids, whether they are real
    own: Tensor | None = None  # whether this rank's loss is finite


@dataclass(frozen=True)
class StepReport:
    """A step as all ranks know it: its mean loss over the ranks where it is finite, and what was wrong."""

    step: int
    loss: float
    bad_loss: bool
    bad_gradient: bool
    signum: int
    wants_save: bool
    report: LossReport

    def rows(self) -> list[int]:
        """Ids of the rows of the step: of the ranks whose loss is not finite, or of all (collective)."""
        parts = [ids[real] for ids, real in self.report.rows]
        mine = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
        if self.bad_loss and bool(self.report.own):
            mine = mine[:0]
        return distributed.gather_rows(mine).tolist()


class StepHealth:
    """Follows a module's steps: `note` each loss, `judge` before each update, `read` what is known by now."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._reports: deque[LossReport] = deque(maxlen=8)  # where nobody reads them
        self.wants_save = False  # whether this rank wants a checkpoint: all ranks hear of it

    def note(self, loss: Tensor, rows: Tensor, real: Tensor) -> None:
        """A micro-batch has this loss (a scalar) on the rows with ids `rows` (k,), of which some are `real` (k,)."""
        self._losses.append(loss.detach())
        self._rows.append((rows, real))

    def judge(self, norm: Tensor, optimizer: torch.optim.Optimizer, step: int, scaled: bool) -> None:
        """Have `optimizer` leave its next step out if a loss or the gradient's `norm` () is not finite (collective).

        `step`: the optimizer steps done before it. An optimizer that is not fused has to have a gradient scaler for that.
        `scaled`: a gradient scaler takes care of gradients that overflow, as they do now and then in float16.
        """
        losses, self._losses = torch.stack(self._losses), []
        finite = losses.isfinite()
        own = finite.all()
        overflown = torch.zeros_like(own) if scaled else ~norm.isfinite()
        mean = torch.where(finite, losses, 0).sum() / finite.sum().clamp_min(1)
        asked = signals.pending()
        wishes = torch.tensor([asked == signal.SIGTERM, asked == signal.SIGINT, self.wants_save], dtype=mean.dtype)
        flags = torch.stack([~own, overflown.to(own.device), mean])
        told = distributed.all_sum(torch.cat([flags.float(), wishes.float().to(flags.device, non_blocking=True)]))
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = (told[:2].sum() > 0).float()  # pyright: ignore[reportAttributeAccessIssue]
        rows, self._rows = self._rows, []
        self._reports.append(LossReport(step, *_to_host(told), rows, own))

    def read(self, but: int = 0) -> list[StepReport]:
        """The steps not read yet, oldest first, but the newest `but` of them, which may still be under way."""
        found = []
        while len(self._reports) > but:
            report = self._reports.popleft()
            if report.arrived is not None:
                report.arrived.synchronize()
            bad_loss, bad_gradient, loss, term, interrupt, save = report.told.tolist()
            signum = signal.SIGTERM if term else signal.SIGINT if interrupt else 0
            known = max(1.0, distributed.world() - bad_loss)
            found.append(
                StepReport(report.step, loss / known, bad_loss > 0, bad_gradient > 0, signum, save > 0, report)
            )
        return found


def _to_host(tensor: Tensor) -> tuple[Tensor, Any]:
    if tensor.device.type != "cuda":
        return tensor, None
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
