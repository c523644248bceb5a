"""The protocol of a reward."""

from __future__ import annotations

from typing import Protocol


class Reward(Protocol):
    """A reward for policies that learn, computed from a series of observations; its state is saved with the run."""

    def observe(self, value: float) -> tuple[float | None, float | None]:
        """Take one observation; (speed, reward), each None while it does not exist. ValueError if not finite."""
        ...

    def restart(self) -> None:
        """Drop all observations: from here on another loss is observed."""
        ...

    def state_dict(self) -> dict:
        """The observations that later rewards depend on, in plain Python values."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`; UserError if it does not fit."""
        ...
