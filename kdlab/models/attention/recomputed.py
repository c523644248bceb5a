"""Attention that keeps no matrix of tokens by tokens: one of some rows at a time, run anew in the backward.

On a CPU torch's fused attention keeps the scores of each layer as soon as dropout is inside it, and makes those of all rows
at once. Here a few rows run at a time, and only queries, keys and values stay for the backward, which draws the same
dropout again: a few hundredths more time for the memory of a layer's scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Attention = Callable[..., tuple[Tensor, Any]]
SCORES = 2**20  # numbers of a matrix of scores that are made at a time: 4 MB in float32; smaller ones are kept


def worthwhile(query: Tensor, key: Tensor) -> bool:
    """True if the scores of queries (k, A, L, d) and keys (k, A, M, d) are too many to keep."""
    return query.shape[:3].numel() * key.shape[2] > SCORES


def attend(
    attention: Attention,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Run `attention`, an attention function with the signature of transformers, a few rows at a time, and anew in the backward;
    query, key, value (k, A, L, d), result (k, L, A, d)."""
    call = _Call(attention, module, attention_mask, dropout, kwargs)
    return _Recomputed.apply(call, query, key, value), None  # pyright: ignore[reportReturnType]


class _Call:
    """Arguments of one call of the attention function besides queries, keys and values; the state of torch's generator."""

    def __init__(
        self, attention: Attention, module: nn.Module, mask: Tensor | None, dropout: float, more: dict[str, Any]
    ) -> None:
        self.attention, self.module, self.mask, self.dropout, self.more = attention, module, mask, dropout, more
        self.generator = torch.get_rng_state()
        self.autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def parts(self, query: Tensor, key: Tensor) -> list[slice]:
        """The rows that run together, in order."""
        rows, heads, length = query.shape[:3]
        size = max(1, SCORES // (heads * length * key.shape[2]))
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

    def run(self, rows: slice, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention (n, L, A, d) of some rows, whose queries, keys and values are given."""
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[rows]
        enabled, dtype = self.autocast
        with torch.autocast("cpu", dtype, enabled=enabled):
            return self.attention(self.module, query, key, value, mask, dropout=self.dropout, **self.more)[0]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(query, key, value)
        return torch.cat([call.run(rows, query[rows], key[rows], value[rows]) for rows in call.parts(query, key)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
        call, saved = ctx.call, ctx.saved_tensors
        grads = [torch.empty_like(one) for one in saved]
        after = torch.get_rng_state()
        torch.set_rng_state(call.generator)
        try:
            for rows in call.parts(*saved[:2]):
                leaves = [one[rows].detach().requires_grad_() for one in saved]
                with torch.enable_grad():
                    result = call.run(rows, *leaves)
                for grad, found in zip(grads, torch.autograd.grad(result, leaves, outer[rows]), strict=True):
                    grad[rows] = found
        finally:
            torch.set_rng_state(after)
        return (None, *grads)
