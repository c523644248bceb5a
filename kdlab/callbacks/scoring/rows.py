"""Rows of this rank among those of the global batch, and the rows of it that are scored."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.runtime import distributed
from kdlab.types import Batch, Outputs


def own_rows(batch: Batch, chosen: Tensor) -> Tensor:
    """Those of the rows `chosen` (k,) of the global batch that are this rank's, numbered in `batch` (collective)."""
    heights = distributed.gather_rows(torch.tensor([len(batch)])).tolist()
    first = sum(heights[: distributed.rank()])
    return chosen[(chosen >= first) & (chosen < first + len(batch))] - first


def scored_rows(batch: Batch, outputs: Outputs | None, rows: Tensor) -> tuple[Batch, Outputs | None]:
    """The rows `rows` (n,) of a batch, and of the student's outputs for it; without any, one row that is not real, so that
    the ranks stay in step."""
    idle = len(rows) == 0
    rows = (rows.new_zeros(1) if idle else rows).to(batch.input_ids.device)
    taken = batch.take(rows)
    taken.real = taken.real & (not idle)
    return taken, None if outputs is None else outputs.take(rows, taken.input_ids.shape[1])
