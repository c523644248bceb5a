"""Take the gradient of a batch part by part: the same numbers as of the whole batch within rounding, in less memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.models.batch_counts import counts_of
from kdlab.modules.distillation_loss import DistillationLoss
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger
from kdlab.types import Batch

Losses = tuple[Tensor, dict[str, Tensor]]


class LossByParts:
    """`loss` of a batch, whose forward and backward run on parts of about `tokens` tokens (None: on the whole batch).

        total, losses = LossByParts(loss, tokens=1024)(batch)
        total.backward()    # adds the gradient, which is known by then

    Whole all the same: several ranks, whose collectives and hooks belong to one backward; terms that are means over different
    units of which the parts have different shares; and where no gradient is wanted. Gradients in float16 would need their scale
    before it is known.
    """

    def __init__(self, loss: DistillationLoss, tokens: int | None) -> None:
        self.loss, self.tokens = loss, tokens

    def __call__(self, batch: Batch, ledger: Ledger | None = None) -> Losses:
        """As `DistillationLoss.__call__`: the loss, a scalar with gradient, and each term's mean, detached."""
        parts = self._parts(batch)
        if len(parts) == 1:
            return self.loss(batch, ledger=ledger)
        trained = [p for p in self.loss.student.model.parameters() if p.requires_grad]
        before = [p.grad for p in trained]
        totals: dict[str, Tensor] = {}
        try:
            for parameter in trained:
                parameter.grad = None
            for share, part in parts:
                loss, losses = self.loss(part, ledger=ledger)
                with torch.autocast(loss.device.type, enabled=False):  # a backward has the types of its forward
                    (share * loss).backward()
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + share * value
            gradients = [p.grad for p in trained]
        finally:
            for parameter, gradient in zip(trained, before, strict=True):
                parameter.grad = gradient
        return _WithGradient.apply(totals["loss"], gradients, *trained), totals  # pyright: ignore[reportReturnType]

    def _parts(self, batch: Batch) -> list[tuple[float, Batch]]:
        """The parts of `batch` with their shares in its loss; the whole batch where it is not divided."""
        whole = [(1.0, batch)]
        if self.tokens is None or counts_of(batch).tokens <= self.tokens:
            return whole
        if distributed.world() > 1 or not torch.is_grad_enabled():
            return whole
        parts = [batch.take(rows) for rows in divided(counts_of(batch).lengths, self.tokens)]
        kinds = {w.at for w in self.loss.active_terms(0.0).values()}
        shares = {
            tuple(counts_of(part).units(at) / max(1, counts_of(batch).units(at)) for part in parts) for at in kinds
        }
        if len(shares) != 1:
            return whole
        return [(share, part) for share, part in zip(shares.pop(), parts, strict=True) if share > 0] or whole


def divided(lengths: Sequence[int], tokens: int) -> list[Tensor]:
    """Row numbers (k,) int64 of the parts of a batch with rows of these `lengths`: as few parts of about as many tokens each as
    have `tokens` on average, in the order of the rows. None has more than `tokens` and the longest row together."""
    total = sum(lengths)
    number = math.ceil(total / tokens)
    parts: dict[int, list[int]] = {}
    done = 0
    for row, length in enumerate(lengths):
        middle = 2 * done + length  # twice the place of the row's middle token, a whole number
        parts.setdefault(middle * number // (2 * total), []).append(row)
        done += length
    return [torch.tensor(rows) for rows in parts.values()]


class _WithGradient(torch.autograd.Function):
    """A loss () whose gradient, one tensor or None for each of the parameters, is known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *parameters: nn.Parameter) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if one is None else one.mul_(outer) for one in gradients)
