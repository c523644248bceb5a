"""Protocols of policies: a `Policy` chooses, a `Learner` also learns from rewards."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Policy(Protocol):
    """A rule that chooses one of `arms`."""

    arms: tuple[str, ...]

    def choose(self, progress: float, rng: torch.Generator) -> str:
        """The next arm; `progress` share of training done, in [0, 1]; random choices draw from `rng`."""
        ...

    def state_dict(self) -> dict:
        """The learnt state in plain Python values."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`; UserError if another policy, or one of other arms, saved it."""
        ...


@runtime_checkable
class Learner(Policy, Protocol):
    """A policy that learns from rewards."""

    @property
    def q(self) -> dict[str, float]:
        """A value for each arm, as selector.csv records it."""
        ...

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        ...
