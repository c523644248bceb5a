"""Calls of policies with the context of a choice, for those that read one."""

from __future__ import annotations

from typing import Any

import torch

from kdlab.types import Context


def reads_context(policy: Any) -> bool:
    """True for a policy that declares `reads_context = True`: its `choose` and `learn` take a `Context` as third argument."""
    return bool(getattr(policy, "reads_context", False))


def chosen_arm(policy: Any, rng: torch.Generator, context: Context) -> str:
    """The arm that a policy chooses, with the context if it reads one."""
    if reads_context(policy):
        return policy.choose(context.progress, rng, context)
    return policy.choose(context.progress, rng)


def learn(policy: Any, arm: str, reward: float, context: Context | None) -> None:
    """Have a policy learn the reward of an arm, with the context of that choice if it reads one."""
    if reads_context(policy):
        policy.learn(arm, reward, context)
    else:
        policy.learn(arm, reward)
