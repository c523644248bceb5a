"""A contextual policy: a linear model of each arm's reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch

from kdlab.errors import UserError
from kdlab.methods.selection.policies.checks import checked_arms, checked_reward, restored
from kdlab.methods.selection.policies.drawing import greedy
from kdlab.methods.selection.policies.scaling import RecentRewards
from kdlab.ranges import NotNegative, Range, checked
from kdlab.types import Context


class LinUCB:
    """LinUCB: the arm of largest theta x + alpha sqrt(x A^-1 x), x the features of the `Context` (equals at random).

    A = I + the sum of x x^T and b = the sum of r x over the choices of the arm, theta = A^-1 b. Li, Chu, Langford and
    Schapire, arXiv 1003.0146, Algorithm 1 (disjoint linear models). r is the reward less the mean of the last `window`
    rewards, in their standard deviations (ours: the paper's are clicks), so that the ridge's zero stands for an
    average reward. `q`: theta x at the last context.
    """

    reads_context = True

    @checked
    def __init__(
        self,
        arms: Sequence[str],
        alpha: NotNegative = 1.0,
        window: Annotated[int, Range(2, usual=10_000)] = 30,
    ):
        self.arms = checked_arms(arms)
        self.alpha = float(alpha)
        self._features = Context().vector()  # of the last choice
        size = len(self._features)
        self._design = {arm: np.eye(size) for arm in self.arms}
        self._target = {arm: np.zeros(size) for arm in self.arms}
        self._recent = RecentRewards(window)

    @property
    def q(self) -> dict[str, float]:
        x = np.array(self._features)
        return {arm: float(x @ np.linalg.solve(self._design[arm], self._target[arm])) for arm in self.arms}

    def choose(self, progress: float, rng: torch.Generator, context: Context | None = None) -> str:
        self._features = (context or Context(progress)).vector()
        x = np.array(self._features)
        width = {arm: math.sqrt(max(0.0, float(x @ np.linalg.solve(self._design[arm], x)))) for arm in self.arms}
        return greedy({arm: value + self.alpha * width[arm] for arm, value in self.q.items()}, rng)

    def learn(self, arm: str, reward: float, context: Context | None = None) -> None:
        """Take the reward of `arm` when it was chosen in `context` (None: that of the last choice). ValueError, without
        any change, if it is not finite."""
        reward = checked_reward(arm, self.arms, reward)
        self._recent.add(reward)
        x = np.array(self._features if context is None else context.vector())
        self._design[arm] += np.outer(x, x)
        self._target[arm] += self._recent.standard(reward) * x

    def state_dict(self) -> dict:
        return {
            "design": {arm: self._design[arm].tolist() for arm in self.arms},
            "target": {arm: self._target[arm].tolist() for arm in self.arms},
            "features": list(self._features),
            "recent": list(self._recent.values),
        }

    def load_state_dict(self, state: dict) -> None:
        restored(dict.fromkeys(state["design"], 0.0), self.arms)
        if len(state["features"]) != len(self._features):
            raise UserError(
                f"the checkpoint's contexts have {len(state['features'])} features, not {len(self._features)}"
            )
        self._design = {arm: np.array(state["design"][arm], dtype=float) for arm in self.arms}
        self._target = {arm: np.array(state["target"][arm], dtype=float) for arm in self.arms}
        self._features = list(map(float, state["features"]))
        self._recent.restore(state["recent"])
