"""Importance weights of sampled rows for the loss of a batch, on one rank or several."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.modules.objective import units_of
from kdlab.runtime import distributed
from kdlab.types import Batch, Importance

KINDS = ("labelled", "all", "tokens")  # of units (`WeightedTerm.at`)


def whole_units(batch: Batch) -> dict[str, tuple[float, float]]:
    """By kind, the units of the batches of all ranks, and their rows that have one (collective)."""
    real = batch.host.real.to(torch.float64)
    counts = []
    for at in KINDS:
        each = torch.bincount(units_of(batch, at)[0], minlength=len(batch)) * real
        counts += [each.sum(), (each > 0).sum().to(each)]
    totals = distributed.all_sum(torch.stack(counts)).tolist()
    return {at: (totals[2 * i], totals[2 * i + 1]) for i, at in enumerate(KINDS)}


def own_part(own: Tensor) -> Tensor:
    """The places (n,) of this rank's rows `own` (n,) among the rows kept of all ranks (collective)."""
    counts = distributed.gather_rows(torch.tensor([len(own)])).tolist()
    return torch.arange(len(own)) + sum(counts[: distributed.rank()])


def importance(weights: Tensor | None, part: Tensor | None, units: dict[str, tuple[float, float]]) -> Importance | None:
    """The weights of the rows of this rank, at the places `part` among all that were kept (None: all); a rank without a row
    keeps one that does not count."""
    if weights is None:
        return None
    own = weights if part is None else weights[part.to(weights.device)]
    return Importance(own if len(own) else torch.ones(1, dtype=weights.dtype), units)
