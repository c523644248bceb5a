"""kdlab.methods.selection.candidates: how many rows are scored, and which."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from scipy.stats import chisquare

import kdlab
from kdlab.methods.selection import strategies
from kdlab.methods.selection.candidates import candidate_count, candidates, reads_student, require_choice
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.strategies import Ensemble
from kdlab.runtime.seeding import generator

ROWS, CLASSES = 40, 3


def selector(strategy: object, look: float, ratio: float = 0.1) -> RowSelector:
    return RowSelector({"only": strategy}, Fixed(["only"]), ratio, 9, 0, look=look)  # pyright: ignore[reportArgumentType]


def logits(step: int, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize(
    ("rows", "look", "keep", "count"),
    [(64, 0.3, 6, 19), (64, 1.0, 6, 64), (64, 0.05, 6, 6), (5, 0.3, 1, 1), (100, 0.29, 1, 29), (3, 0.1, 1, 1)],
)
def test_the_share_is_rounded_down_and_never_below_the_rows_kept(rows, look, keep, count):
    assert candidate_count(rows, look, keep) == count
    drawn = candidates(rows, look, keep, generator(0, "look", 1))
    assert (
        len(drawn) == count and drawn.tolist() == sorted(set(drawn.tolist())) and 0 <= drawn.min() <= drawn.max() < rows
    )


def test_every_set_of_rows_is_drawn_as_often():
    """Two of five rows: ten sets, chi-square test."""
    sets = list(combinations(range(5), 2))
    counts = dict.fromkeys(sets, 0)
    for step in range(2000):
        counts[tuple(candidates(5, 0.4, 1, generator(3, "look", step)).tolist())] += 1
    assert chisquare(list(counts.values())).pvalue > 0.01


@pytest.mark.parametrize("look", [0, -0.1, 1.5, float("nan"), True, "half"])
def test_a_share_out_of_range_is_refused(look):
    with pytest.raises(kdlab.UserError, match=r"look must be a number in \(0, 1\]"):
        selector(strategies.entropy, look)


@pytest.mark.parametrize(
    ("rows", "look", "ratio", "says"),
    [
        (16, 0.05, 0.1, "look=0.05: less than one row is scored of a batch of 16, and 1 kept"),
        (16, 0.1, 0.1, "1 row is scored of a batch of 16, and 1 kept"),
        (100, 0.2, 0.3, r"20 rows are scored of a batch of 100, and 30 kept \(select.ratio=0.3\)"),
        (100, 0.3, 0.3, "nothing is left to choose"),
    ],
)
def test_a_share_that_leaves_nothing_to_choose_is_refused(rows, look, ratio, says):
    with pytest.raises(kdlab.UserError, match=says):
        require_choice(rows, look, ratio)


@pytest.mark.parametrize(("rows", "look", "ratio"), [(16, 0.3, 0.1), (100, 0.31, 0.3), (4, 1.0, 1.0), (1, 1.0, 0.1)])
def test_a_share_with_a_choice_passes(rows, look, ratio):
    require_choice(rows, look, ratio)
    keep = max(1, int(rows * ratio))
    assert candidate_count(rows, look, keep) > keep or look == 1


def test_strategies_that_read_outputs_of_the_student():
    read = [strategies.entropy, strategies.density, strategies.gradient_norm, lambda evidence: evidence.rows]
    assert all(map(reads_student, [*read, Ensemble({"a": strategies.random, "b": strategies.margin})]))
    assert not reads_student(strategies.random) and not reads_student(Ensemble({"a": strategies.random}))


# ---- in a loop of one's own


@pytest.mark.parametrize("name", ["entropy", "cluster", "random", "ensemble"])
def test_a_loop_that_shows_the_candidates_keeps_the_rows_of_one_that_shows_all(name):
    arm = Ensemble([strategies.entropy, strategies.density]) if name == "ensemble" else getattr(strategies, name)
    few, every = selector(arm, 0.3), selector(arm, 0.3)
    for step in range(4):
        for micro in range(2):
            given = logits(10 * step + micro)
            drawn = few.candidates(step, ROWS)
            assert len(drawn) == 12
            kept = few.rows(step, logits=given[drawn], features=given[drawn])
            assert kept.tolist() == every.rows(step, logits=given, features=given).tolist()
            assert len(kept) == 4 and set(kept.tolist()) <= set(drawn.tolist())


def test_the_best_of_the_candidates_are_kept_by_hand():
    choice, given = selector(strategies.least_confidence, 0.5), logits(0)
    drawn = choice.candidates(0, ROWS).tolist()
    certain = given.softmax(1).amax(1).tolist()
    assert choice.rows(0, logits=given[drawn]).tolist() == sorted(sorted(drawn, key=lambda row: certain[row])[:4])


def test_draws_differ_from_step_to_step_and_repeat_from_run_to_run():
    found = [selector(strategies.entropy, 0.3).candidates(step, ROWS).tolist() for step in (0, 1, 0)]
    assert found[0] == found[2] != found[1]


def test_at_look_1_and_at_ratio_1_all_rows_are_candidates():
    assert selector(strategies.entropy, 1.0).candidates(0, ROWS).tolist() == list(range(ROWS))
    assert selector(strategies.entropy, 0.3, 1.0).candidates(0, ROWS).tolist() == list(range(ROWS))


def test_outputs_of_other_rows_than_the_candidates_are_refused():
    choice = selector(strategies.entropy, 0.3)
    choice.candidates(0, ROWS)
    with pytest.raises(kdlab.UserError, match=r"outputs of 40 rows, and candidates\(\) returned 12"):
        choice.rows(0, logits=logits(0))
    for rows in (0, 1.5, True):
        with pytest.raises(kdlab.UserError, match="number of rows of the batch"):
            choice.candidates(0, rows)  # pyright: ignore[reportArgumentType]


def test_a_policy_decides_before_the_candidates_and_once_a_step():
    seen = iter([3.0, 2.0, 1.0])
    choice = kdlab.Selector("adads", ratio=0.1, total_steps=3, observe=lambda: next(seen), interval=1, look=0.3)
    for step in range(3):
        drawn = choice.candidates(step, ROWS)
        given = logits(step)[drawn]
        choice.rows(step, logits=given, features=given)
    assert next(seen, None) is None
