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
from kdlab.methods.selection.top_k import top_k
from kdlab.types import IGNORE, Evidence
from tests.support.evidence import ON_LOGITS, STRATEGIES, evidence
from tests.support.selections import SINGLE, STRATEGY_NAMES

LOGITS = np.random.default_rng(0).normal(size=(40, 7)) * 3
LABELS = np.random.default_rng(5).integers(0, 7, size=40)
P = softmax(LOGITS, axis=1)
SORTED = np.sort(P, axis=1)[:, ::-1]
EXPECTED = {  # the oracle of each strategy on logits: scores (40,) of the 40 rows
    "entropy": stats.entropy(P, axis=1),
    "scaled_entropy": stats.entropy(P, axis=1, base=7),
    "margin": SORTED[:, 1] - SORTED[:, 0],
    "least_confidence": 1 - P.max(1),
    "certainty": -stats.entropy(P, axis=1),
    "gradient_norm": np.linalg.norm(P - np.eye(7)[LABELS], axis=1),
}


def rows(*shape: int, **more) -> Evidence:
    """The first rows of LOGITS and LABELS, in this shape."""
    count = math.prod(shape)
    logits = torch.as_tensor(LOGITS[:count], dtype=torch.float32)
    return evidence(logits.view(*shape, 7), torch.as_tensor(LABELS[:count]).view(shape), **more)


@pytest.mark.parametrize("name", sorted({*STRATEGIES, *STRATEGY_NAMES}))
def test_every_strategy_has_an_oracle(name):
    """A row of EXPECTED, or a test here that begins with its name: of each function and of each arm in conf/select."""
    assert hasattr(strategies, name)
    if name in ON_LOGITS:
        assert name in EXPECTED, f"add {name} to EXPECTED: its scores of the 40 rows of LOGITS by another library"
    elif name not in EXPECTED:
        of_its_own = [test for test in globals() if test.startswith(f"test_{name.lower()}_")]
        assert of_its_own, f"add a test_{name.lower()}_... with a value worked out by hand or by another library"


def test_every_strategy_has_a_configuration():
    assert set(STRATEGIES) == set(SINGLE) - {"ensemble"}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_classification(name):
    scores = getattr(strategies, name)(rows(40))
    np.testing.assert_allclose(scores.numpy(), EXPECTED[name], rtol=1e-5, atol=1e-7)


def test_by_hand():
    """p = (1/2, 1/4, 1/4): entropy 1.5 log 2, p2 - p1 = -1/4, 1 - p1 = 1/2, ||p - (1, 0, 0)||^2 = 6/16."""
    row = evidence(np.log(np.float32([[0.5, 0.25, 0.25]])), [0])
    assert float(strategies.entropy(row)) == pytest.approx(1.5 * math.log(2))
    assert float(strategies.scaled_entropy(row)) == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert float(strategies.margin(row)) == pytest.approx(-0.25)
    assert float(strategies.least_confidence(row)) == pytest.approx(0.5)
    assert float(strategies.certainty(row)) == pytest.approx(-1.5 * math.log(2))
    assert float(strategies.gradient_norm(row)) == pytest.approx(math.sqrt(6 / 16))


def test_gradient_norm_of_certain_and_of_unlabelled_rows():
    logits = torch.tensor([[40.0, 0, 0]] * 3)
    scores = strategies.gradient_norm(evidence(logits, [0, 1, IGNORE]))
    # by hand: 1 - p_0 = 2 exp(-40), of which each other class has half
    torch.testing.assert_close(scores[0], torch.tensor(math.exp(-40) * math.sqrt(6), dtype=torch.float64))
    assert scores[1:].tolist() == [pytest.approx(math.sqrt(2)), -math.inf]
    with pytest.raises(ValueError, match="needs labels"):
        strategies.gradient_norm(Evidence(logits=logits))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_masked_lm_is_the_mean_over_existing_positions(name):
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False], [True, True, True]])
    some = rows(4, 3, mask=mask)
    some.logits, some.labels = some.logits.clone(), torch.where(mask, some.labels, IGNORE)
    some.logits[~mask] = torch.nan  # positions that do not exist must not matter
    scores = getattr(strategies, name)(some).numpy()
    token = EXPECTED[name][:12].reshape(4, 3)
    expected = [token[0, :2].mean(), token[1, 0], -np.inf, token[3].mean()]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    whole = getattr(strategies, name)(rows(4, 3))
    np.testing.assert_allclose(whole.numpy(), token.mean(1), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_row_without_masked_positions_is_kept_last(name):
    strategy = getattr(strategies, name)
    mask = torch.tensor([[False, False], [True, True], [True, False]])
    assert top_k(strategy(rows(3, 2, mask=mask)), 0.67).tolist() == [1, 2]
    assert strategy(evidence(torch.zeros(3, 0, 7))).tolist() == [-math.inf] * 3


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("classes", [2, 3000])  # float64 below, float32 above
def test_slices_change_nothing(name, classes, monkeypatch):
    logits = np.random.default_rng(1).normal(size=(11, classes))
    mask = torch.as_tensor(np.random.default_rng(2).random(11) < 0.7)[:, None]
    pair = [evidence(logits.astype(np.float32)), evidence(logits[:, None].astype(np.float32), mask=mask)]
    before = [getattr(strategies, name)(e) for e in pair]
    monkeypatch.setattr(strategies, "SLICE", 3 * classes)
    for old, e in zip(before, pair, strict=True):
        torch.testing.assert_close(getattr(strategies, name)(e), old, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type(name, dtype):
    logits = torch.as_tensor(LOGITS).to(dtype)
    scores = getattr(strategies, name)(evidence(logits, LABELS))
    assert scores.dtype == torch.float64
    expected = getattr(strategies, name)(evidence(logits.float(), LABELS))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 1)])
def test_regression_has_no_uncertainty(name, shape):
    with pytest.raises(UserError, match="regression"):
        getattr(strategies, name)(evidence(torch.zeros(shape)))


def test_missing_evidence_is_named():
    with pytest.raises(ValueError, match="logits"):
        strategies.entropy(Evidence(features=torch.zeros(2, 2)))
    for strategy in (strategies.density, strategies.cluster):
        with pytest.raises(ValueError, match="features"):
            strategy(rows(40))
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


def test_ensemble_is_the_mean_of_normalised_ranks():
    scores = np.random.default_rng(4).integers(0, 5, size=(3, 12)).astype(float)
    expected = ((stats.rankdata(scores, axis=1) - 1) / 11).mean(0)
    members = [strategies.entropy, strategies.density, strategies.random]
    np.testing.assert_allclose(Ensemble(members).combine(torch.as_tensor(scores)), expected)


def test_ensemble_by_hand():
    """Ranks (0, 1, 2) and (1.5, 1.5, 0), over 2, averaged."""
    own = {"a": lambda e: torch.tensor([1.0, 2, 3]), "b": lambda e: torch.tensor([7, 7, -torch.inf])}
    np.testing.assert_allclose(Ensemble(own)(rows(3)), [0.375, 0.625, 0.5])


def test_ensemble_members():
    ensemble = Ensemble([strategies.entropy, functools.partial(strategies.cluster, clusters=2)])
    assert list(ensemble.members) == ["entropy", "cluster"]
    assert Ensemble([strategies.entropy])(rows(1)).tolist() == [0]
    with pytest.raises(UserError, match="two ensemble members"):
        Ensemble([strategies.cluster, functools.partial(strategies.cluster, clusters=2)])
    with pytest.raises(UserError, match="at least one"):
        Ensemble({})
    with pytest.raises(ValueError, match="NaN"):
        ensemble.combine(torch.tensor([[0.0, torch.nan]]))
