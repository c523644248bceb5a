"""Adoption rules by hand, and the laws they keep."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdlab import ranges
from kdlab.errors import UserError
from kdlab.methods import adoption
from kdlab.methods.marks import marks_of

OWN = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.3])
MUKI_SOFT = functools.partial(adoption.by_certainty, scale=0.2)
RULES = [adoption.ensemble, adoption.hard, adoption.soft, adoption.least_uncertain, adoption.by_certainty, MUKI_SOFT]


def test_the_uncertain_half_asks_the_small_teacher_and_the_odd_row_goes_to_the_large_one():
    """As in Dynamic KD's public code: indices[: n // 2] of the sorted rows to the small teacher, the rest to the large."""
    small, large = [0, 1, 1, 0, 0], [1, 0, 0, 1, 1]  # by hand: the order is rows 1, 2, 3, 4, 0
    assert torch.equal(adoption.hard(OWN, None, 2), torch.tensor([small, large]).T.float())
    assert adoption.hard(torch.tensor([0.5]), None, 2).tolist() == [[0, 1]]


def test_the_teacher_of_a_row_is_that_of_its_column():
    column = torch.tensor([2, 0, 1, 2])  # of four rows of the data
    rows = torch.tensor([3, 1, 0])
    found = adoption.by_column(OWN[:3], None, 3, rows=rows, numbers=column.__getitem__)
    assert found.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]


def test_three_teachers_share_the_rows_in_three_parts():
    asked = adoption.hard(OWN, None, 3).argmax(1)
    assert asked.tolist() == [2, 0, 1, 1, 2]  # one, two, two


def test_soft_weights_are_u_and_one_minus_u():
    torch.testing.assert_close(adoption.soft(OWN, None, 2), torch.stack([OWN, 1 - OWN], 1))


def test_soft_weights_of_three_teachers_lie_between_neighbours():
    found = adoption.soft(torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]), None, 3)
    by_hand = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    torch.testing.assert_close(found, torch.tensor(by_hand))


def test_the_surest_teacher_answers_or_all_in_proportion():
    theirs = torch.tensor([[0.2, 0.6], [0.9, 0.4], [1.0, 1.0]])
    assert adoption.least_uncertain(OWN[:3], theirs, 2).tolist() == [[1, 0], [0, 1], [1, 0]]
    by_hand = torch.tensor([[0.8 / 1.2, 0.4 / 1.2], [0.1 / 0.7, 0.6 / 0.7], [0.5, 0.5]])
    torch.testing.assert_close(adoption.by_certainty(OWN[:3], theirs, 2), by_hand)


def test_muki_softens_the_scores_by_a_fifth():
    """Scores 1 - u of 0.9 and 0.1 over 0.2 are 4.5 and 0.5: 1 / (1 + e^-4)."""
    found = MUKI_SOFT(OWN[:2], torch.tensor([[0.1, 0.9], [0.5, 0.5]]), 2)
    sure = 1 / (1 + math.exp(-4))
    assert sure == pytest.approx(0.98201379)
    torch.testing.assert_close(found, torch.tensor([[sure, 1 - sure], [0.5, 0.5]]))
    three = MUKI_SOFT(OWN[:1], torch.tensor([[0.0, 0.2, 0.4]]), 3)  # 5, 4, 3
    parts = [math.exp(n) / (math.exp(5) + math.exp(4) + math.exp(3)) for n in (5, 4, 3)]
    torch.testing.assert_close(three, torch.tensor([parts]))


def test_mukis_margin_weighs_a_row_by_the_two_best_scores():
    theirs = torch.tensor([[0.1, 0.9, 0.3], [0.4, 0.4, 0.9]])  # scores 0.9, 0.1, 0.7 and 0.6, 0.6, 0.1
    margins = torch.tensor([0.2 + 1e-6, 1e-6])
    hard = adoption.least_uncertain(OWN[:2], theirs, 3, margin=True)
    torch.testing.assert_close(hard, torch.tensor([[1.0, 0, 0], [1, 0, 0]]) * margins[:, None])
    for rule in (MUKI_SOFT, adoption.by_certainty):
        weights = rule(OWN[:2], theirs, 3, margin=True)
        torch.testing.assert_close(weights.sum(1), margins)
        torch.testing.assert_close(weights / margins[:, None], rule(OWN[:2], theirs, 3))


@pytest.mark.parametrize("scale", [0.0, -0.2, math.inf, math.nan])
def test_a_scale_that_divides_nothing_is_refused(scale):
    with pytest.raises(UserError, match="scale="):
        ranges.check("scale", scale, ranges.hints_of(adoption.by_certainty)["scale"])


def test_one_teacher_alone_is_the_smallest_or_the_largest():
    assert adoption.alone(OWN, None, 3, place=0).tolist() == [[1, 0, 0]] * 5
    assert adoption.alone(OWN, None, 3).tolist() == [[0, 0, 1]] * 5


def test_every_teacher_counts_whole_and_the_ensemble_in_equal_parts():
    assert adoption.every(OWN, None, 3).tolist() == [[1, 1, 1]] * 5
    torch.testing.assert_close(adoption.ensemble(OWN, None, 4), torch.full((5, 4), 0.25))


@given(st.lists(st.floats(0, 1), max_size=9), st.integers(1, 4), st.integers(0, 5))
def test_weights_of_a_row_are_never_negative_and_sum_to_one(own, teachers, seed):
    theirs = torch.rand(len(own), teachers, generator=torch.Generator().manual_seed(seed))
    for rule in RULES:
        weights = rule(torch.tensor(own), theirs, teachers)
        assert weights.shape == (len(own), teachers) and bool((weights >= 0).all())
        torch.testing.assert_close(weights.sum(1), torch.ones(len(own)))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9, unique=True), st.integers(1, 4), st.randoms())
def test_the_order_of_the_rows_does_not_matter(own, teachers, random):
    order = list(range(len(own)))
    random.shuffle(order)
    rows = torch.tensor(own)
    for rule in (adoption.hard, adoption.soft):
        torch.testing.assert_close(rule(rows, None, teachers)[order], rule(rows[order], None, teachers))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 4))
def test_parts_differ_by_at_most_one_row_and_smaller_teachers_get_more_uncertain_ones(own, teachers):
    rows = torch.tensor(own)
    asked = adoption.hard(rows, None, teachers).argmax(1)
    sizes = torch.bincount(asked, minlength=teachers)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.tolist() == sorted(sizes.tolist())  # the larger teachers get the rows that are over
    for small in range(teachers - 1):
        if sizes[small]:
            assert rows[asked == small].min() >= rows[asked == small + 1].max()


@pytest.mark.parametrize("rule", [adoption.ensemble, adoption.every, adoption.hard, adoption.soft])
def test_rules_without_teachers_among_their_needs_ignore_them(rule):
    assert "teachers" not in marks_of(rule).needs
    assert torch.equal(rule(OWN, None, 2), rule(OWN, torch.rand(5, 2), 2))
