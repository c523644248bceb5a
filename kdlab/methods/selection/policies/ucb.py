"""Upper confidence bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kdlab.methods.selection.policies.checks import checked_arms, checked_reward, restored, widened
from kdlab.methods.selection.policies.drawing import greedy, pick
from kdlab.ranges import NotNegative, checked

SQRT2 = math.sqrt(2)


class UCB:
    """UCB1: the arm of largest mean reward + c sqrt(ln t / n), after every arm once (equals at random).

    t is the number of rewards so far, n that of the arm. Auer, Cesa-Bianchi and Fischer, Finite-time analysis of the
    multiarmed bandit problem, Machine Learning 2002, Fig. 1, where c = sqrt 2 and rewards lie in [0, 1]. For rewards of
    any other scale the bonus is multiplied by the range of the rewards seen so far, which equals mapping them on [0, 1]
    (ours). It assumes stationary rewards, which those of distillation are not; not part of AdaDS. `q`: the means.
    """

    @checked
    def __init__(self, arms: Sequence[str], c: NotNegative = SQRT2):
        self.arms = checked_arms(arms)
        self.c = float(c)
        self._count = dict.fromkeys(self.arms, 0)
        self._sum = dict.fromkeys(self.arms, 0.0)
        self._seen: list[float] = []  # lowest and highest reward

    @property
    def q(self) -> dict[str, float]:
        return {arm: self._sum[arm] / max(self._count[arm], 1) for arm in self.arms}

    def choose(self, progress: float, rng: torch.Generator) -> str:
        new = [arm for arm in self.arms if self._count[arm] == 0]
        if new:
            return pick(new, rng)
        bonus = self.c * (self._seen[1] - self._seen[0]) * math.sqrt(math.log(sum(self._count.values())))
        return greedy({arm: q + bonus / math.sqrt(self._count[arm]) for arm, q in self.q.items()}, rng)

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        reward = checked_reward(arm, self.arms, reward)
        self._count[arm] += 1
        self._sum[arm] += reward
        self._seen = widened(self._seen, reward)

    def state_dict(self) -> dict:
        return {"count": dict(self._count), "sum": dict(self._sum), "seen": list(self._seen)}

    def load_state_dict(self, state: dict) -> None:
        self._count = {arm: int(count) for arm, count in restored(state["count"], self.arms).items()}
        self._sum, self._seen = restored(state["sum"], self.arms), list(state["seen"])
