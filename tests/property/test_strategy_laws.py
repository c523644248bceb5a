"""Laws of the strategies, for any numbers. Every strategy of kdlab is found and tried by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kdlab.methods.marks import marks_of
from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies import Ensemble
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.types import IGNORE, Evidence
from tests.support.evidence import ON_LOGITS, STRATEGIES, evidence

LAWS = settings(deadline=None, max_examples=40)
NUMBERS = st.floats(-30, 30, width=32)
LOGITS = arrays(np.float32, array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=9), elements=NUMBERS)
FEATURES = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.floats(-9, 9, width=16)
)
RATIOS = st.integers(1, 1000).map(lambda part: part / 1000)


def assert_near(a, b, tolerance=1e-6):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@LAWS
@given(st.lists(st.integers(1, 500), min_size=1, max_size=40, unique=True), st.data())
def test_with_two_classes_the_uncertain_strategies_keep_the_same_rows(gaps, data):
    """The gap of the two logits, up to 25 nats, decides all three, not its sign nor a shift. Dynamic KD section 3.2."""
    sign = np.array([data.draw(st.sampled_from([-1, 1])) for _ in gaps])
    shift = np.array([data.draw(st.sampled_from([-4.0, 0.0, 7.5])) for _ in gaps])
    pair = evidence(np.stack([shift, shift + sign * np.array(gaps) / 20], axis=1).astype(np.float32))
    ratio = data.draw(RATIOS)
    rows = top_k(strategies.entropy(pair), ratio).tolist()
    assert rows == top_k(strategies.margin(pair), ratio).tolist()
    assert rows == top_k(strategies.least_confidence(pair), ratio).tolist()
    assert rows == sorted(np.argsort(gaps)[: len(rows)].tolist())


@LAWS
@given(LOGITS, st.randoms(use_true_random=False))
def test_permuted_rows_have_permuted_scores(values, shuffle):
    order = list(range(len(values)))
    shuffle.shuffle(order)
    for strategy in ON_LOGITS.values():
        assert_near(strategy(evidence(values[order])), strategy(evidence(values))[order])


@LAWS
@given(LOGITS, st.randoms(use_true_random=False))
def test_permuted_classes_have_the_same_scores(values, shuffle):
    order = list(range(values.shape[-1]))
    shuffle.shuffle(order)
    for strategy in ON_LOGITS.values():
        assert_near(strategy(evidence(values, order=order)), strategy(evidence(values)))


@LAWS
@given(LOGITS, st.integers(-1000, 1000))
def test_a_shift_of_the_logits_changes_nothing(values, shift):
    row = evidence(values.astype(np.float64))
    assert row.logits is not None and row.teacher is not None
    for strategy in ON_LOGITS.values():
        shifted = replace(row, logits=row.logits + shift, teacher=row.teacher - shift)
        assert_near(strategy(shifted), strategy(row))


@LAWS
@given(LOGITS)
def test_ranges_and_identities(values):
    row, classes = evidence(values), values.shape[-1]
    entropy = strategies.entropy(row)
    slack = 1e-9
    assert bool((entropy >= 0).all())
    assert bool((entropy <= math.log(classes) + slack).all())
    assert_near(strategies.certainty(row), -entropy)
    assert_near(strategies.scaled_entropy(row) * math.log(classes), entropy)
    assert top_k(strategies.scaled_entropy(row), 0.5).tolist() == top_k(entropy, 0.5).tolist()
    margin, least = strategies.margin(row), strategies.least_confidence(row)
    assert bool((margin >= -1).all())
    assert bool((margin <= 0).all())
    assert bool((least >= 0).all())
    assert bool((least <= 1 - 1 / classes + slack).all())


@LAWS
@given(st.integers(2, 3000), st.integers(0, 1), st.sampled_from([50.0, 1e4, 1e30, math.inf]))
def test_one_hot_logits_have_no_entropy(classes, place, far):
    values = torch.full((2, classes), -far)
    values[:, place] = 0
    assert strategies.entropy(Evidence(logits=values)).abs().max() < 1e-15


@LAWS
@given(LOGITS.filter(lambda values: values.ndim == 3), st.data())
def test_positions_outside_the_mask_do_not_matter(values, data):
    mask = data.draw(arrays(np.bool_, values.shape[:2]))
    other = np.where(mask[..., None], values, data.draw(arrays(np.float32, values.shape, elements=NUMBERS)))
    mask = torch.as_tensor(mask)
    row = evidence(values, mask=mask)
    changed = evidence(other, torch.where(mask, row.labels, IGNORE), mask=mask)
    for strategy in ON_LOGITS.values():
        assert_near(strategy(row), strategy(changed))


@LAWS
@given(LOGITS, st.integers(1, 5))
def test_rowwise_strategies_may_be_chunked(values, size):
    row = evidence(values)
    assert row.logits is not None and row.labels is not None
    for strategy in ON_LOGITS.values():
        if marks_of(strategy).rowwise:
            parts = zip(row.logits.split(size), row.labels.split(size), strict=True)
            assert_near(torch.cat([strategy(evidence(*part)) for part in parts]), strategy(row))


@LAWS
@given(LOGITS, FEATURES, st.integers(0, 2**40))
def test_every_strategy_reads_what_it_declares_and_repeats_itself(values, features, seed):
    features = np.resize(features, (len(values), features.shape[1]))
    mask = None if values.ndim == 2 else torch.ones(values.shape[:2], dtype=torch.bool)
    for name, strategy in STRATEGIES.items():

        def whole() -> Evidence:
            rng, votes = torch.Generator().manual_seed(seed), torch.as_tensor(np.stack([values, -values, values / 2]))
            return evidence(values, features=torch.as_tensor(features), mask=mask, rng=rng, votes=votes)

        if marks_of(strategy).per_row and values.ndim == 3:
            continue
        scores = strategy(whole())
        assert scores.shape == (len(values),) and scores.dtype == torch.float64, name
        assert not scores.isnan().any() and not (scores == math.inf).any(), name
        assert torch.equal(strategy(whole()), scores), name
        assert torch.equal(strategy(whole().only(marks_of(strategy).needs)), scores), name


@LAWS
@given(LOGITS.filter(lambda values: values.ndim == 2 and len(values) > 2), st.integers(0, 2**40))
def test_sets_of_rows_do_not_depend_on_the_scale_of_features_and_are_k_rows(values, seed):
    """divbs and badge: k rows of scores k to 1 in their order; features times a number give the same."""
    features = torch.as_tensor(np.random.default_rng(seed).normal(size=(len(values), 6)), dtype=torch.float32)
    keep = max(1, len(values) // 2)
    for name in ("divbs", "badge"):

        def scores(times: float, name: str = name) -> torch.Tensor:
            rng = torch.Generator().manual_seed(seed)
            return STRATEGIES[name](evidence(values, features=features * times, keep=keep, rng=rng))

        found = scores(1.0).sort(descending=True).values
        assert found[:keep].tolist() == list(range(keep, 0, -1)) and bool((found[keep:] < 1).all())
        assert torch.equal(top_k(scores(2.0), keep / len(values)), top_k(scores(1.0), keep / len(values)))


@LAWS
@given(FEATURES)
def test_density_is_the_mean_of_all_pairs(values):
    unit = values.astype(np.float64)
    norm = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.divide(unit, norm, out=np.zeros_like(unit), where=norm > 0)
    pairs = unit @ unit.T
    np.fill_diagonal(pairs, 0)
    expected = pairs.sum(1) / max(len(unit) - 1, 1)
    np.testing.assert_allclose(strategies.density(Evidence(features=torch.as_tensor(values))), expected, atol=3e-6)


@LAWS
@given(FEATURES, st.randoms(use_true_random=False), st.floats(0.01, 100))
def test_density_follows_permutation_and_ignores_length(values, shuffle, scale):
    order = list(range(len(values)))
    shuffle.shuffle(order)
    before = strategies.density(Evidence(features=torch.as_tensor(values)))
    after = strategies.density(Evidence(features=torch.as_tensor(values[order] * np.float32(scale))))
    assert_near(after, before[order], 1e-5)


@settings(deadline=None, max_examples=25)
@given(FEATURES, st.integers(1, 12), st.integers(0, 2**40))
def test_cluster_keeps_one_of_each_cluster_first(values, clusters, seed):
    features = torch.as_tensor(values)

    def score():
        rng = torch.Generator().manual_seed(seed)
        return strategies.cluster(Evidence(features=features, rng=rng), clusters=clusters)

    scores = score()
    first = int((scores > 1).sum())
    assert 1 <= first <= min(clusters, len(np.unique(values, axis=0)))
    assert bool((scores > 0).all())
    assert bool((scores <= 2).all())
    assert torch.equal(scores, score())


@LAWS
@given(st.integers(1, 3000), st.integers(1, 10000))
def test_k_is_the_exact_floor(n, part):
    """Against exact arithmetic on the decimal the user wrote."""
    assert selection_size(n, part / 10000) == max(1, int(n * Fraction(part, 10000)))


@LAWS
@given(st.lists(st.one_of(st.integers(0, 3).map(float), st.just(-math.inf)), min_size=1, max_size=50), RATIOS)
def test_top_against_a_sort(scores, ratio):
    k = selection_size(len(scores), ratio)
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:k]
    assert top_k(torch.tensor(scores), ratio).tolist() == sorted(best)
    assert top_k(torch.tensor(scores), 1.0).tolist() == list(range(len(scores)))


@LAWS
@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(-5, 5)))
def test_ensemble_ranks_do_not_depend_on_scale(scores):
    combine = Ensemble([strategies.entropy]).combine
    ranks = combine(torch.as_tensor(scores))
    assert bool((ranks >= 0).all())
    assert bool((ranks <= 1).all())
    assert_near(combine(torch.as_tensor(np.exp(scores) * 1e-3)), ranks)
    if scores.shape[1] > 1:
        assert abs(float(ranks.mean()) - 0.5) < 1e-9
