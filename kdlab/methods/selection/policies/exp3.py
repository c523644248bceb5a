"""Exponential weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kdlab.methods.selection.policies.checks import checked_arms, checked_reward, restored, widened
from kdlab.methods.selection.policies.drawing import uniform
from kdlab.ranges import Share, checked


class Exp3:
    """Exp3: an arm drawn with p = (1 - gamma) w / sum w + gamma / n; its weight becomes w exp(gamma x / (p n)).

    n arms, x the reward in [0, 1]. Auer, Cesa-Bianchi, Freund and Schapire, The nonstochastic
    multiarmed bandit problem, SIAM J. Computing 2002, Fig. 1: it assumes nothing of how rewards change over time.
    Rewards of any other scale are mapped on [0, 1] by the lowest and highest seen so far, 1/2 while these are equal
    (ours). Not part of AdaDS. `q`: the probabilities.
    """

    @checked
    def __init__(self, arms: Sequence[str], gamma: Share = 0.1):
        self.arms = checked_arms(arms)
        self.gamma = float(gamma)
        self._log_weight = dict.fromkeys(self.arms, 0.0)
        self._seen: list[float] = []

    @property
    def q(self) -> dict[str, float]:
        largest = max(self._log_weight.values())
        weight = {arm: math.exp(value - largest) for arm, value in self._log_weight.items()}
        total = math.fsum(weight.values())
        return {arm: (1 - self.gamma) * weight[arm] / total + self.gamma / len(self.arms) for arm in self.arms}

    def choose(self, progress: float, rng: torch.Generator) -> str:
        draw, q = uniform(rng), self.q
        for arm in self.arms:
            draw -= q[arm]
            if draw < 0:
                return arm
        return self.arms[-1]

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`, chosen since the last `learn`. ValueError, without any change, if not finite."""
        reward = checked_reward(arm, self.arms, reward)
        self._seen = widened(self._seen, reward)
        low, high = self._seen
        unit = (reward - low) / (high - low) if high > low else 0.5
        self._log_weight[arm] += self.gamma * unit / (self.q[arm] * len(self.arms))

    def state_dict(self) -> dict:
        return {"log_weight": dict(self._log_weight), "seen": list(self._seen)}

    def load_state_dict(self, state: dict) -> None:
        self._log_weight, self._seen = restored(state["log_weight"], self.arms), list(state["seen"])
