"""Caveats of a student that learnt nothing, from scores that a reader can compare by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from kdlab.runs.closing import cost_lines, learning


def task(
    student: float, majority: float = 0.4, alone: float | None = None, labels: Any = ("no", "yes")
) -> dict[str, Any]:
    metrics = {"student": {"score": student}, "majority class": {"score": majority}}
    metrics |= {} if alone is None else {"no KD": {"score": alone}}
    return {"stage": "finetune", "adopt": "single", "metrics": metrics, "data": {"shape": {"labels": labels}}}


def kinds(result: dict[str, Any], unigram: float | None = None, first: float | None = None) -> list[str]:
    return [caveat.kind for caveat in learning.caveats(result, unigram, first)]


@pytest.mark.parametrize(
    ("score", "words"),
    [(0.4, "no better than always answering"), (0.2, "no better than"), (0.429, "hardly better than"), (0.431, ""),
     (math.nan, "no better than"), (0.9, "")],
)  # fmt: skip
def test_a_student_near_the_majority_class(score, words):
    """5 % of the way from 0.4 to 1 is 0.43."""
    found = learning.caveats(task(score), None, None)
    assert [words in caveat.text and caveat.kind == "learnt_nothing" for caveat in found] == ([True] if words else [])
    assert all("try a longer training" in caveat.text for caveat in found)


@pytest.mark.parametrize(
    ("correlation", "nothing"), [(0.0, True), (0.1, True), (-0.5, True), (math.nan, True), (0.11, False)]
)
def test_a_regression_that_correlates_with_nothing(correlation, nothing):
    assert kinds(task(correlation, 0.0, labels=None)) == ["learnt_nothing"] * nothing


@pytest.mark.parametrize(("score", "kind"), [(0.3, "learnt_nothing"), (0.42, "learnt_nothing"), (0.9, "collapsed")])
def test_a_collapse_and_a_weak_score_are_one_caveat(score, kind):
    """The kind that keeps a saving from being claimed stays; one that recovered on other rows is a collapse alone."""
    said = "the student has collapsed: at step 50 its held-out score 0.300 is no better than ..."
    [found] = learning.caveats({**task(score), "collapsed": {"text": said}}, None, None)
    assert found.kind == kind and found.text.startswith(f"{said}; select.explore=0.5")


def test_a_student_below_the_one_without_a_teacher():
    assert kinds(task(0.7, alone=0.71)) == ["below_no_kd"]
    assert kinds(task(0.7, alone=0.7)) == [] and kinds({**task(0.7, alone=0.8), "adopt": None}) == []
    assert kinds(task(0.3, alone=0.5)) == ["learnt_nothing", "below_no_kd"]


def test_text_is_compared_with_frequencies_and_with_the_start():
    result = {"stage": "pretrain", "adopt": "single", "metrics": {"student": {"loss": 6.0}}, "data": {}}
    assert kinds(result, unigram=6.5, first=9.0) == []
    assert "tokens' frequencies (5.900)" in learning.caveats(result, 5.9, 9.0)[0].text
    assert "than at its start (5.800)" in learning.caveats(result, 6.5, 5.8)[0].text
    assert kinds(result) == [] and kinds(result, unigram=6.0) == ["learnt_nothing"]


def test_a_teacher_of_text_that_knows_no_more_than_frequencies():
    metrics = {"student": {"loss": 5.0}, "teacher": {"loss": 5.5}, "assistant": {"loss": 5.4}}
    result = {"stage": "pretrain", "adopt": "single", "metrics": metrics, "data": {}}
    [found] = learning.caveats(result, 5.5, None)
    assert found.kind == "weak_teacher" and found.text.startswith("the teacher has a held-out loss of 5.500, no better")


def test_the_loss_at_the_start_is_of_the_first_evaluation(tmp_path: Path):
    assert learning.first_loss(tmp_path) is None
    (tmp_path / "metrics.csv").write_text("step,heldout_loss\n0,9.5\n4,7.0\n")
    assert learning.first_loss(tmp_path) == 9.5
    (tmp_path / "metrics.csv").write_text("step,heldout_loss\n4,7.0\n")
    assert learning.first_loss(tmp_path) is None


@pytest.mark.parametrize(("kind", "shown"), [("cut_texts", True), ("learnt_nothing", False), ("below_no_kd", False)])
def test_no_saving_is_claimed_for_a_student_that_learnt_nothing(kind, shown):
    result = {
        "adopt": "single", "caveats": [{"kind": kind, "text": "x"}],
        "ledger": {
            "teacher_queries": {"total": 10, "cached": 0}, "rows_seen": 40, "flops": {"total": 1e9, "all_data": 4e9},
            "seconds": {"training": 1.0, "all_data": 4.0}, "speedup": {"queries": 4.0, "flops": 4.0, "wallclock": 4.0},
        },
    }  # fmt: skip
    assert ("4.00x" in "\n".join(cost_lines.cost(result))) == shown
