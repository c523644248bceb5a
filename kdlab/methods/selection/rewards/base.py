"""The protocol of a reward."""

from __future__ import annotations

from typing import Any, Protocol

from kdlab.methods.marks import marks_of


class Reward(Protocol):
    """A reward for policies that learn, computed from a series of observations; its state is saved with the run.

    An observation is the observed loss. A class marked `@needs("observation")` (`kdlab.methods.marks`) gets a
    `kdlab.types.Observation` in its place, and `@needs("observation", "cost")` one with its cost. `Probe`, marked
    `@needs("probe")`, gives the rewards of several arms at once.
    """

    def observe(self, value: Any) -> tuple[float | None, float | None]:
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


def reads(reward: Any) -> frozenset[str]:
    """The inputs that a reward declares beside the loss: of "observation", "cost", "probe"."""
    return marks_of(reward).needs & {"observation", "cost", "probe"}
