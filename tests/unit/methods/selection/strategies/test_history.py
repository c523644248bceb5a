"""Forgetting events against the paper's algorithm, visit by visit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from kdlab.errors import UserError
from kdlab.methods.selection.strategies import Forgetting
from kdlab.types import IGNORE, Evidence


def visit(strategy: Forgetting, rows: list[int], right: list[int]) -> list[float]:
    """Scores of rows of two classes, answered right or wrong with p = 3/4."""
    labels = torch.tensor(rows) % 2
    winner = torch.where(torch.tensor(right) > 0, labels, 1 - labels)
    logits = torch.zeros(len(rows), 2).scatter_(1, winner[:, None], float(np.log(3)))
    return strategy(Evidence(rows=torch.tensor(rows), logits=logits, labels=labels)).tolist()


def test_forgetting_by_hand():
    """Row 4: right, wrong, right, wrong: two events. Row 7: never right. Row 1: wrong, then right for good: none."""
    strategy = Forgetting()
    assert visit(strategy, [4, 7, 1], [1, 0, 0]) == pytest.approx([0.25, 64.75, 64.75])
    assert visit(strategy, [1, 4], [1, 0]) == pytest.approx([0.25, 1.75])
    assert visit(strategy, [7, 4, 1], [0, 1, 1]) == pytest.approx([64.75, 1.25, 0.25])
    assert visit(strategy, [4], [0]) == pytest.approx([2.75])
    assert visit(strategy, [4], [0]) == pytest.approx([2.75])  # wrong twice in a row is forgotten once


def test_forgetting_is_the_papers_count_for_any_history():
    """Algorithm 1: prev_acc starts at 0; an event where prev_acc > acc; a row that was never right is forgotten most."""
    rng = np.random.default_rng(0)
    strategy, previous, events, learnt = Forgetting(), np.zeros(50), np.zeros(50), np.zeros(50, dtype=bool)
    for step in range(60):
        rows = rng.choice(50, size=12, replace=False)
        logits, labels = rng.normal(size=(12, 3)), rng.integers(0, 3, size=12)
        right = logits.argmax(1) == labels
        events[rows] += previous[rows] > right
        previous[rows], learnt[rows] = right, learnt[rows] | right
        expected = np.where(learnt[rows], events[rows], 64) + 1 - softmax(logits, axis=1)[np.arange(12), labels]
        given = Evidence(rows=torch.as_tensor(rows), logits=torch.as_tensor(logits), labels=torch.as_tensor(labels))
        np.testing.assert_allclose(strategy(given).numpy(), expected, rtol=1e-12)
        if step == 30:  # goes on from its state
            state, strategy = strategy.state_dict(), Forgetting()
            strategy.load_state_dict(state)


def test_forgetting_keeps_a_byte_a_row_and_counts_no_further_than_63():
    strategy = Forgetting()
    visit(strategy, [999_999], [1])
    history = strategy.state_dict()["history"]
    assert history.dtype == torch.uint8 and history.shape == (1_000_000,)
    for _ in range(70):
        visit(strategy, [2], [1])
        last = visit(strategy, [2], [0])
    assert last == pytest.approx([63.75])


def test_a_row_without_a_label_is_kept_last_and_leaves_no_history():
    strategy, logits = Forgetting(), torch.tensor([[2.0, 0], [2, 0]])
    given = Evidence(rows=torch.tensor([0, 1]), logits=logits, labels=torch.tensor([IGNORE, 0]))
    assert strategy(given)[0] == -torch.inf and strategy.state_dict()["history"].tolist() == [0, 64 + 128]


def test_what_forgetting_cannot_read_is_named():
    with pytest.raises(UserError, match="masked text has none"):
        Forgetting()(Evidence(rows=torch.arange(2), logits=torch.zeros(2, 3, 4), labels=torch.zeros(2, 3).long()))
    with pytest.raises(ValueError, match="ids of the rows"):
        Forgetting()(Evidence(logits=torch.zeros(2, 3), labels=torch.zeros(2).long()))
    with pytest.raises(UserError, match="another strategy"):
        Forgetting().load_state_dict({"count": 3})
