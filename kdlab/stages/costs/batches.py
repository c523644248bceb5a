"""Rows of a batch that stand for others in a forecast of costs: typical ones, and the dearest."""

from __future__ import annotations

import torch

from kdlab.methods.selection.top_k import selection_size
from kdlab.types import IGNORE, Batch


def typical_rows(batch: Batch, rows: int) -> Batch:
    """So many rows of `batch` whose lengths are spread as those of all its rows are."""
    order = batch.attention_mask.sum(1).argsort(stable=True)
    number = torch.arange(rows)
    places = (2 * number + 1) * len(batch) - rows  # of the middles of equal stretches, times 2 rows
    below = places.div(2 * rows, rounding_mode="floor")
    above = -(-places).div(2 * rows, rounding_mode="floor")
    return batch.take(order[torch.where(number % 2 == 0, below, above)])  # in turn, as the mean is in the middle


def largest_rows(batch: Batch, rows: int) -> Batch:
    """A batch of so many rows that costs at least as much as any of them from `batch`: the greatest lengths, the greatest
    numbers of labels."""
    lengths = batch.attention_mask.sum(1)
    chosen = batch.take(lengths.argsort(descending=True, stable=True)[:rows])
    if batch.labels.ndim == 2:
        counts = batch.labelled().sum(1).sort(descending=True).values[:rows]
        places = torch.arange(chosen.labels.shape[1]).expand(rows, -1)
        chosen.labels = torch.where(places < counts[:, None], 0, IGNORE)
    else:
        chosen.labels = torch.zeros_like(chosen.labels)
    return chosen


def some_positions(batch: Batch, share: float, per_row: bool) -> Batch:
    """The same rows with as many labels as a selection of positions keeps: of each row, or of the batch, whose first rows
    then have most of them. At `share` 1 the batch as it is."""
    if share == 1:
        return batch
    labelled = batch.labelled()
    if not per_row:
        order = labelled.flatten().cumsum(0).view_as(labelled)
        return batch.narrowed(labelled & (order <= selection_size(int(labelled.sum()), share)))
    kept = torch.tensor([selection_size(count, share) for count in labelled.sum(1).tolist()])
    return batch.narrowed(labelled & (labelled.cumsum(1) <= kept.unsqueeze(1).to(labelled.device)))
