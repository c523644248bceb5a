"""kdlab.methods.selection.top_k: the number of rows kept, and which ones."""

from __future__ import annotations

import math

import pytest
import torch

from kdlab.errors import UserError
from kdlab.methods.selection.top_k import selection_size, top_k


@pytest.mark.parametrize(("n", "ratio", "k"), [(8, 0.1, 1), (30, 0.1, 3), (10, 0.3, 3), (100, 0.29, 29), (10, 1, 10)])
def test_kept(n, ratio, k):
    assert selection_size(n, ratio) == k
    assert len(top_k(torch.zeros(n), ratio)) == k


@pytest.mark.parametrize(("n", "ratio", "k"), [(1, 0.01, 1), (0, 0.5, 0), (3, 1 / 3, 1), (30, 1 / 3, 10), (19, 0.1, 1)])
def test_kept_at_the_edges(n, ratio, k):
    assert selection_size(n, ratio) == k


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, math.nan, math.inf, "abc", None, True])
def test_wrong_ratio(ratio):
    with pytest.raises(UserError, match=r"\(0, 1\]"):
        top_k(torch.zeros(4), ratio)


def test_top_breaks_ties_by_the_lower_index():
    assert top_k(torch.tensor([0.0, 2, 1, 2, 2, 1]), 0.5).tolist() == [1, 3, 4]
    assert top_k(torch.tensor([1.0, 1, 1, 1]), 0.5).tolist() == [0, 1]
    assert top_k(torch.tensor([-torch.inf, 1, torch.inf]), 0.7).tolist() == [1, 2]
    assert top_k(torch.tensor([3.0, 1, 2]), 1.0).tolist() == [0, 1, 2]


def test_top_refuses_nan_and_wrong_shapes():
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        top_k(torch.tensor([0.0, torch.nan]), 0.5)
    with pytest.raises(ValueError, match="shape"):
        top_k(torch.zeros(2, 2), 0.5)
