"""BADGE against plain k-means++ seeding, on gradient embeddings that are made in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from kdlab.methods.selection import strategies
from kdlab.types import Evidence


def rows(seed: int, count: int = 30, classes: int = 4, width: int = 5) -> tuple[Evidence, np.ndarray]:
    """Random rows, and their embeddings (N, C H): (p_i - 1[i is the predicted class]) times the features (Eq. 1)."""
    rng = np.random.default_rng(seed)
    logits, features = rng.normal(size=(count, classes)) * 2, rng.normal(size=(count, width)).astype(np.float32)
    residual = softmax(logits, axis=1) - np.eye(classes)[logits.argmax(1)]
    embeddings = np.stack([np.outer(r, z).ravel() for r, z in zip(residual, features.astype(float), strict=True)])
    return Evidence(logits=torch.as_tensor(logits), features=torch.as_tensor(features)), embeddings


def seeding(embeddings: np.ndarray, draws: np.ndarray) -> list[int]:
    """k-means++ seeding (Arthur and Vassilvitskii 2007) with these uniform draws."""
    chosen = [int(draws[0] * len(embeddings))]
    for uniform in draws[1:]:
        nearest = np.min([((embeddings - embeddings[row]) ** 2).sum(1) for row in chosen], axis=0)
        sums = np.cumsum(nearest)
        chosen.append(int(np.searchsorted(sums, uniform * sums[-1], side="right")))
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_badge_is_k_means_plus_plus_on_whole_gradient_embeddings(seed):
    given, embeddings = rows(seed)
    draws = torch.rand(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    given.keep, given.rng = 8, torch.Generator().manual_seed(seed)
    scores = strategies.badge(given)
    expected = seeding(embeddings, draws)
    assert scores.argsort(descending=True)[:8].tolist() == expected and len(set(expected)) == 8
    assert scores[expected].tolist() == list(range(8, 0, -1)) and float(scores.sort().values[-9]) < 1


def test_badge_draws_in_proportion_to_the_squared_distance_by_hand():
    """Two classes at p = (1/2, 1/2): embeddings are (-z/2, z/2). z: 0, 1, 3. From 0 the squared distances are as 1 to 9,
    from 1 as 1 to 4, from 3 as 9 to 4."""
    features = torch.tensor([[0.0], [1], [3]])
    given = Evidence(logits=torch.zeros(3, 2), features=features, keep=2)
    pairs = np.zeros((3, 3))
    for seed in range(390):
        given.rng = torch.Generator().manual_seed(seed)
        first, second = strategies.badge(given).argsort(descending=True)[:2].tolist()
        pairs[first, second] += 1
    expected = np.array([[0, 0.1, 0.9], [0.2, 0, 0.8], [9 / 13, 4 / 13, 0]]) * 130
    off = ~np.eye(3, dtype=bool)
    assert stats.chisquare(pairs[off], expected[off]).pvalue > 0.01


def test_badge_draws_rows_that_coincide_only_when_no_others_are_left():
    features = torch.tensor([[1.0, 2]] * 5 + [[3, -1]])
    given = Evidence(logits=torch.tensor([[0.3, 0.1, -2]] * 6), features=features, keep=2)
    for seed in range(8):
        given.keep, given.rng = 2, torch.Generator().manual_seed(seed)
        assert 5 in strategies.badge(given).argsort(descending=True)[:2].tolist()
        given.keep, given.rng = 6, torch.Generator().manual_seed(seed)
        assert sorted(strategies.badge(given).tolist()) == [1, 2, 3, 4, 5, 6]


def test_badge_keeps_texts_without_a_masked_word_last():
    given, _ = rows(0, 6)
    assert given.logits is not None
    given.logits, given.mask = given.logits.view(3, 2, 4), torch.tensor([[True, False], [False, False], [True, True]])
    given.features, given.keep = torch.eye(3), 3
    scores = strategies.badge(given)
    assert scores[1] == -torch.inf and sorted(scores[[0, 2]].tolist()) == [1, 2]
