"""Strategies that choose a set of rows whose gradients differ: DivBS and BADGE."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.gradient_embeddings import (
    GradientEmbeddings,
    draw,
    label_residuals,
    predicted_residuals,
    scores_in_order,
    uniform_draws,
    wanted,
)
from kdlab.types import Evidence


@needs("logits", "labels", "features", summary=label_residuals)
def divbs(evidence: Evidence, exact: bool = False) -> Tensor:
    """(N,) scores of which the k highest are the rows that DivBS chooses one by one (arXiv 2406.04872).

    With g the gradients in the last layer (`GradientEmbeddings`) and G their sum over the batch, the representativeness
    of a set S is that of an orthonormal basis E of its gradients, sum over e in E of (e . G)^2 = |P_S G|^2: what one row
    says of G counts once. The greedy algorithm adds the row of the largest gain. `exact`: that gain itself,
    (g . R)^2 / |g - P_S g|^2 with R = G - P_S G; else the paper's cheaper step, as its public code has it, |g . R|, which
    leaves out the norm. (The code draws in proportion to it, this takes the largest.) Once no row adds to the set, the rest is drawn
    uniformly, as in the code. Rows without a label are kept last.
    """
    residuals = label_residuals(evidence) if evidence.summary is None else evidence.summary
    rows = GradientEmbeddings.of(evidence, residuals)
    count = wanted(evidence, rows.exists)
    unexplained, norms = rows.with_sum(), rows.squares.clone()  # g . R and |g - P_S g|^2 of each row
    first = unexplained.abs()
    independent, open_rows = rows.slack * norms, rows.exists.clone()
    basis = norms.new_zeros(count, len(rows))  # inner products of all rows with the elements of E
    chosen: list[int] = []
    while len(chosen) < count:
        adds = open_rows & (norms > independent) & (unexplained.abs() > rows.slack * first.max())
        if not bool(adds.any()):
            break
        gain = unexplained.square() / norms if exact else unexplained.abs()
        row, step = int(torch.where(adds, gain, -1).argmax()), len(chosen)
        along = (rows.column(row) - basis[:step].T @ basis[:step, row]) / norms[row].sqrt()
        unexplained = unexplained - along * (unexplained[row] / norms[row].sqrt())
        norms = norms - along.square()
        basis[step], open_rows[row] = along, False
        chosen.append(row)
    for uniform in uniform_draws(evidence, count)[len(chosen) :].tolist():
        row = draw(open_rows.to(norms.dtype), uniform)
        open_rows[row] = False
        chosen.append(row)
    return scores_in_order(chosen, first, rows.exists)


@needs("logits", "features", summary=predicted_residuals)
def badge(evidence: Evidence) -> Tensor:
    """(N,) scores of which the k highest are the rows that BADGE draws (arXiv 1906.03671, Algorithm 1).

    The embedding of a row is the gradient of its cross-entropy in the last layer if its predicted class were its label
    (`GradientEmbeddings`), so it is long for an uncertain row. k-means++ seeding draws the first row uniformly, each
    further one with probability in proportion to its squared distance from the nearest of those before. Deterministic
    for `evidence.rng`. Where all rows left coincide with drawn ones, they are drawn uniformly.
    """
    residuals = predicted_residuals(evidence) if evidence.summary is None else evidence.summary
    rows = GradientEmbeddings.of(evidence, residuals)
    nearest = open_rows = rows.exists.to(rows.squares.dtype)  # the first is drawn uniformly
    distances = torch.zeros_like(nearest)
    chosen: list[int] = []
    for uniform in uniform_draws(evidence, wanted(evidence, rows.exists)).tolist():
        row = draw(nearest if bool((nearest > 0).any()) else open_rows, uniform)
        both = rows.squares + rows.squares[row]
        distance = both - 2 * rows.column(row)
        distance = torch.where(distance > rows.slack * both, distance, 0)  # equal rows, but for rounding
        distances = torch.minimum(distances, distance) if chosen else distance
        chosen.append(row)
        open_rows = open_rows.index_fill(0, torch.tensor(chosen, device=open_rows.device), 0)
        nearest = distances * open_rows
    return scores_in_order(chosen, nearest, rows.exists)
