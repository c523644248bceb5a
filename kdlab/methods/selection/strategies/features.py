"""Strategies on the student's features: density, clusters."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.methods.marks import needs
from kdlab.methods.selection.clustering import kmeans
from kdlab.methods.selection.strategies.base import double, features_of
from kdlab.ranges import Count
from kdlab.types import Evidence


@needs("features")
def density(evidence: Evidence) -> Tensor:
    """(N,) mean cosine similarity to the other N - 1 rows, in [-1, 1]; 0 for a zero vector or a row alone. AdaDS Eq. 8.

    O(N H): the product with the sum of the unit vectors is the sum of a row's similarities.
    """
    features = features_of(evidence)
    norm = features.norm(dim=1)
    real = norm > 0
    scale = torch.where(real, norm, 1.0).reciprocal() * real
    similar = (features @ (scale @ features)) * scale
    return double(similar - real.to(similar.dtype)) / max(len(features) - 1, 1)


@needs("features")
def cluster(evidence: Evidence, clusters: Count | None = None) -> Tensor:
    """(N,) closeness to the row's k-means++ centre, with the nearest row of each non-empty cluster before all others.

    The score is 1 / (1 + Euclidean distance), in (0, 1], plus 1 for the nearest row of each cluster. `clusters`:
    `evidence.keep` by default, else a tenth of the rows, rounded up. Deterministic for `evidence.rng`. AdaDS
    section 4.1.
    """
    features = features_of(evidence)
    rows = len(features)
    if clusters is None:
        clusters = evidence.keep if evidence.keep is not None else -(-rows // 10)
    rng = evidence.rng
    seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
    centres, assignment, distance = kmeans(features, clusters, seed)
    # two rows alone are equally far from their mean: their order decides, not the last bit of a distance
    size = torch.bincount(assignment, minlength=len(centres))[assignment]
    total = distance.new_zeros(len(centres)).index_add(0, assignment, distance)[assignment]
    distance = torch.where(size == 2, total / 2, distance)
    order = distance.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(rows, device=order.device)
    first = torch.full((len(centres),), rows, device=order.device).scatter_reduce_(0, assignment, rank, "amin")
    scores = 1 / (1 + double(distance))
    scores[order[first[first < rows]]] += 1
    return scores
