"""Rows of several batches in one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdlab.types import IGNORE, Batch


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches in one, on the device of the first, padded to the longest."""
    hosts = [batch.host for batch in batches]
    longest = max(host.input_ids.shape[1] for host in hosts)

    def of(name: str, pad: int = 0) -> Tensor:
        return torch.cat([_widened(getattr(host, name), longest, pad) for host in hosts])

    first = hosts[0]
    whole = Batch(
        rows=of("rows"),
        epoch=first.epoch,
        input_ids=of("input_ids"),
        attention_mask=of("attention_mask"),
        labels=of("labels", IGNORE),
        real=of("real"),
        token_types=None if first.token_types is None else of("token_types"),
        documents=None if first.documents is None else of("documents"),
    )
    return whole.to(batches[0].rows.device)


def _widened(tensor: Tensor, length: int, pad: int) -> Tensor:
    """`tensor` (B,), or (B, L) widened to `length` with `pad`."""
    if tensor.ndim == 1:
        return tensor
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[1]), value=pad)
