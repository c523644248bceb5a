"""Successive halving over arms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kdlab.methods.selection.policies.checks import checked_arms, checked_reward, known_arm, restored
from kdlab.methods.selection.policies.drawing import pick
from kdlab.ranges import Share, checked


class Halving:
    """Successive halving: rounds of equal budget, in which the arms left take turns; after each the better half stays.

    Jamieson and Talwalkar, arXiv 1502.07943 (successive halving): of |S_k| arms the floor(|S_k| / 2) best stay.
    The budget is the share `budget` of the training from the first choice on, and the last round has one arm, which then
    stays in force (of 2^m arms the paper's last round compares two; here training goes on after it). An arm is as good
    as the mean of its rewards in the round just ended; one that got none counts as the mean of the others, and a round
    without any reward drops no arm. In a round the arm with the fewest turns is next (equals at random). `q`: the means of
    the present round.
    """

    @checked
    def __init__(self, arms: Sequence[str], budget: Share = 1.0):
        self.arms = checked_arms(arms)
        self.budget = float(budget)
        self.left = list(self.arms)  # in the order of `arms`
        self._start: float | None = None  # progress at the first choice
        self._round = 0
        self._turns = dict.fromkeys(self.arms, 0)
        self._count = dict.fromkeys(self.arms, 0)
        self._sum = dict.fromkeys(self.arms, 0.0)

    @property
    def rounds(self) -> int:
        """The number of rounds: halvings until one arm is left, and one more."""
        return len(self.arms).bit_length()

    @property
    def q(self) -> dict[str, float]:
        return {arm: self._sum[arm] / max(self._count[arm], 1) for arm in self.arms}

    def choose(self, progress: float, rng: torch.Generator) -> str:
        if self._start is None:
            self._start = progress
        whole = self.budget * (1 - self._start)
        done = (progress - self._start) / whole if whole > 0 else 1.0
        due = min(self.rounds - 1, math.floor(done * self.rounds * (1 + 1e-12)))
        while self._round < due:
            self._halve()
        fewest = min(self._turns[arm] for arm in self.left)
        arm = pick([arm for arm in self.left if self._turns[arm] == fewest], rng)
        self._turns[arm] += 1
        return arm

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        reward = checked_reward(arm, self.arms, reward)
        self._count[arm] += 1
        self._sum[arm] += reward

    def _halve(self) -> None:
        """End a round: the better half of the arms stays, if there were rewards to tell it by."""
        self._round += 1
        tried = [arm for arm in self.left if self._count[arm]]
        if tried and len(self.left) > 1:
            mean = math.fsum(self.q[arm] for arm in tried) / len(tried)
            order = sorted(self.left, key=lambda arm: -(self.q[arm] if self._count[arm] else mean))
            best = order[: len(order) // 2]
            self.left = [arm for arm in self.left if arm in best]
        self._turns = dict.fromkeys(self.arms, 0)
        self._count, self._sum = dict.fromkeys(self.arms, 0), dict.fromkeys(self.arms, 0.0)

    def state_dict(self) -> dict:
        return {
            "left": list(self.left), "start": self._start, "round": self._round, "turns": dict(self._turns),
            "count": dict(self._count), "sum": dict(self._sum),
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self._turns = {arm: int(n) for arm, n in restored(state["turns"], self.arms).items()}
        self._count = {arm: int(n) for arm, n in restored(state["count"], self.arms).items()}
        self._sum = restored(state["sum"], self.arms)
        self.left, self._round = [known_arm(arm, self.arms) for arm in state["left"]], int(state["round"])
        self._start = None if state["start"] is None else float(state["start"])
