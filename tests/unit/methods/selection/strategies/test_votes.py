"""The disagreement of a committee against SciPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from kdlab.errors import UserError
from kdlab.methods.selection import strategies
from kdlab.types import Evidence

VOTES = np.random.default_rng(0).normal(size=(5, 12, 3)) * 2  # 5 members, 12 rows, 3 classes


def bald(votes: np.ndarray) -> np.ndarray:
    p = softmax(votes, axis=-1)
    return stats.entropy(p.mean(0), axis=-1) - stats.entropy(p, axis=-1).mean(0)


def vote_entropy(votes: np.ndarray) -> np.ndarray:
    counts = np.stack([(votes.argmax(-1) == c).sum(0) for c in range(votes.shape[-1])], axis=-1)
    return stats.entropy(counts, axis=-1)


@pytest.mark.parametrize(("measure", "oracle"), [("bald", bald), ("vote_entropy", vote_entropy)])
def test_committee_of_rows_and_of_masked_words(measure, oracle):
    scores = strategies.committee(Evidence(votes=torch.as_tensor(VOTES)), measure=measure)
    np.testing.assert_allclose(scores.numpy(), oracle(VOTES), atol=1e-12)
    mask = torch.tensor([[True, True], [True, False], [False, False]] * 2)
    text = Evidence(votes=torch.as_tensor(VOTES).view(5, 6, 2, 3), mask=mask)
    token = oracle(VOTES).reshape(6, 2)
    expected = [token[0].mean(), token[1, 0], -np.inf, token[3].mean(), token[4, 0], -np.inf]
    np.testing.assert_allclose(strategies.committee(text, measure=measure).numpy(), expected, atol=1e-12)


def test_committee_by_hand():
    """Two members, sure of class 0 and of class 1: they share log 2. Two that agree: nothing. Votes 2 to 1: 0.6365."""
    sure, flat = [60.0, 0.0], [0.0, 0.0]
    votes = torch.tensor([[sure, flat], [sure[::-1], flat]])
    assert strategies.committee(Evidence(votes=votes)).tolist() == pytest.approx([math.log(2), 0])
    three = torch.tensor([[[2.0, 1]], [[3, 1]], [[1, 2]]])
    expected = math.log(3) - 2 / 3 * math.log(2)
    assert strategies.committee(Evidence(votes=three), measure="vote_entropy").tolist() == pytest.approx([expected])


@pytest.mark.parametrize("measure", ["bald", "vote_entropy"])
def test_a_committee_of_a_vocabulary_is_scored_in_single_precision_slices(measure, monkeypatch):
    votes = np.random.default_rng(1).normal(size=(3, 7, 2000)).astype(np.float32)
    whole = strategies.committee(Evidence(votes=torch.as_tensor(votes)), measure=measure)
    oracle = bald(votes.astype(float)) if measure == "bald" else vote_entropy(votes)
    np.testing.assert_allclose(whole.numpy(), oracle, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("kdlab.methods.selection.strategies.base.SLICE", 2 * 2000)
    torch.testing.assert_close(strategies.committee(Evidence(votes=torch.as_tensor(votes)), measure=measure), whole)


def test_a_committee_needs_votes_and_classes():
    with pytest.raises(ValueError, match="needs votes"):
        strategies.committee(Evidence(logits=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="votes must be"):
        strategies.committee(Evidence(votes=torch.zeros(2, 3)))
    with pytest.raises(UserError, match="regression"):
        strategies.committee(Evidence(votes=torch.zeros(2, 3, 1)))
