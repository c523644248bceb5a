"""Calls of policies with the context of a choice, for those that read one."""

from __future__ import annotations

from typing import Any

import torch

from kdlab.types import Context


def reads_context(policy: Any) -> bool:
    """True for a policy that declares `reads_context = True`: its `choose` takes a `Context` as third argument."""
    return bool(getattr(policy, "reads_context", False))


def chosen_arm(policy: Any, rng: torch.Generator, context: Context) -> str:
    """The arm that a policy chooses, with the context if it reads one."""
    if reads_context(policy):
        return policy.choose(context.progress, rng, context)
    return policy.choose(context.progress, rng)
