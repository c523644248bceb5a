"""Vocabulary losses in bounded memory: a chunk of positions is projected, its gradient taken, and its logits dropped.

The gradient is taken while the logits are there, so nothing is computed twice (the idea of fused linear cross-entropy
kernels, here for any weighted sum of terms on logits).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Project = Callable[[Tensor], Tensor]
LossOf = Callable[[Tensor, slice], Tensor]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        project: Project,
        loss_of: LossOf,
        size: int,
        piece: int,
        always: bool,
        vectors: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        total = vectors.new_zeros((), dtype=torch.float32)
        grads: list[Tensor | None] = [None] * len(parameters)
        vector_grads = []
        for start in range(0, len(vectors), size):
            torch.clear_autocast_cache()  # a cast weight kept from the last chunk would belong to its freed graph
            with torch.enable_grad():
                some = vectors[start : start + size].detach().requires_grad_()
                logits = project(some)
            outer = torch.empty_like(logits)
            for low in range(0, len(logits), piece):  # the terms need many tensors of this size: a few units at a time
                with torch.enable_grad():
                    leaf = logits[low : low + piece].detach().requires_grad_()
                    loss = loss_of(leaf, slice(start + low, start + low + len(leaf)))
                (outer[low : low + piece],) = torch.autograd.grad(loss, leaf)
                total += loss.detach()
            first, *rest = torch.autograd.grad(logits, (some, *parameters), outer, allow_unused=True)
            vector_grads.append(first)
            for i, grad in enumerate(rest):
                if grad is not None:
                    kept = grads[i]
                    grads[i] = grad if kept is None else kept.add_(grad)
        if always and parameters and not len(vectors):
            with torch.enable_grad():
                logits = project(vectors.new_zeros(1, vectors.shape[1]))
            grads = list(torch.autograd.grad(logits, parameters, torch.zeros_like(logits), allow_unused=True))
        ctx.grads = (torch.cat(vector_grads) if vector_grads else torch.zeros_like(vectors), *grads)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        grads, ctx.grads = ctx.grads, None
        return (None, None, None, None, None, *(None if g is None else g.mul_(outer[0].to(g.dtype)) for g in grads))


def chunked_loss(
    project: Project,
    loss_of: LossOf,
    vectors: Tensor,
    parameters: Sequence[Tensor],
    size: int,
    piece: int = 32,
    always: bool = False,
) -> Tensor:
    """Sum of `loss_of(logits of some units, which units)` over all units, a scalar float32.

    `vectors` (U, H); `project` turns (n, H) into logits (n, V) and may use `parameters` (the trained ones; others are
    not differentiated); `loss_of` returns a scalar for a slice of units. At most `size` units have logits at any
    moment, and at most `piece` of them what the terms make of logits. Differentiable once, in vectors and parameters.
    `always`: without any unit, the parameters that `project` uses get a gradient of 0, in place of none.
    """
    if torch.is_grad_enabled():
        return _Chunked.apply(project, loss_of, size, piece, always, vectors, *parameters)  # pyright: ignore
    total = vectors.new_zeros((), dtype=torch.float32)
    for start in range(0, len(vectors), size):
        logits = project(vectors[start : start + size])
        for low in range(0, len(logits), piece):
            some = logits[low : low + piece]
            total += loss_of(some, slice(start + low, start + low + len(some)))
    return total
