"""Finite checks of training steps: all ranks decide together, before the update, without waiting for the device.

A step whose loss or gradient is not finite on any rank changes no weight: the optimizer skips it on the device
(`found_inf`, as under a gradient scaler). The host reads the flags one step later, when their copy has arrived.
"""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdlab.modules.views import StepReport
from kdlab.runtime import distributed, signals
from kdlab.types import moved


@dataclass
class _PendingReport:
    """Flags of an optimizer step, perhaps still on their way to the host.

    `flags` (6 + T,) float32, or numbers that the host has: ranks whose loss, whose gradient is not finite; the sum of mean
    losses; ranks with SIGTERM, with SIGINT, that request a checkpoint; answers of each of the `teachers` that are not finite.
    `arrived`: a CUDA event, None on the CPU. `rows`: of each micro-batch, ids (k,) and which are real (k,). `own`: () bool, this
    rank's loss is finite.
    """

    step: int
    flags: Tensor | Sequence[float]
    arrived: Any
    rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    own: Tensor | bool | None = None
    teachers: tuple[str, ...] = ()

    def row_ids(self, bad_loss: bool) -> list[int]:
        """Ids of the step's rows: with a bad loss only of the ranks that have it, else of all ranks (collective)."""
        parts = [ids[real] for ids, real in self.rows]
        ids = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
        if bad_loss and bool(self.own):
            ids = ids[:0]
        return distributed.gather_rows(ids).tolist()


class StepHealth:
    """Follows a training: `note` each loss, `judge` before each update, `read` the reports that have arrived.

    `wants_checkpoint`: this rank requests a checkpoint; all ranks read of it in a `StepReport`.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._answers: list[Mapping[str, Tensor]] = []
        self._reports: deque[_PendingReport] = deque(maxlen=8)  # bounds them where no callback reads them
        self.wants_checkpoint = False

    def note(self, loss: Tensor, rows: Tensor, real: Tensor, answers: Mapping[str, Tensor] | None = None) -> None:
        """Record a micro-batch: its loss (), the ids (k,) of its rows, and which of them are real (k,).

        `answers`: for each teacher by name, () bool, True if all of its answers were finite.
        """
        self._losses.append(loss.detach())
        self._rows.append((rows, real))
        if answers:
            self._answers.append(answers)

    def judge(self, norm: Tensor, optimizer: torch.optim.Optimizer, step: int, scaled: bool) -> None:
        """Have `optimizer` skip its next step if a loss or the gradient's `norm` () is not finite (collective).

        `step`: the optimizer steps done before it. An optimizer that is not fused must have a gradient scaler for that.
        `scaled`: a gradient scaler handles gradients that overflow, as they sometimes do in float16.
        """
        losses, self._losses = self._losses, []
        rows, self._rows = self._rows, []
        answers, self._answers = self._answers, []
        signum = signals.pending()
        requests = [signum == signal.SIGTERM, signum == signal.SIGINT, self.wants_checkpoint]
        teachers = tuple(answers[-1]) if answers else ()
        on_host = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in (*losses, norm))
        flags, own = (_host_flags if on_host and distributed.world() == 1 else _shared_flags)(
            losses, norm, scaled, requests, answers
        )
        arrived = None
        if isinstance(flags, Tensor):
            if optimizer.defaults.get("fused"):
                optimizer.found_inf = (flags[:2].sum() > 0).float()  # pyright: ignore[reportAttributeAccessIssue]
            flags, arrived = _to_host(flags)
        elif optimizer.defaults.get("fused"):
            # where it is known that all is finite, the optimizer has nothing to look at
            bad = flags[0] + flags[1] > 0
            optimizer.found_inf = torch.ones(()) if bad else None  # pyright: ignore[reportAttributeAccessIssue]
        self._reports.append(_PendingReport(step, flags, arrived, rows, own, teachers))

    def read(self, but: int = 0) -> list[StepReport]:
        """Reports of the steps not read yet, oldest first, without the newest `but`, which may still be running."""
        reports = []
        while len(self._reports) > but:
            pending = self._reports.popleft()
            if pending.arrived is not None:
                pending.arrived.synchronize()
            flags = pending.flags.tolist() if isinstance(pending.flags, Tensor) else pending.flags
            bad_loss, bad_gradient, loss, term, interrupt, save, *unfinite = flags
            reports.append(
                StepReport(
                    step=pending.step,
                    loss=loss / max(1.0, distributed.world() - bad_loss),
                    bad_loss=bad_loss > 0,
                    bad_gradient=bad_gradient > 0,
                    signum=signal.SIGTERM if term else signal.SIGINT if interrupt else 0,
                    wants_checkpoint=save > 0,
                    rows=partial(pending.row_ids, bad_loss > 0),
                    teachers=tuple(name for name, bad in zip(pending.teachers, unfinite, strict=True) if bad),
                )
            )
        return reports


def _shared_flags(
    losses: Sequence[Tensor],
    norm: Tensor,
    scaled: bool,
    requests: Sequence[bool],
    answers: Sequence[Mapping[str, Tensor]],
) -> tuple[Tensor, Tensor]:
    """`_PendingReport.flags` over all ranks, on the device, and `own` (collective)."""
    every = torch.stack(list(losses))
    finite = every.isfinite()
    own = finite.all()
    overflown = torch.zeros_like(own) if scaled else ~norm.isfinite()
    mean = torch.where(finite, every, 0).sum() / finite.sum().clamp_min(1)
    flags = torch.stack([~own, overflown.to(own.device), mean]).float()
    requested = moved(torch.tensor(requests, dtype=torch.float32), flags.device)
    each = [torch.stack([~one.to(flags.device) for one in found.values()]).float() for found in answers]
    unfinite = [torch.stack(each).sum(0)] if each else []
    return distributed.all_sum(torch.cat([flags, requested, *unfinite])), own


def _host_flags(
    losses: Sequence[Tensor],
    norm: Tensor,
    scaled: bool,
    requests: Sequence[bool],
    answers: Sequence[Mapping[str, Tensor]],
) -> tuple[list[float], bool]:
    """`_shared_flags` of a rank that is alone and computes on the host: there numbers are read at no cost, while some twenty
    operations on tensors of one number take a tenth of a millisecond."""
    values = [loss.item() for loss in losses]
    finite = [math.isfinite(value) for value in values]
    own, mean = all(finite), values[0]
    if len(values) > 1 or not own:  # the sum of tensors, so that it is rounded as theirs
        known = torch.tensor([value if is_finite else 0.0 for value, is_finite in zip(values, finite, strict=True)])
        mean = (known.sum() / torch.tensor(max(1, sum(finite)))).item()
    overflown = not scaled and not math.isfinite(norm.item())
    unfinite = {name: sum(not bool(found[name]) for found in answers) for name in (answers[-1] if answers else ())}
    return [float(x) for x in (not own, overflown, mean, *requests, *unfinite.values())], own


def _to_host(tensor: Tensor) -> tuple[Tensor, Any]:
    """A copy of `tensor` on the CPU, started but not awaited, and the event of its arrival (None: it was there)."""
    if tensor.device.type != "cuda":
        return tensor, None
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
