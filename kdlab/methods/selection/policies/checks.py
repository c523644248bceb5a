"""Checks of arms, rewards and saved states that all policies share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdlab.errors import UserError, nearest
from kdlab.methods.selection.policies.protocols import Policy


def checked_reward(arm: str, arms: tuple[str, ...], reward: float) -> float:
    """The reward as a number. ValueError for an arm that does not exist or a reward that is not finite."""
    if arm not in arms:
        raise ValueError(f"no arm is called {arm}: {nearest(arm, arms)}")
    reward = float(reward)
    if not math.isfinite(reward):
        raise ValueError(f"the reward of {arm} must be finite, found {reward}")
    return reward


def widened(seen: list[float], reward: float) -> list[float]:
    """The lowest and the highest reward seen, `reward` included."""
    return [min([*seen, reward]), max([*seen, reward])]


def checked_arms(arms: Sequence[str]) -> tuple[str, ...]:
    """The arms as a tuple. UserError unless they are a list of different names."""
    if isinstance(arms, str) or not arms:
        raise UserError(f"a policy needs a list of one arm or more, found {arms!r}")
    if len(set(arms)) != len(arms):
        raise UserError(f"a policy's arms must differ, found {', '.join(arms)}")
    return tuple(arms)


def known_arm(name: str, arms: tuple[str, ...]) -> str:
    """The name of an arm. UserError if there is no such arm."""
    if name not in arms:
        raise UserError(f"no arm is called {name}: {nearest(str(name), arms)}")
    return name


def check_stateless(policy: Policy, state: dict) -> None:
    """UserError for a state that is not empty: another policy saved it."""
    if state:
        found = ", ".join(state)
        raise UserError(f"the checkpoint was saved by another policy than {type(policy).__name__}: it holds {found}")


def restored(saved: dict[str, float], arms: tuple[str, ...]) -> dict[str, float]:
    """The numbers saved for `arms`, in their order; UserError if they were saved for others."""
    if set(saved) != set(arms):
        raise UserError(f"the checkpoint's arms are {', '.join(saved)}, the configured ones are {', '.join(arms)}")
    return {arm: float(saved[arm]) for arm in arms}
