"""kdlab.methods.selection.strategies.uniform: a uniform choice, repeatable."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from kdlab.methods.selection import strategies
from kdlab.methods.selection.top_k import top_k
from kdlab.types import Evidence


def test_random_is_uniform_and_keyed_by_its_generator():
    def draw(seed):
        return strategies.random(Evidence(rows=torch.arange(10), rng=torch.Generator().manual_seed(seed)))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    counts = np.bincount(np.concatenate([top_k(draw(seed), 0.3).numpy() for seed in range(1000)]), minlength=10)
    assert stats.chisquare(counts).pvalue > 0.01  # each row is kept 300 times of 1000
