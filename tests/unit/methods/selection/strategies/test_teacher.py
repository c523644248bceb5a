"""kdlab.methods.selection.strategies.teacher by hand and at the edges; test_strategies.py has the oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

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
