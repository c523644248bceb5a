"""Attention of models on a CPU: torch's fused attention, and other ways to the same numbers where that is slow or large.

    prepare(model)          # once

- In bfloat16 the backward of torch's fused attention takes about ten times its forward on the machine that we measured. Short
  rows run by products of matrices, forward and backward; for longer ones that learn, queries, keys and values are converted to
  float32.
- With dropout torch keeps the scores of each layer, which can fill the memory; `recomputed` keeps none.

On other devices, and where none of this applies, torch's function runs as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from kdlab.models.attention import recomputed

NAME = "kdlab_on_cpu"
SHORT = 2  # rows of at most this many tokens for each number of a head run by products: their scores are few
CONVERTED = 8192  # tokens of a row times the size of a head, up to which float32 is faster
_OTHER = ("position_bias", "cache", "softcap")  # arguments of transformers' function that `_by_products` lacks


def prepare(model: transformers.PreTrainedModel) -> None:
    """Switch `model` to this attention if it has torch's fused attention. Outputs are the same within rounding, saved
    files the same."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function with the signature of transformers; query, key, value (k, A, L, d), result (k, L, A, d)."""
    kwargs |= {"dropout": dropout}
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    attention = _way(query, key, value, learns, kwargs)
    if dropout > 0 and learns and recomputed.worthwhile(query, key):
        return recomputed.attend(attention, module, query, key, value, attention_mask, **kwargs)
    return attention(module, query, key, value, attention_mask, **kwargs)


def _way(query: Tensor, key: Tensor, value: Tensor, learns: bool, kwargs: Mapping[str, Any]) -> recomputed.Attention:
    """The attention function that is fastest for these tokens; `learns`: a backward follows."""
    length, size = key.shape[2], query.shape[3]
    if query.dtype != torch.bfloat16:
        return sdpa_attention_forward
    if length <= SHORT * size and value.shape[3] == size and all(kwargs.get(name) is None for name in _OTHER):
        return _by_products
    # with dropout torch has no fused attention for the CPU
    return _in_float32 if learns and not kwargs["dropout"] and length * size <= CONVERTED else sdpa_attention_forward


def _in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """torch's attention on float32 copies of the bfloat16 queries, keys and values."""
    if mask is not None and mask.is_floating_point():
        mask = mask.float()
    with torch.autocast("cpu", enabled=False):
        found, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **kwargs)
    return found.to(query.dtype), None


def _by_products(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling Q K^T + mask) V by products in bfloat16, softmax and dropout in float32."""
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    queries, keys = query.shape[2], key.shape[2]
    if mask is None and queries > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        mask = torch.ones(queries, keys, dtype=torch.bool).tril()
    if mask is None:
        mask = torch.zeros(1)  # not of no dimension, which would leave the scores in bfloat16
    elif mask.dtype == torch.bool:  # the smallest number, not -inf: a row of padding has no key, and shall not be NaN
        mask = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    scores = torch.add(mask.float(), query.contiguous() @ key.contiguous().transpose(2, 3), alpha=scaling)
    weights = scores.softmax(-1)
    if dropout:
        weights = torch.nn.functional.dropout(weights, dropout)
    return (weights.to(query.dtype) @ value.contiguous()).transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
