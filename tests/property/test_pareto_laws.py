"""kdlab.reporting.statistics.pareto_front: against its definition, on any points."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdlab.reporting.statistics import pareto_front

numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))  # the former meet often
points = st.lists(st.tuples(numbers, numbers), max_size=30)


def beaten(one: tuple[float, float], by: tuple[float, float]) -> bool:
    """True if `by` costs no more and scores no less, and differs."""
    return by[0] <= one[0] and by[1] >= one[1] and by != one


@given(points)
def test_the_front_is_what_no_other_point_beats(given_points):
    found = pareto_front(given_points)
    assert sorted(found) == [i for i, one in enumerate(given_points) if not any(beaten(one, by) for by in given_points)]


@given(points)
def test_it_runs_from_cheap_to_dear_and_only_rises(given_points):
    along = [given_points[i] for i in pareto_front(given_points)]
    assert all(a == b or (a[0] < b[0] and a[1] < b[1]) for a, b in zip(along, along[1:], strict=False))


@given(points, st.randoms())
def test_the_order_of_the_points_is_of_no_account(given_points, random):
    other = random.sample(given_points, len(given_points))
    assert sorted(given_points[i] for i in pareto_front(given_points)) == sorted(other[i] for i in pareto_front(other))


def test_by_hand():
    assert pareto_front([(10, 3), (1, 1), (5, 2), (5, 1), (10, 2), (20, 3), (1, 1)]) == [1, 6, 2, 0]
    assert pareto_front([]) == []
