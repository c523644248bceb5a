"""The statistics of `kdlab.compare` against SciPy, complete enumeration, and sums done by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from kdlab.reporting.statistics import detectable, holm, paired, two_sided

NUMBERS = st.lists(
    st.tuples(st.floats(-100, 100), st.floats(-100, 100)).map(lambda pair: (round(pair[0], 3), round(pair[1], 3))),
    min_size=2,
    max_size=8,
)


def spread(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The two columns of pairs whose differences differ clearly."""
    own, base = map(list, zip(*pairs, strict=True))
    assume(np.std(np.subtract(own, base)) > 1e-3)
    return own, base


def test_an_example_by_hand():
    # differences 1, 2, 3: mean 2, std 1, t = 2 sqrt(3); with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)
    found = paired([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert (found.pairs, found.difference, found.std) == (3, 2.0, 1.0)
    assert found.t == pytest.approx(2 * math.sqrt(3), rel=1e-12)
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-10)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
def test_the_t_test_is_scipys(n):
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.5, 30.0):
        own, base = rng.normal(shift, 1, n), rng.normal(0, 1, n)
        theirs = stats.ttest_rel(own, base)
        found = paired(own.tolist(), base.tolist())
        assert found.t == pytest.approx(theirs.statistic, rel=1e-10)
        assert found.p == pytest.approx(theirs.pvalue, rel=1e-8)
        assert found.std == pytest.approx(np.std(own - base, ddof=1))


@pytest.mark.parametrize("df", [1, 2, 3, 9, 99, 1000])
@pytest.mark.parametrize("t", [0.0, 0.3, -2.0, 12.7, 1e3, -1e6])
def test_the_tails_of_the_t_distribution(t, df):
    expected = 2 * stats.t.sf(abs(t), df)
    assert two_sided(t, df) == pytest.approx(expected, rel=1e-8, abs=1e-280)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
def test_the_interval_is_scipys(n):
    rng = np.random.default_rng(100 + n)
    own, base = rng.normal(0.4, 1, n), rng.normal(0, 1, n)
    theirs = stats.ttest_rel(own, base).confidence_interval(0.95)
    found = paired(own.tolist(), base.tolist())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-8)


@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_covers_the_true_difference_in_95_cases_of_100(n):
    drawn = np.random.default_rng(7).normal(1.0, 2.0, (1000, n))
    found = [paired(row.tolist(), [0.0] * n) for row in drawn]
    assert np.mean([one.low <= 1.0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.021)  # 3 standard errors


@pytest.mark.parametrize("difference", [0.0, 0.01, -0.07])
def test_equal_differences_are_no_test_and_no_warning(difference):
    base = [0.8, 0.83, 0.871]  # 0.81 - 0.8 and 0.84 - 0.83 differ in their last bits
    found = paired([value + difference for value in base], base)
    assert found.difference == pytest.approx(difference)
    assert (found.std, found.t, found.p, found.low, found.high) == (0.0, None, None, None, None)
    assert paired([0.0, 0.0], [0.0, 0.0]).p is None


def test_one_pair_has_a_difference_alone():
    found = paired([0.75], [0.5])
    assert (found.pairs, found.difference, found.std, found.p, found.low) == (1, 0.25, None, None, None)


@pytest.mark.parametrize(("own", "base"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_cannot_be_paired(own, base):
    with pytest.raises(ValueError, match="cannot be paired"):
        paired(own, base)


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04: times 4, 3, 2, 1 is 0.04 0.06 0.06 0.04, and none below the one before it
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_closed_test_of_all_subsets(ps):
    # Holm's p is the largest Bonferroni p of all sets of hypotheses that hold this one (closure principle)
    def closed(i: int) -> float:
        others = [p for j, p in enumerate(ps) if j != i]
        sets = [[ps[i], *some] for k in range(len(ps)) for some in itertools.combinations(others, k)]
        return max(min(1.0, len(some) * min(some)) for some in sets)

    assert holm(ps) == pytest.approx([closed(i) for i in range(len(ps))])


@pytest.mark.parametrize("pairs", [2, 3, 5, 10, 30])
def test_the_detectable_difference_is_found_in_four_cases_of_five(pairs):
    std, df = 1.7, pairs - 1
    ncp = detectable(std, pairs) / std * math.sqrt(pairs)
    critical = stats.t.isf(0.025, df)
    assert stats.nct.sf(critical, df, ncp) == pytest.approx(0.8, abs=1e-5)  # the other side counts for less than that


@given(NUMBERS)
def test_exchanging_the_baseline_turns_the_sign(pairs):
    own, base = spread(pairs)
    there, back = paired(own, base), paired(base, own)
    assert back.difference == pytest.approx(-there.difference)
    assert back.p == pytest.approx(there.p) and back.t == pytest.approx(-there.t)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-9)


@given(NUMBERS, st.floats(0.01, 100), st.floats(-50, 50))
def test_scale_and_shift(pairs, scale, shift):
    own, base = spread(pairs)
    plain = paired(own, base)
    moved = paired([scale * (x + shift) for x in own], [scale * (x + shift) for x in base])
    assert moved.p == pytest.approx(plain.p, rel=1e-4)
    for name in ("difference", "std", "low", "high"):
        assert getattr(moved, name) == pytest.approx(scale * getattr(plain, name), rel=1e-6, abs=1e-7 * scale)
    further = paired([x + shift for x in own], base)  # the baseline stays: difference and interval move along
    assert further.difference == pytest.approx(plain.difference + shift, abs=1e-7)
    assert (further.low, further.high) == pytest.approx((plain.low + shift, plain.high + shift), abs=1e-7)


@given(NUMBERS)
def test_the_interval_excludes_zero_where_p_is_below_a_twentieth(pairs):
    own, base = spread(pairs)
    found = paired(own, base)
    assert found.low <= found.difference <= found.high
    assert 0 <= found.p <= 1
    assume(abs(found.p - 0.05) > 1e-6)
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)
