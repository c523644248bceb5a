"""Every strategy against SciPy, NumPy or a number worked out by hand."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from kdlab.errors import UserError
from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies import Ensemble
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.types import Evidence

LOGITS = np.random.default_rng(0).normal(size=(40, 7)) * 3
P = softmax(LOGITS, axis=1)
SORTED = np.sort(P, axis=1)[:, ::-1]
EXPECTED = {
    "entropy": stats.entropy(P, axis=1),
    "scaled_entropy": stats.entropy(P, axis=1, base=7),
    "margin": SORTED[:, 1] - SORTED[:, 0],
    "least_confidence": 1 - P.max(1),
    "certainty": -stats.entropy(P, axis=1),
}
UNCERTAIN = sorted(EXPECTED)


def evidence(logits, **more) -> Evidence:
    return Evidence(logits=torch.as_tensor(np.asarray(logits), dtype=torch.float32), **more)


@pytest.mark.parametrize("name", UNCERTAIN)
def test_classification(name):
    scores = getattr(strategies, name)(evidence(LOGITS))
    np.testing.assert_allclose(scores.numpy(), EXPECTED[name], rtol=1e-5, atol=1e-7)


def test_by_hand():
    """p = (1/2, 1/4, 1/4): entropy 1.5 log 2, p2 - p1 = -1/4, 1 - p1 = 1/2."""
    row = evidence(np.log([[0.5, 0.25, 0.25]]))
    assert float(strategies.entropy(row)) == pytest.approx(1.5 * math.log(2))
    assert float(strategies.scaled_entropy(row)) == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert float(strategies.margin(row)) == pytest.approx(-0.25)
    assert float(strategies.least_confidence(row)) == pytest.approx(0.5)
    assert float(strategies.certainty(row)) == pytest.approx(-1.5 * math.log(2))


@pytest.mark.parametrize("name", UNCERTAIN)
def test_masked_lm_is_the_mean_over_existing_positions(name):
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False], [True, True, True]])
    logits = torch.as_tensor(LOGITS[:12], dtype=torch.float32).view(4, 3, 7).clone()
    logits[~mask] = torch.nan  # what does not exist must not matter
    scores = getattr(strategies, name)(Evidence(logits=logits, mask=mask)).numpy()
    token = EXPECTED[name][:12].reshape(4, 3)
    expected = [token[0, :2].mean(), token[1, 0], -np.inf, token[3].mean()]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    whole = getattr(strategies, name)(evidence(LOGITS[:12].reshape(4, 3, 7)))
    np.testing.assert_allclose(whole.numpy(), token.mean(1), rtol=1e-5)


@pytest.mark.parametrize("name", UNCERTAIN)
def test_a_row_without_masked_positions_is_kept_last(name):
    strategy = getattr(strategies, name)
    mask = torch.tensor([[False, False], [True, True], [True, False]])
    assert top_k(strategy(evidence(LOGITS[:6].reshape(3, 2, 7), mask=mask)), 0.67).tolist() == [1, 2]
    assert strategy(Evidence(logits=torch.zeros(3, 0, 7))).tolist() == [-math.inf] * 3


@pytest.mark.parametrize("name", UNCERTAIN)
@pytest.mark.parametrize("classes", [2, 3000])  # float64 below, float32 above
def test_slices_change_nothing(name, classes, monkeypatch):
    logits = np.random.default_rng(1).normal(size=(11, classes))
    mask = torch.as_tensor(np.random.default_rng(2).random(11) < 0.7)[:, None]
    pair = [evidence(logits), evidence(logits[:, None], mask=mask)]
    before = [getattr(strategies, name)(e) for e in pair]
    monkeypatch.setattr(strategies, "SLICE", 3 * classes)
    for old, e in zip(before, pair, strict=True):
        torch.testing.assert_close(getattr(strategies, name)(e), old, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", UNCERTAIN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type(name, dtype):
    logits = torch.as_tensor(LOGITS).to(dtype)
    scores = getattr(strategies, name)(Evidence(logits=logits))
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, getattr(strategies, name)(Evidence(logits=logits.float())), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hot", [1e4, 3e38, math.inf])
@pytest.mark.parametrize("classes", [2, 5, 2000])
def test_one_hot_is_certain(hot, classes):
    logits = torch.full((3, classes), -hot)
    logits[:, 0] = 0.0 if hot == math.inf else hot
    row = Evidence(logits=logits)
    assert strategies.entropy(row).tolist() == [0, 0, 0]
    assert strategies.scaled_entropy(row).tolist() == [0, 0, 0]
    assert strategies.certainty(row).tolist() == [0, 0, 0]
    assert strategies.margin(row).tolist() == [-1, -1, -1]
    assert strategies.least_confidence(row).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", UNCERTAIN)
@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 1)])
def test_regression_has_no_uncertainty(name, shape):
    with pytest.raises(UserError, match="regression"):
        getattr(strategies, name)(Evidence(logits=torch.zeros(shape)))


def test_missing_evidence_is_named():
    with pytest.raises(ValueError, match="logits"):
        strategies.entropy(Evidence(features=torch.zeros(2, 2)))
    for strategy in (strategies.density, strategies.cluster):
        with pytest.raises(ValueError, match="features"):
            strategy(evidence(LOGITS))
    with pytest.raises(ValueError, match="does not fit"):
        strategies.entropy(Evidence(logits=torch.zeros(2, 3, 4), mask=torch.ones(2, 4)))


def test_random_is_uniform_and_keyed_by_its_generator():
    def draw(seed):
        return strategies.random(Evidence(rows=torch.arange(10), rng=torch.Generator().manual_seed(seed)))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    counts = np.bincount(np.concatenate([top_k(draw(seed), 0.3).numpy() for seed in range(1000)]), minlength=10)
    assert stats.chisquare(counts).pvalue > 0.01  # each row is kept 300 times of 1000


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


@pytest.mark.parametrize(("n", "ratio", "k"), [(8, 0.1, 1), (30, 0.1, 3), (10, 0.3, 3), (100, 0.29, 29), (10, 1, 10)])
def test_kept(n, ratio, k):
    assert selection_size(n, ratio) == k
    assert len(top_k(torch.zeros(n), ratio)) == k


@pytest.mark.parametrize(("n", "ratio", "k"), [(1, 0.01, 1), (0, 0.5, 0), (3, 1 / 3, 1), (30, 1 / 3, 10), (19, 0.1, 1)])
def test_kept_at_the_edges(n, ratio, k):
    assert selection_size(n, ratio) == k


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, math.nan, math.inf, "abc", None, True])
def test_wrong_ratio(ratio):
    with pytest.raises(UserError, match=r"\(0, 1\]"):
        top_k(torch.zeros(4), ratio)


def test_top_breaks_ties_by_the_lower_index():
    assert top_k(torch.tensor([0.0, 2, 1, 2, 2, 1]), 0.5).tolist() == [1, 3, 4]
    assert top_k(torch.tensor([1.0, 1, 1, 1]), 0.5).tolist() == [0, 1]
    assert top_k(torch.tensor([-torch.inf, 1, torch.inf]), 0.7).tolist() == [1, 2]
    assert top_k(torch.tensor([3.0, 1, 2]), 1.0).tolist() == [0, 1, 2]


def test_top_refuses_nan_and_wrong_shapes():
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        top_k(torch.tensor([0.0, torch.nan]), 0.5)
    with pytest.raises(ValueError, match="shape"):
        top_k(torch.zeros(2, 2), 0.5)


def test_ensemble_is_the_mean_of_normalised_ranks():
    scores = np.random.default_rng(4).integers(0, 5, size=(3, 12)).astype(float)
    expected = ((stats.rankdata(scores, axis=1) - 1) / 11).mean(0)
    members = [strategies.entropy, strategies.density, strategies.random]
    np.testing.assert_allclose(Ensemble(members).combine(torch.as_tensor(scores)), expected)


def test_ensemble_by_hand():
    """Ranks (0, 1, 2) and (1.5, 1.5, 0), over 2, averaged."""
    own = {"a": lambda e: torch.tensor([1.0, 2, 3]), "b": lambda e: torch.tensor([7, 7, -torch.inf])}
    np.testing.assert_allclose(Ensemble(own)(evidence(LOGITS[:3])), [0.375, 0.625, 0.5])


def test_ensemble_members():
    ensemble = Ensemble([strategies.entropy, functools.partial(strategies.cluster, clusters=2)])
    assert list(ensemble.members) == ["entropy", "cluster"]
    assert Ensemble([strategies.entropy])(evidence(LOGITS[:1])).tolist() == [0]
    with pytest.raises(UserError, match="two ensemble members"):
        Ensemble([strategies.cluster, functools.partial(strategies.cluster, clusters=2)])
    with pytest.raises(UserError, match="at least one"):
        Ensemble({})
    with pytest.raises(ValueError, match="NaN"):
        ensemble.combine(torch.tensor([[0.0, torch.nan]]))
