"""kdlab.methods.selection.strategies.teacher by hand and at the edges; test_strategies.py has the oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from kdlab.methods.selection import strategies
from kdlab.types import Evidence
from tests.support.evidence import evidence


def test_disagreement_by_hand():
    """p = (1/2, 1/2), q = (1, 0): m = (3/4, 1/4), JS = (log(2/3)/2 + log(2)/2 + log(4/3)) / 2; opposite rows have log 2."""
    student = torch.tensor([[0.0, 0], [200.0, 0], [3.0, 1]])
    row = replace(evidence(student), teacher=torch.tensor([[200.0, 0], [0, 200.0], [5.0, 3]]))
    by_hand = [(math.log(2 / 3) / 2 + math.log(2) / 2 + math.log(4 / 3)) / 2, math.log(2), 0]
    torch.testing.assert_close(strategies.disagreement(row), torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize("classes", [3, 2000])
def test_disagreement_is_symmetric_bounded_and_finite(classes):
    rng = torch.Generator().manual_seed(classes)
    a, b = (torch.randn(50, classes, generator=rng) * 30 for _ in range(2))
    a[0], b[0, 1:] = 0, -torch.inf  # a teacher that gives one class alone
    one, other = (strategies.disagreement(Evidence(logits=x, teacher=y)) for x, y in ((a, b), (b, a)))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert bool((one >= 0).all()) and bool((one <= math.log(2) + 1e-6).all())
    assert float(strategies.disagreement(Evidence(logits=a, teacher=a)).max()) < 1e-6


def test_disagreement_needs_answers_of_the_same_shape():
    with pytest.raises(ValueError, match="needs the teacher's logits"):
        strategies.disagreement(Evidence(logits=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="do not fit"):
        strategies.disagreement(Evidence(logits=torch.zeros(2, 3), teacher=torch.zeros(2, 4)))


STUDENT = torch.tensor([[2.0, 0, -1], [0.1, 0, 0], [5.0, 0, 0], [0.0, 3, 1]])
TEACHER = torch.tensor([[2.0, 0, -1], [0, 2, 0], [0, 5.0, 0], [0.0, 1, 3]])


def quantities() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entropy of the student, KL(teacher || student) and the teacher's mass of all three classes, by SciPy."""
    q, p = (softmax(one.double().numpy(), axis=1) for one in (STUDENT, TEACHER))
    return stats.entropy(q, axis=1), stats.entropy(p, q, axis=1), p.sum(1)


def between_quantiles(values: np.ndarray) -> np.ndarray:
    low, high = np.quantile(values, [0.05, 0.95])
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def test_tip_is_the_soft_or_of_entropy_and_divergence():
    h, d = (between_quantiles(values) for values in quantities()[:2])
    found = strategies.tip(replace(evidence(STUDENT), teacher=TEACHER))
    np.testing.assert_allclose(found.numpy(), h + d - h * d, atol=1e-6)
    assert int(found.argmin()) == 0 or found[0] < 1  # a student that agrees is chosen by its entropy alone


def test_teachability_is_the_divergence_that_the_student_can_reach(monkeypatch):
    """With a reach of one token: the teacher's probability of the student's first."""
    monkeypatch.setattr("kdlab.methods.selection.strategies.teacher.REACH", 1)
    p = softmax(TEACHER.double().numpy(), axis=1)
    d, c = between_quantiles(quantities()[1]), between_quantiles(p[np.arange(4), STUDENT.argmax(1).numpy()])
    found = strategies.teachability(replace(evidence(STUDENT), teacher=TEACHER))
    np.testing.assert_allclose(found.numpy(), d * c, atol=1e-6)


@pytest.mark.parametrize("strategy", [strategies.tip, strategies.teachability])
def test_summaries_of_parts_give_the_scores_of_the_whole(strategy):
    whole = replace(evidence(STUDENT), teacher=TEACHER)
    summary = strategy.marks.summary
    parts = torch.cat([summary(whole.take(index)) for index in torch.arange(4).split(3)])
    torch.testing.assert_close(strategy(replace(whole, summary=parts)), strategy(whole))


@pytest.mark.parametrize("strategy", [strategies.tip, strategies.teachability])
def test_a_row_without_positions_is_kept_last(strategy):
    mask = torch.tensor([[True, True], [False, False]])
    rows = evidence(STUDENT.view(2, 2, 3), mask=mask, teacher=TEACHER.view(2, 2, 3))
    assert float(strategy(rows)[1]) == -math.inf and float(strategy(rows)[0]) > -math.inf
