"""The epsilon-greedy selector of AdaDS."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdlab.methods.selection.policies.checks import checked_arms, checked_reward, restored
from kdlab.methods.selection.policies.drawing import greedy, pick, uniform
from kdlab.ranges import Probability, Share, checked


class Online:
    """Epsilon-greedy selector of AdaDS, Eq. 9: Q(a) <- alpha r + (1 - alpha) Q(a) for the arm taken, zero at first.

    With probability 1 - `epsilon` the arm of largest Q (equals at random), else one drawn uniformly from all. The
    Online algorithm of Matiisen et al., Teacher-student curriculum learning, IEEE TNNLS 2020. AdaDS prints neither
    `alpha` in (0, 1] nor `epsilon` in [0, 1]; 0.1 are ours.

    `relative` (ours, not AdaDS): r is the reward less the running mean of all rewards, in which each new one counts
    `alpha` (the first: 0). The zero of an arm that was not tried then stands for an average reward. Without it, where
    all rewards are negative, each arm tried falls below the untried ones, and the arms are taken in turn.
    """

    @checked
    def __init__(self, arms: Sequence[str], alpha: Share = 0.1, epsilon: Probability = 0.1, relative: bool = False):
        self.arms = checked_arms(arms)
        self.alpha = float(alpha)
        self.epsilon = float(epsilon)
        self.relative = relative
        self.q = dict.fromkeys(self.arms, 0.0)
        self._mean: float | None = None  # of all rewards, where they are relative

    def choose(self, progress: float, rng: torch.Generator) -> str:
        if uniform(rng) < self.epsilon:
            return pick(self.arms, rng)
        return greedy(self.q, rng)

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        reward = checked_reward(arm, self.arms, reward)
        if self.relative:
            mean = reward if self._mean is None else self._mean
            self._mean = self.alpha * reward + (1 - self.alpha) * mean
            reward -= mean
        self.q[arm] = self.alpha * reward + (1 - self.alpha) * self.q[arm]

    def state_dict(self) -> dict:
        return {"q": dict(self.q), **({"mean": self._mean} if self.relative else {})}

    def load_state_dict(self, state: dict) -> None:
        self.q = restored(state["q"], self.arms)
        if self.relative:
            self._mean = state["mean"]
