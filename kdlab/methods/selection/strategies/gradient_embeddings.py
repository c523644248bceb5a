"""Gradient embeddings of rows in factors: what `divbs` and `badge` compare rows by.

The gradient of a row's cross-entropy in the weights of a linear last layer is the outer product of the residual
r = p - onehot(y) (C,) and the vector z (H,) that the layer reads (BADGE, arXiv 1906.03671). It is never made:
<r_i z_i', r_j z_j'> = (r_i . r_j) (z_i . z_j), so N rows take N (C + H) numbers, not N C H. z is the row's features.
In masked-LM r is the mean of the residuals over the row's masked positions and z the mean state of its tokens (ours: the
papers have one answer a row), and the residuals of a few rows at a time are made of their logits (`Marks.summary`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.methods.selection.strategies.base import FEW, double, features_of, logits_of
from kdlab.methods.selection.top_k import refuse_nan
from kdlab.types import Evidence

COLUMNS = 256  # rows whose inner products with all others are held at a time


def label_residuals(evidence: Evidence) -> Tensor:
    """(N, C) p - onehot(label); in masked-LM the mean over positions. -inf throughout for a row without a label."""
    if evidence.labels is None:
        raise ValueError("this strategy needs labels, found none in the evidence")
    return _residuals(evidence, evidence.labels)


def predicted_residuals(evidence: Evidence) -> Tensor:
    """(N, C) p - onehot(the predicted class), BADGE's hypothetical label; in masked-LM the mean over positions. -inf
    throughout for a row without a masked position."""
    return _residuals(evidence, logits_of(evidence).argmax(-1))


def _residuals(evidence: Evidence, labels: Tensor) -> Tensor:
    logits = logits_of(evidence)
    mask = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    if logits.ndim == 3 and evidence.mask is not None:
        mask = evidence.mask.bool()
    mask = mask & (labels >= 0)
    if logits.ndim == 2:
        logits, labels, mask = logits[:, None], labels[:, None], mask[:, None]
    total = double(logits.new_zeros(len(logits), logits.shape[-1]))
    for place in range(logits.shape[1]):  # one position of each row at a time
        part = logits[:, place]
        p = (double(part) if logits.shape[-1] <= FEW else part.float()).softmax(-1)
        one = torch.zeros_like(p).scatter_(1, labels[:, place].clamp(min=0)[:, None], 1)
        total += torch.where(mask[:, place, None], p - one, 0)
    count = mask.sum(1)[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), -torch.inf)


class GradientEmbeddings:
    """The embeddings of N rows in factors: `residuals` (N, C), -inf where a row has none, and `features` (N, H).

    `exists` (N,) bool: rows that have one. `squares` (N,): squared norms. ValueError for NaN.
    """

    def __init__(self, residuals: Tensor, features: Tensor) -> None:
        self.exists = residuals[:, 0] != -torch.inf
        self.residuals, self.features = double(residuals.where(self.exists[:, None], 0)), double(features)
        refuse_nan(self.residuals.sum(1) + self.features.sum(1))
        self.squares = self.residuals.square().sum(1) * self.features.square().sum(1)
        # inner products below this share of the squared norms are rounding
        self.slack = 64 * torch.finfo(self.residuals.dtype).eps * max(residuals.shape[1], features.shape[1]) ** 0.5

    @classmethod
    def of(cls, evidence: Evidence, residuals: Tensor) -> GradientEmbeddings:
        """The embeddings of some evidence, from its features and these residuals."""
        return cls(residuals, features_of(evidence))

    def __len__(self) -> int:
        return len(self.exists)

    def column(self, row: int) -> Tensor:
        """Inner products (N,) of all embeddings with that of `row`."""
        return (self.residuals @ self.residuals[row]) * (self.features @ self.features[row])

    def with_sum(self) -> Tensor:
        """Inner products (N,) of all embeddings with the sum of all."""
        total = torch.zeros_like(self.squares)
        for start in range(0, len(self), COLUMNS):
            part = slice(start, start + COLUMNS)
            total += ((self.residuals @ self.residuals[part].T) * (self.features @ self.features[part].T)).sum(1)
        return total


def wanted(evidence: Evidence, exists: Tensor) -> int:
    """Number of rows to choose: `evidence.keep`, else a tenth of the rows, rounded up; at most those that exist."""
    rows = len(exists)
    keep = evidence.keep if evidence.keep is not None else -(-rows // 10)
    return min(keep, int(exists.sum()))


def uniform_draws(evidence: Evidence, count: int) -> Tensor:
    """(count,) float64 in [0, 1), on the CPU, from `evidence.rng`."""
    rng = evidence.rng
    return torch.rand(count, generator=rng, device=rng.device, dtype=torch.float64).cpu()


def draw(weights: Tensor, uniform: float) -> int:
    """The row at which the cumulated `weights` (N,), not all 0, exceed the share `uniform` in [0, 1) of their sum."""
    sums = weights.cumsum(0)
    at = int(torch.searchsorted(sums, sums[-1:] * uniform, right=True))
    return min(at, int(weights.nonzero()[-1]))  # rounding must not draw a row of weight 0


def scores_in_order(chosen: list[int], others: Tensor, exists: Tensor) -> Tensor:
    """Scores (N,) of which the rows `chosen` are the highest, in their order: k, k - 1, ..., 1.

    The `others` (N,), from 0, rank the rest below, in [0, 1). A row that does not exist gets -inf.
    """
    scores = torch.where(exists, others / (1 + others.max()), -torch.inf)
    places = torch.tensor(chosen, dtype=torch.long, device=scores.device)
    scores[places] = torch.arange(len(chosen), 0, -1, dtype=scores.dtype, device=scores.device)
    return scores
