"""The state that scoring a batch changes: scores of earlier visits, histories of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.methods.selection.strategy_state import arm_states, restore_arm_states


@dataclass(frozen=True)
class ScoringState:
    """The `memory` of scores (None: there is none), and the states of those strategies among `arms` that keep one."""

    memory: ScoreMemory | None
    arms: Mapping[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """The states by name."""
        return {"memory": None if self.memory is None else self.memory.state_dict(), "arms": arm_states(self.arms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        restore_arm_states(self.arms, state["arms"])
