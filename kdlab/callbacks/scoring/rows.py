"""Rows of this rank among those of the global batch, and the rows of it that are scored."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.runtime import distributed
from kdlab.types import IGNORE, Batch, Outputs


def own_rows(batch: Batch, chosen: Tensor) -> Tensor:
    """Those of the rows `chosen` (k,) of the global batch that are this rank's, numbered in `batch` (collective)."""
    heights = distributed.gather_rows(torch.tensor([len(batch)])).tolist()
    first = sum(heights[: distributed.rank()])
    return chosen[(chosen >= first) & (chosen < first + len(batch))] - first


def scored_rows(batch: Batch, outputs: Outputs | None, rows: Tensor) -> tuple[Batch, Outputs | None]:
    """The rows `rows` (n,) of a batch, and of the student's outputs for it; without any, one row that is not real, so that
    the ranks stay in step."""
    idle = len(rows) == 0
    rows = rows.new_zeros(1) if idle else rows
    taken = batch.take(rows)
    if idle:
        taken.real = torch.zeros_like(taken.real)
    return taken, None if outputs is None else outputs.take(rows, taken.input_ids.shape[1])


def share_out(batch: Batch, chosen: Tensor) -> Tensor:
    """Put the rows `chosen` (k,) of the global batch into `batch`, evenly over ranks, in place (collective); which of them."""
    own = batch.take(own_rows(batch, chosen))
    whole = Batch(
        rows=distributed.gather_rows(own.rows),
        epoch=batch.epoch,
        input_ids=distributed.gather_rows(own.input_ids, pad=0),
        attention_mask=distributed.gather_rows(own.attention_mask, pad=0),
        labels=distributed.gather_rows(own.labels, pad=IGNORE if own.labels.ndim == 2 else None),
        real=distributed.gather_rows(own.real),
        token_types=None if own.token_types is None else distributed.gather_rows(own.token_types, pad=0),
        documents=None if own.documents is None else distributed.gather_rows(own.documents, pad=0),
    )
    part = torch.tensor_split(torch.arange(len(whole.rows)), distributed.world())[distributed.rank()]
    idle = len(part) == 0
    share = whole.take(torch.zeros(1, dtype=torch.long) if idle else part)
    share.real = torch.zeros_like(share.real) if idle else share.real
    batch.rows, batch.input_ids, batch.attention_mask = share.rows, share.input_ids, share.attention_mask
    batch.labels, batch.real, batch.token_types = share.labels, share.real, share.token_types
    batch.documents, batch.copied = share.documents, share.copied
    return part
