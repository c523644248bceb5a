"""Policies that learn nothing: one arm, a schedule, a random one."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import torch

from kdlab.errors import UserError
from kdlab.methods.selection.policies.checks import check_stateless, checked_arms, known_arm
from kdlab.methods.selection.policies.drawing import pick
from kdlab.ranges import InnerShare, checked


class Fixed:
    """The same arm every time: the only one, or `arm`."""

    @checked
    def __init__(self, arms: Sequence[str], arm: str | None = None):
        self.arms = checked_arms(arms)
        if arm is None and len(self.arms) != 1:
            raise UserError(f"a fixed policy takes one arm, found {', '.join(self.arms)}: choose one by arm=")
        self.arm = self.arms[0] if arm is None else known_arm(arm, self.arms)

    def choose(self, progress: float, rng: torch.Generator) -> str:
        return self.arm

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        check_stateless(self, state)


class Schedule:
    """The arms `stages`, one after the other, with switches at the shares `at` of training (AdaDS Table 3: A, then B).

    `at` has one share in (0, 1) less than there are stages, ascending; by default the stages are equally long (two: a
    switch at half). The step at which `progress` reaches a share belongs to the new stage.
    """

    @checked
    def __init__(self, arms: Sequence[str], stages: Sequence[str], at: Sequence[InnerShare] | None = None):
        self.arms = checked_arms(arms)
        if isinstance(stages, str) or not stages:
            raise UserError(f"a schedule needs a list of one stage or more, found {stages!r}")
        self.stages = tuple(known_arm(stage, self.arms) for stage in stages)
        if at is None:
            at = [stage / len(self.stages) for stage in range(1, len(self.stages))]
        if isinstance(at, int | float | str) or len(at) != len(self.stages) - 1:
            switches = len(self.stages) - 1
            raise UserError(f"{len(self.stages)} stages need a list of {switches} switches in `at`, found {at!r}")
        self.at = tuple(float(share) for share in at)
        if any(a >= b for a, b in zip((0.0, *self.at), (*self.at, 1.0), strict=True)):
            raise UserError(f"a schedule's switches must ascend strictly between 0 and 1, found {list(at)}")

    def choose(self, progress: float, rng: torch.Generator) -> str:
        return self.stages[bisect.bisect_right(self.at, progress)]

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        check_stateless(self, state)


class RandMix:
    """An arm drawn uniformly each time (AdaDS Table 5)."""

    @checked
    def __init__(self, arms: Sequence[str]):
        self.arms = checked_arms(arms)

    def choose(self, progress: float, rng: torch.Generator) -> str:
        return pick(self.arms, rng)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        check_stateless(self, state)
