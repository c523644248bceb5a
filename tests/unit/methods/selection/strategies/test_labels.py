"""kdlab.methods.selection.strategies.labels at the edges; test_strategies.py has the oracles."""

from __future__ import annotations

import math

import pytest
import torch

from kdlab.methods.selection import strategies
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
