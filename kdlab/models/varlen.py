"""Attention over sequences laid end to end, each seeing itself alone: the variable-length FlashAttention kernels of torch.

    prepare(model)                             # once, where `available`
    with sequences(bounds, longest):           # around a forward over one row of tokens
        model(input_ids=(1, T), position_ids=(1, T))

Nothing is padded and no mask is made. The kernels take float16 and bfloat16 on CUDA devices, and no dropout.
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
    """Whether the kernels run on `device`: CUDA of capability 8.0 or more, and a torch that has them (2.10 on)."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None


def prepare(model: transformers.PreTrainedModel) -> None:
    """Let `model` attend within `sequences`; outside of them it computes what it did (torch's fused attention)."""
    model.set_attn_implementation(NAME)


def prepared(model: transformers.PreTrainedModel) -> bool:
    """Whether `prepare` took, and nothing has changed the model's attention since."""
    return model.config._attn_implementation == NAME


@contextlib.contextmanager
def sequences(bounds: Tensor, longest: int, asking: Tensor | None = None, most: int = 0) -> Iterator[None]:
    """Inside the block, a row of T tokens is sequences that begin and end at `bounds` (n + 1,), int32; none is longer
    than `longest`. Where a layer has fewer queries than keys, these are its queries: those of each sequence begin and end
    at `asking` (n + 1,), at most `most` of one."""
    token = _open.set((bounds, longest, bounds if asking is None else asking, longest if asking is None else most))
    try:
        yield
    finally:
        _open.reset(token)


def attend(
    query: Tensor, key: Tensor, value: Tensor, asking: Tensor, bounds: Tensor, most: int, longest: int
) -> Tensor:
    """Attention of queries (U, A, d) to the tokens (T, A, d) of their sequences, scaled by d ** -0.5."""
    from torch.nn.attention.varlen import varlen_attn  # pyright: ignore[reportMissingImports]

    return varlen_attn(query, key, value, asking, bounds, most, longest)  # pyright: ignore[reportReturnType]


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
    """transformers' signature of an attention function; query, key, value (k, A, L, d)."""
    within = _open.get()
    if within is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert attention_mask is None and dropout == 0.0 and scaling in (None, query.shape[-1] ** -0.5)
    bounds, longest, asking, most = within
    if query.shape[2] == key.shape[2]:
        asking, most = bounds, longest
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(q, k, v, asking, bounds, most, longest).unsqueeze(0), None


transformers.AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
