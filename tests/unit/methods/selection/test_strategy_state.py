"""kdlab.methods.selection.strategy_state: what strategies keep from step to step is saved and restored with their selector."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kdlab
from kdlab.methods.marks import needs
from kdlab.methods.selection import strategies
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.strategies import Ensemble, Forgetting
from kdlab.methods.selection.strategy_state import arm_states, has_state
from kdlab.types import Evidence

ROWS, BATCH, STEPS = 20, 8, 12


@needs("logits")
class Visits:
    """A user's own strategy with a state: rows of the largest logit, less the number of batches so far."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, evidence: Evidence) -> Tensor:
        assert evidence.logits is not None
        self.count += 1
        return evidence.logits[:, self.count % evidence.logits.shape[1]].double()

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def selector(kind: str) -> RowSelector:
    arms: dict[str, Any] = {
        "forgetting": Forgetting(),
        "own": Visits(),
        "both": Ensemble({"forgetting": Forgetting(), "entropy": strategies.entropy, "own": Visits()}),
    }
    return RowSelector({kind: arms[kind]}, Fixed([kind]), 0.5, STEPS, 0)


def kept(kind: str, cut: int | None = None) -> list[list[int]]:
    """The rows of each step of a training, resumed from a file after `cut` steps."""
    found, now = [], selector(kind)
    for step in range(STEPS):
        if step == cut:
            file = io.BytesIO()
            torch.save(now.state_dict(), file)
            file.seek(0)
            now = selector(kind)
            now.load_state_dict(torch.load(file, weights_only=True))
        rng = np.random.default_rng(step)
        rows, logits = rng.choice(ROWS, size=BATCH, replace=False), rng.normal(size=(BATCH, 3))
        given = {"logits": torch.as_tensor(logits), "labels": torch.as_tensor(rows % 3), "rows": torch.as_tensor(rows)}
        found.append(now.rows(step, **given).tolist())
    return found


@pytest.mark.parametrize("kind", ["forgetting", "own", "both"])
@pytest.mark.parametrize("cut", [1, 7])
def test_a_resumed_selection_keeps_the_same_rows(kind, cut):
    assert kept(kind, cut) == kept(kind)


def test_the_history_of_a_row_decides_and_not_its_place_in_the_batch():
    """Rows 11 and 5: row 5 is right, then wrong; row 11 is right both times, and less sure."""
    now = selector("forgetting")
    right, unsure = [9.0, 0, 0], [0.5, 0, 0]
    for step, (first, second) in enumerate([(right, unsure), ([4.0, 5, 0], unsure)]):
        logits = torch.tensor([second, first] if step else [first, second])
        rows = torch.tensor([11, 5] if step else [5, 11])
        kept = now.rows(step, logits=logits, labels=torch.zeros(2, dtype=torch.long), rows=rows)
    assert rows[kept].tolist() == [5]


def test_strategies_without_a_state_leave_none():
    plain = RowSelector({"entropy": strategies.entropy}, Fixed(["entropy"]), 0.5, STEPS, 0)
    assert "arms" not in plain.state_dict() and not has_state(strategies.entropy) and not has_state(Forgetting)
    assert set(arm_states(selector("both").arms)) == {"both.forgetting", "both.own"}


def test_a_checkpoint_from_before_there_were_states_loads_and_one_of_another_strategy_does_not():
    now = selector("own")
    state = now.state_dict()
    now.load_state_dict({key: value for key, value in state.items() if key != "arms"})
    with pytest.raises(kdlab.UserError, match="no state of the strategy own"):
        now.load_state_dict({**state, "arms": {}})


def test_a_history_needs_the_ids_of_rows():
    given = {"logits": torch.zeros(4, 3), "labels": torch.zeros(4, dtype=torch.long)}
    with pytest.raises(kdlab.UserError, match=r"rows\(\) has no rows \(their ids in the data set\)"):
        selector("forgetting").rows(0, **given)


def test_a_history_is_of_one_process_in_a_loop_of_ones_own(monkeypatch):
    monkeypatch.setattr("kdlab.runtime.distributed.world", lambda: 2)
    given = {"logits": torch.zeros(4, 3), "labels": torch.zeros(4, dtype=torch.long), "rows": torch.arange(4)}
    with pytest.raises(kdlab.UserError, match="ranks of a loop of your own do not share"):
        selector("forgetting").rows(0, **given)
