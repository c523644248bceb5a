"""Exponential weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch

from kdlab.methods.selection.policies.checks import checked_arms, checked_reward, restored, widened
from kdlab.methods.selection.policies.drawing import weighted
from kdlab.methods.selection.policies.scaling import RecentRewards
from kdlab.ranges import Positive, Range, Share, checked


class ExponentialWeights:
    """Arms drawn with p = (1 - gamma) w / sum w + gamma / n, the shared part of `Exp3` and `Exp3S`; `q`: p."""

    def __init__(self, arms: Sequence[str], gamma: float) -> None:
        self.arms = checked_arms(arms)
        self.gamma = float(gamma)
        self._log_weight = dict.fromkeys(self.arms, 0.0)

    @property
    def q(self) -> dict[str, float]:
        return _probabilities(self._log_weight, self.gamma)

    def choose(self, progress: float, rng: torch.Generator) -> str:
        return weighted(self.q, rng)


class Exp3(ExponentialWeights):
    """Exp3: an arm drawn with p = (1 - gamma) w / sum w + gamma / n; its weight becomes w exp(gamma x / (p n)).

    n arms, x the reward in [0, 1]. Auer, Cesa-Bianchi, Freund and Schapire, The nonstochastic
    multiarmed bandit problem, SIAM J. Computing 2002, Fig. 1: it assumes nothing of how rewards change over time.
    Rewards of any other scale are mapped on [0, 1] by the lowest and highest seen so far, 1/2 while these are equal
    (ours). Not part of AdaDS. `q`: the probabilities.
    """

    @checked
    def __init__(self, arms: Sequence[str], gamma: Share = 0.1):
        super().__init__(arms, gamma)
        self._seen: list[float] = []

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


class Exp3S(ExponentialWeights):
    """Exp3.S: Exp3 whose weights are shared out at each reward, so that it follows a best arm that changes.

    w_a becomes w_a exp(gamma x_a / (p_a n)) + e alpha / n sum w, with x the reward in [0, 1] of the arm taken and 0 of
    the others; p as in Exp3. Auer, Cesa-Bianchi, Freund and Schapire, The nonstochastic multiarmed bandit problem, SIAM
    J. Computing 2002 (Exp3.S); they take `alpha` = 1 / T for T rewards. Rewards are mapped on
    [0, 1] by the lowest and the highest of the last `window`, 1/2 while these are equal (ours). `q`: the
    probabilities.
    """

    @checked
    def __init__(
        self,
        arms: Sequence[str],
        gamma: Share = 0.2,
        alpha: Positive = 0.01,
        window: Annotated[int, Range(2, usual=10_000)] = 30,
    ):
        super().__init__(arms, gamma)
        self.alpha = float(alpha)
        self._recent = RecentRewards(window)

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`, chosen since the last `learn`. ValueError, without any change, if not finite."""
        reward = checked_reward(arm, self.arms, reward)
        self._recent.add(reward)
        largest = max(self._log_weight.values())
        weight = {name: math.exp(value - largest) for name, value in self._log_weight.items()}
        shared = math.e * self.alpha / len(self.arms) * math.fsum(weight.values())
        weight[arm] *= math.exp(self.gamma * self._recent.unit(reward) / (self.q[arm] * len(self.arms)))
        weight = {name: value + shared for name, value in weight.items()}
        largest = max(weight.values())  # only their proportions count
        self._log_weight = {name: math.log(value / largest) for name, value in weight.items()}

    def state_dict(self) -> dict:
        return {"log_weight": dict(self._log_weight), "recent": list(self._recent.values)}

    def load_state_dict(self, state: dict) -> None:
        self._log_weight = restored(state["log_weight"], self.arms)
        self._recent.restore(state["recent"])


def _probabilities(log_weight: dict[str, float], gamma: float) -> dict[str, float]:
    """(1 - gamma) w / sum w + gamma / n of each arm."""
    largest = max(log_weight.values())
    weight = {arm: math.exp(value - largest) for arm, value in log_weight.items()}
    total = math.fsum(weight.values())
    return {arm: (1 - gamma) * weight[arm] / total + gamma / len(weight) for arm in weight}
