"""kdlab.methods.selection.strategies.features against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdlab.methods.selection import strategies
from kdlab.types import Evidence


def test_density_by_hand():
    """Unit vectors at 0, 90 and 180 degrees, and a zero vector that resembles nothing."""
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(strategies.density(Evidence(features=features)), [-1 / 3, 0, -1 / 3, 0], atol=1e-7)
    assert strategies.density(Evidence(features=features[:1])).tolist() == [0]


def test_cluster_takes_the_nearest_of_each_cluster_first():
    """Two blobs far apart, five rows and two; then nearest first, whichever the blob."""
    features = torch.tensor([[0.0, 0], [0, 1], [0, -1], [0, 2], [0, -2], [100, 0], [100, 0.5]])
    scores = strategies.cluster(Evidence(features=features), clusters=2)
    assert scores.argsort(descending=True, stable=True).tolist() == [0, 5, 6, 1, 2, 3, 4]
    np.testing.assert_allclose(scores, [2, 0.5, 0.5, 1 / 3, 1 / 3, 1.8, 0.8], rtol=1e-6)


@pytest.mark.parametrize(("keep", "given", "clusters"), [(None, None, 3), (4, None, 4), (4, 2, 2)])
def test_number_of_clusters(keep, given, clusters):
    features = torch.as_tensor(np.random.default_rng(3).normal(size=(21, 5)))
    scores = strategies.cluster(Evidence(features=features, keep=keep), clusters=given)
    assert int((scores > 1).sum()) == clusters


def test_cluster_is_decided_by_its_generator():
    features = torch.as_tensor(np.random.default_rng(3).normal(size=(60, 5)))

    def score(seed):
        return strategies.cluster(Evidence(features=features, keep=20, rng=torch.Generator().manual_seed(seed)))

    assert torch.equal(score(5), score(5))
    assert any(not torch.equal(score(5), score(seed)) for seed in range(3))
