"""Attention within concatenated sequences: the variable-length FlashAttention kernels of torch.

    prepare(model)                             # once, where `available`
    with sequences(bounds, longest):           # around each forward over one row of tokens
        model(input_ids=(1, T), position_ids=(1, T))

There is no padding and no mask. The kernels take float16 and bfloat16 on CUDA devices, and no dropout.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "kdlab_varlen"

_open: ContextVar[tuple[Tensor, int, Tensor, int] | None] = ContextVar("sequences", default=None)


def available(device: torch.device) -> bool:
    """True if the kernels run on `device`: CUDA of capability 8.0 or more, and torch 2.10 or later."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None


def prepare(model: transformers.PreTrainedModel) -> None:
    """Switch `model` to attention within open `sequences`; outside of them it runs torch's fused attention."""
    model.set_attn_implementation(NAME)


def prepared(model: transformers.PreTrainedModel) -> bool:
    """True if `prepare` succeeded and nothing has changed the model's attention since."""
    return model.config._attn_implementation == NAME


@contextlib.contextmanager
def sequences(
    bounds: Tensor, longest: int, query_bounds: Tensor | None = None, most_queries: int = 0
) -> Iterator[None]:
    """Treat a row of T tokens as n sequences with boundaries `bounds` (n + 1,) int32, of at most `longest` tokens.

    `query_bounds` (n + 1,) int32 and `most_queries`: boundaries and largest number of the queries of a sequence, for a
    layer that has fewer queries than keys.
    """
    if query_bounds is None:
        query_bounds, most_queries = bounds, longest
    token = _open.set((bounds, longest, query_bounds, most_queries))
    try:
        yield
    finally:
        _open.reset(token)


def attend(
    query: Tensor, key: Tensor, value: Tensor, query_bounds: Tensor, bounds: Tensor, most_queries: int, longest: int
) -> Tensor:
    """Attention of queries (U, A, d) to the tokens (T, A, d) of their sequences, scaled by d ** -0.5.

    Boundaries and largest lengths are those of `sequences`.
    """
    from torch.nn.attention.varlen import varlen_attn  # pyright: ignore[reportMissingImports]

    return varlen_attn(query, key, value, query_bounds, bounds, most_queries, longest)  # pyright: ignore[reportReturnType]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function with the signature of transformers; query, key, value (k, A, L, d)."""
    within = _open.get()
    if within is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert attention_mask is None and dropout == 0.0 and scaling in (None, query.shape[-1] ** -0.5)
    bounds, longest, query_bounds, most_queries = within
    if query.shape[2] == key.shape[2]:
        query_bounds, most_queries = bounds, longest
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(q, k, v, query_bounds, bounds, most_queries, longest).unsqueeze(0), None


transformers.AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
