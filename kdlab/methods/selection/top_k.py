"""The rows that selection keeps: the k highest of N scores."""

from __future__ import annotations

import math

from torch import Tensor

from kdlab.errors import UserError


def selection_size(n: int, ratio: float) -> int:
    """Number k = max(1, floor(n * ratio)) of rows kept of n, 0 of 0.

    A product that is an integer but for rounding counts as that integer: 0.29 of 100 is 29, though 0.29 * 100 < 29.
    UserError unless 0 < ratio <= 1.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise UserError(f"selection ratio must be a number in (0, 1], found {ratio!r}")
    return min(n, max(1, math.floor(n * ratio * (1 + 1e-12))))


def top_k(scores: Tensor, ratio: float, rows: int | None = None) -> Tensor:
    """Indices (k,) int64, ascending, of the k = `selection_size(rows, ratio)` highest scores of (N,); ties go to the lower
    index.

    `rows`: those of the batch, of which N are scored (None: all of them). ValueError for NaN scores, UserError for a ratio
    outside (0, 1].
    """
    if scores.ndim != 1:
        raise ValueError(f"scores must be (N,), found shape {tuple(scores.shape)}")
    k = selection_size(len(scores) if rows is None else rows, ratio)
    refuse_nan(scores)
    return scores.argsort(descending=True, stable=True)[:k].sort().values


def refuse_nan(scores: Tensor) -> None:
    """Raise ValueError with the rows (last dimension) where `scores` are NaN."""
    if scores.isnan().any():
        raise ValueError(f"scores hold NaN for rows {scores.isnan().nonzero()[:, -1].unique().tolist()[:10]}")
