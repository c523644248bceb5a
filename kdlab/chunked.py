"""Vocabulary losses in bounded memory: a chunk of positions is projected, its gradient taken, and its logits dropped.

The gradient is taken while the logits are there, so nothing is computed twice (the idea of fused linear cross-entropy
kernels, here for any weighted sum of terms on logits).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss_of: Callable[..., Tensor], size: int, vectors: Tensor, *parameters: Tensor) -> Tensor:
        total = vectors.new_zeros((), dtype=torch.float32)
        grads: list[Tensor | None] = [None] * len(parameters)
        pieces = []
        for start in range(0, len(vectors), size):
            torch.clear_autocast_cache()  # a cast weight kept from the last chunk would belong to its freed graph
            with torch.enable_grad():
                piece = vectors[start : start + size].detach().requires_grad_()
                loss = loss_of(piece, slice(start, start + size))
            first, *rest = torch.autograd.grad(loss, (piece, *parameters), allow_unused=True)
            pieces.append(first)
            for i, grad in enumerate(rest):
                if grad is not None:
                    kept = grads[i]
                    grads[i] = grad if kept is None else kept.add_(grad)
            total += loss.detach()
        ctx.grads = (torch.cat(pieces) if pieces else torch.zeros_like(vectors), *grads)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        grads, ctx.grads = ctx.grads, None
        return (None, None, *(None if g is None else g.mul_(outer[0].to(g.dtype)) for g in grads))


def chunked_loss(
    loss_of: Callable[[Tensor, slice], Tensor], vectors: Tensor, parameters: Sequence[Tensor], size: int
) -> Tensor:
    """Sum over chunks of `loss_of(vectors[chunk], chunk)`, a scalar, differentiable in vectors and parameters.

    `vectors` (U, H); `loss_of` returns a scalar and may use `parameters` (the trained ones; others are not
    differentiated). At most `size` units have logits at any moment. Differentiable once.
    """
    if torch.is_grad_enabled():
        return _Chunked.apply(loss_of, size, vectors, *parameters)  # pyright: ignore[reportReturnType]
    total = vectors.new_zeros((), dtype=torch.float32)
    for start in range(0, len(vectors), size):
        total += loss_of(vectors[start : start + size], slice(start, start + size))
    return total
