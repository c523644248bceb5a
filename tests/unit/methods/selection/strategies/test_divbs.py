"""DivBS against its objective by brute force, on gradients that are made in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies.gradient_embeddings import label_residuals
from kdlab.methods.selection.top_k import top_k
from kdlab.types import IGNORE, Evidence


def rows(seed: int, count: int = 14, classes: int = 4, width: int = 5) -> tuple[Evidence, np.ndarray]:
    """Random rows, and their gradients (N, C H) in the last layer: (p - onehot(label)) times the features."""
    rng = np.random.default_rng(seed)
    logits, features = rng.normal(size=(count, classes)) * 2, rng.normal(size=(count, width)).astype(np.float32)
    labels = rng.integers(0, classes, size=count)
    residual = softmax(logits, axis=1) - np.eye(classes)[labels]
    gradients = np.einsum("nc,nh->nch", residual, features.astype(float)).reshape(count, -1)
    given = Evidence(logits=torch.as_tensor(logits), features=torch.as_tensor(features), labels=torch.as_tensor(labels))
    return given, gradients


def explained(gradients: np.ndarray, chosen: list[int]) -> np.ndarray:
    """The part of the sum of all gradients in the span of those of the rows chosen, by least squares."""
    total = gradients.sum(0)
    if not chosen:
        return np.zeros_like(total)
    basis = gradients[chosen].T
    return basis @ np.linalg.lstsq(basis, total, rcond=None)[0]


def greedy(gradients: np.ndarray, count: int, exact: bool) -> list[int]:
    """The greedy choice from the definition: the largest representativeness |P_S G|^2, or the largest |g . R|."""
    chosen: list[int] = []
    for _ in range(count):
        others = [row for row in range(len(gradients)) if row not in chosen]
        rest = gradients.sum(0) - explained(gradients, chosen)
        gain = {
            row: np.linalg.norm(explained(gradients, [*chosen, row])) if exact else abs(gradients[row] @ rest)
            for row in others
        }
        chosen.append(max(others, key=gain.__getitem__))
    return chosen


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_divbs_is_the_greedy_choice_by_brute_force(exact, seed):
    given, gradients = rows(seed)
    expected = greedy(gradients, 6, exact)
    given.keep = 6
    scores = strategies.divbs(given, exact=exact)
    assert scores.argsort(descending=True)[:6].tolist() == expected
    assert scores[expected].tolist() == [6, 5, 4, 3, 2, 1] and float(scores.sort().values[-7]) < 1
    assert top_k(scores, 6 / 14).tolist() == sorted(expected)


def test_divbs_by_hand():
    """Labels of class 0, p = (1/2, 1/2): gradients are (-z/2, z/2). z of the rows: (3, 0), (3, 0), (0, 2). G is along
    (6, 2): |g . G| is largest for the first; the second repeats it, so the third comes next, then the second."""
    features = torch.tensor([[3.0, 0], [3, 0], [0, 2]])
    given = Evidence(logits=torch.zeros(3, 2), labels=torch.zeros(3, dtype=torch.long), features=features, keep=2)
    assert strategies.divbs(given).argsort(descending=True).tolist() == [0, 2, 1]
    given.keep = 3  # once nothing adds to the set, the rest follows
    assert sorted(strategies.divbs(given).tolist()) == [1, 2, 3]


def test_divbs_fills_up_with_random_rows_where_no_gradient_is_left():
    """40 rows of 2 classes and width 2: two gradients span all."""
    given, _ = rows(0, 40, 2, 2)

    def kept(seed: int) -> list[int]:
        given.keep, given.rng = 10, torch.Generator().manual_seed(seed)
        scores = strategies.divbs(given)
        assert scores.sort(descending=True).values[:10].tolist() == list(range(10, 0, -1))
        return scores.argsort(descending=True)[:10].tolist()

    drawn = [kept(seed) for seed in range(4)]
    assert drawn[0] == kept(0) and len({tuple(one[:2]) for one in drawn}) == 1 < len({tuple(one) for one in drawn})


def test_divbs_leaves_rows_without_a_label_for_the_end():
    given, gradients = rows(1)
    assert given.labels is not None
    given.labels[[0, 3]] = IGNORE
    given.keep = 14
    scores = strategies.divbs(given)
    assert scores[[0, 3]].tolist() == [-torch.inf] * 2
    others = [row for row in range(14) if row not in (0, 3)]
    given.keep = 5
    expected = [others[row] for row in greedy(gradients[others], 5, False)]
    assert strategies.divbs(given).argsort(descending=True)[:5].tolist() == expected


def test_the_residual_of_masked_text_is_the_mean_over_its_masked_words():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(3, 2, 7)), rng.integers(0, 7, size=(3, 2))
    mask = np.array([[True, True], [True, False], [False, False]])
    token = softmax(logits, axis=-1) - np.eye(7)[labels]
    logits[1, 1] = np.nan  # of a word that does not exist
    given = Evidence(logits=torch.as_tensor(logits), labels=torch.as_tensor(labels), mask=torch.as_tensor(mask))
    found = label_residuals(given).numpy()
    np.testing.assert_allclose(found[:2], [token[0].mean(0), token[1, 0]], atol=1e-12)
    assert (found[2] == -np.inf).all()
