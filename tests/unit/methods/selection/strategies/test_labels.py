"""kdlab.methods.selection.strategies.labels at the edges; test_strategies.py has the oracles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kdlab.errors import UserError
from kdlab.methods.selection import strategies
from kdlab.methods.selection.top_k import top_k
from kdlab.types import IGNORE, Evidence
from tests.support.evidence import evidence


def test_gradient_norm_of_certain_and_of_unlabelled_rows():
    logits = torch.tensor([[40.0, 0, 0]] * 3)
    scores = strategies.gradient_norm(evidence(logits, [0, 1, IGNORE]))
    # by hand: 1 - p_0 = 2 exp(-40), of which each other class has half
    torch.testing.assert_close(scores[0], torch.tensor(math.exp(-40) * math.sqrt(6), dtype=torch.float64))
    assert scores[1:].tolist() == [pytest.approx(math.sqrt(2)), -math.inf]
    with pytest.raises(ValueError, match="needs labels"):
        strategies.gradient_norm(Evidence(logits=logits))


def test_gradient_norm_is_that_of_the_gradient_of_the_loss():
    """Against autograd: the norm of the derivative of each label's cross-entropy in the logits, and its mean over tokens."""
    logits = torch.randn(4, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.tensor([[0, 1, 2], [3, 4, 5], [5, 4, 3], [0, 0, 0]])
    (grad,) = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"), logits)
    torch.testing.assert_close(strategies.gradient_norm(evidence(logits.detach(), labels)), grad.norm(dim=-1).mean(1))


@pytest.mark.parametrize("name", ["loss", "reducible", "gradient_norm"])
def test_rows_without_a_label_are_kept_last(name):
    logits, strategy = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)), getattr(strategies, name)
    scores = strategy(evidence(logits, [IGNORE, 1, IGNORE, 2]))
    assert scores.isinf().tolist() == [True, False, True, False]
    assert top_k(scores, 0.5).tolist() == [1, 3]
    with pytest.raises(ValueError, match="needs labels"):
        strategy(Evidence(logits=logits, reference_loss=torch.zeros(4)))


def test_loss_of_a_certain_row_stays_finite():
    """-log p by hand: 80 nats where the label is 80 below the largest logit; exp(-80) where it is the largest."""
    scores = strategies.loss(evidence(torch.tensor([[80.0, 0], [0, 80.0]]), [1, 1]))
    torch.testing.assert_close(scores, torch.tensor([80.0, 0.0], dtype=torch.float64), rtol=1e-12, atol=1e-15)


def test_reducible_prefers_rows_that_the_reference_knows():
    """Wrong and learnable before noise (both wrong) before known (both right); the aim of RHO-LOSS."""
    logits = torch.tensor([[4.0, 0], [4.0, 0], [0, 4.0]])
    row = replace(evidence(logits, [1, 1, 1]), reference_loss=torch.tensor([0.1, 4.0, 0.1]))
    assert strategies.reducible(row).argsort(descending=True).tolist() == [0, 1, 2]
    assert float(strategies.reducible(row)[2]) < 0  # the student is better than the reference: nothing to learn there


@pytest.mark.parametrize("name", ["loss", "reducible", "gradient_norm"])
def test_a_row_of_a_broken_student_is_no_row_without_a_label(name):
    """NaN is refused by whoever keeps rows; -inf would put it last without a word."""
    logits = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [0.0, 1.0]])
    scores = getattr(strategies, name)(replace(evidence(logits, [0, 1, IGNORE]), reference_loss=torch.ones(3)))
    assert scores.isnan().tolist() == [True, False, False] and scores[2] == -torch.inf
    with pytest.raises(ValueError, match=r"NaN for rows \[0\]"):
        top_k(scores, 0.5)


def test_reducible_refuses_a_reference_without_a_finite_loss():
    row = evidence(torch.zeros(2, 3), [IGNORE, 1])
    assert strategies.reducible(replace(row, reference_loss=torch.tensor([torch.nan, 0.5]))).isfinite().tolist() == [
        False,
        True,
    ]
    with pytest.raises(UserError, match="not finite"):
        strategies.reducible(replace(row, reference_loss=torch.tensor([0.0, torch.inf])))
    with pytest.raises(ValueError, match="a reference's loss"):
        strategies.reducible(replace(row, reference_loss=None))
