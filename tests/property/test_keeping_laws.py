"""Laws of keeping, for any scores and settings."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.methods.selection.keeping import Keeping
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.runtime.seeding import generator

LAWS = settings(deadline=None, max_examples=60)
SCORES = st.lists(st.one_of(st.floats(-9, 9), st.just(-math.inf), st.sampled_from([0.0, 1.0])), min_size=1, max_size=24)
RATIOS = st.integers(1, 1000).map(lambda part: part / 1000)
SHARES = st.floats(0, 1)
TEMPERATURES = st.one_of(st.none(), st.floats(0.01, 100))
BALANCES = st.sampled_from(["none", "predicted", "label"])


@LAWS
@given(SCORES, RATIOS, SHARES, BALANCES, TEMPERATURES, st.integers(0, 99), st.data())
def test_exactly_k_rows_are_kept_each_once_in_order(scores, ratio, explore, balance, temperature, seed, data):
    classes = torch.tensor([data.draw(st.integers(-1, 3)) for _ in scores])
    keeping = Keeping(explore, balance, temperature, importance=temperature is not None and balance == "none")
    kept = keeping.keep(torch.tensor(scores), ratio, generator(seed), classes)
    assert len(kept.rows) == selection_size(len(scores), ratio) and kept.rows.dtype == torch.int64
    assert kept.rows.tolist() == sorted(set(kept.rows.tolist())) and kept.rows[0] >= 0 and kept.rows[-1] < len(scores)
    again = keeping.keep(torch.tensor(scores), ratio, generator(seed), classes)
    assert kept.rows.equal(again.rows)
    assert (kept.weights is None) == (not keeping.importance)
    if kept.weights is not None:
        assert again.weights is not None and kept.weights.equal(again.weights)
        assert kept.weights.isfinite().all() and (kept.weights > 0).all() and len(kept.weights) == len(kept.rows)


@LAWS
@given(SCORES, RATIOS, st.integers(0, 99))
def test_without_settings_the_best_rows_are_kept(scores, ratio, seed):
    values = torch.tensor(scores)
    assert Keeping().keep(values, ratio, generator(seed)).rows.equal(top_k(values, ratio))


@LAWS
@given(SCORES, RATIOS, st.integers(0, 99))
def test_one_class_is_balanced_as_it_is(scores, ratio, seed):
    """Where all rows are of one class, the best are kept."""
    values, classes = torch.tensor(scores), torch.zeros(len(scores), dtype=torch.long)
    assert Keeping(balance="label").keep(values, ratio, generator(seed), classes).rows.equal(top_k(values, ratio))


@LAWS
@given(SCORES, RATIOS, st.integers(0, 99))
def test_a_low_temperature_keeps_the_best(scores, ratio, seed):
    """Ranks that differ by 1 / 24 or more, over T = 1e-3, are 41 nats apart: beyond any Gumbel number."""
    values = torch.tensor([score + i * 1e-3 for i, score in enumerate(scores)])  # no two the same, but those without
    found = Keeping(temperature=1e-3).keep(values, ratio, generator(seed)).rows
    if len({*values.tolist()}) == len(values):
        assert found.equal(top_k(values, ratio))


@LAWS
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=24), RATIOS, st.integers(1, 5), st.data())
def test_quotas_are_as_equal_as_the_rows_allow(scores, ratio, classes, data):
    """No class keeps two rows more than another that has rows left; within a class the best are kept."""
    of = torch.tensor([data.draw(st.integers(0, classes - 1)) for _ in scores])
    values = torch.tensor(scores)
    kept = Keeping(balance="predicted").keep(values, ratio, generator(0), of).rows
    counts = [int((of[kept] == one).sum()) for one in range(classes)]
    sizes = [int((of == one).sum()) for one in range(classes)]
    for one in range(classes):
        assert all(counts[other] <= counts[one] + 1 for other in range(classes) if counts[one] < sizes[one])
        own = (of == one).nonzero().flatten()
        best = own[values[own].argsort(descending=True, stable=True)[: counts[one]]]
        assert set(best.tolist()) == set(kept[of[kept] == one].tolist())


@LAWS
@given(SCORES, RATIOS, st.integers(0, 99))
def test_all_at_random_does_not_read_the_scores(scores, ratio, seed):
    """explore=1: any scores give a uniform draw of the same number of rows, the scores in another order another one."""
    values = torch.tensor(scores)
    found = Keeping(explore=1.0).keep(values, ratio, generator(seed)).rows
    draw = torch.randperm(len(scores), generator=generator(seed))[: len(found)]
    assert found.equal(draw.sort().values)
