"""kdlab.methods.selection.strategies.uncertainty at the edges; test_strategies.py has the oracles."""

from __future__ import annotations

import math

import pytest
import torch

from kdlab.methods.selection import strategies
from kdlab.types import Evidence


@pytest.mark.parametrize("hot", [1e4, 3e38, math.inf])
@pytest.mark.parametrize("classes", [2, 5, 2000])
def test_one_hot_is_certain(hot, classes):
    logits = torch.full((3, classes), -hot)
    logits[:, 0] = 0.0 if hot == math.inf else hot
    row = Evidence(logits=logits)
    assert strategies.entropy(row).tolist() == [0, 0, 0]
    assert strategies.scaled_entropy(row).tolist() == [0, 0, 0]
    assert strategies.certainty(row).tolist() == [0, 0, 0]
    assert strategies.margin(row).tolist() == [-1, -1, -1]
    assert strategies.least_confidence(row).tolist() == [0, 0, 0]
