"""Thompson sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from kdlab.methods.selection.policies.checks import checked_arms, checked_reward, restored
from kdlab.methods.selection.policies.drawing import greedy, pick
from kdlab.ranges import Positive, Share, checked


class Thompson:
    """Thompson sampling for Gaussian rewards of unknown scale: the arm whose mean, drawn from its posterior, is largest.

    The model: a reward of arm a is N(mu_a, s2) with one variance s2 for all arms, p(s2) ~ 1 / s2, and
    mu_a ~ N(m, s2 / prior), where m is the mean of all rewards (empirical Bayes, ours): an arm that was not tried yet
    promises an average reward, whatever the sign of rewards is. From n_a rewards of mean x_a and sum of squared
    deviations S_a, with n = sum n_a:

        s2   ~ inverse gamma(n / 2, [sum_a S_a + prior n_a / (prior + n_a) (x_a - m)^2] / 2)
        mu_a ~ N((prior m + n_a x_a) / (prior + n_a), s2 / (prior + n_a))

    the normal-gamma posterior (DeGroot, Optimal statistical decisions, 1970, section 9.6), so mu_a alone is a Student t
    of n degrees of freedom. Drawing from it is Thompson's rule (Biometrika 1933; Agrawal and Goyal, arXiv 1209.3353).
    With `gamma` below 1 the numbers n_a and sums S_a are multiplied by it at each reward, so that old ones count less
    (discounted Thompson sampling; Raj and Kalyani, arXiv 1707.09727, for Bernoulli rewards). `width` multiplies the
    deviations of the draws from their means: below 1 explores less (posterior reshaping; Chapelle and Li, NIPS 2011).
    Until two rewards differ the arm is drawn uniformly. `q`: the posterior means.
    """

    @checked
    def __init__(self, arms: Sequence[str], prior: Positive = 1.0, gamma: Share = 1.0, width: Positive = 1.0):
        self.arms = checked_arms(arms)
        self.prior, self.gamma, self.width = float(prior), float(gamma), float(width)
        self._count = dict.fromkeys(self.arms, 0.0)
        self._mean = dict.fromkeys(self.arms, 0.0)
        self._squares = dict.fromkeys(self.arms, 0.0)  # squared deviations from the arm's mean

    @property
    def q(self) -> dict[str, float]:
        overall = self._overall()
        return {
            arm: (self.prior * overall + self._count[arm] * self._mean[arm]) / (self.prior + self._count[arm])
            for arm in self.arms
        }

    def choose(self, progress: float, rng: torch.Generator) -> str:
        drawn = self.drawn(rng)
        return pick(self.arms, rng) if drawn is None else greedy(drawn[0], rng)

    def drawn(self, rng: torch.Generator) -> tuple[dict[str, float], float] | None:
        """A mean for each arm and the standard deviation of rewards, drawn from the posterior; None while it has none."""
        overall, total = self._overall(), math.fsum(self._count.values())
        rate = 0.5 * math.fsum(
            self._squares[arm]
            + self.prior * self._count[arm] / (self.prior + self._count[arm]) * (self._mean[arm] - overall) ** 2
            for arm in self.arms
        )
        if not rate > 0:
            return None
        numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=rng, device=rng.device)))
        deviation = math.sqrt(rate / max(float(numbers.gamma(total / 2)), 1e-12))
        means = {
            arm: mean
            + self.width * deviation / math.sqrt(self.prior + self._count[arm]) * float(numbers.standard_normal())
            for arm, mean in self.q.items()
        }
        return means, deviation

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        reward = checked_reward(arm, self.arms, reward)
        for each in self.arms:
            self._count[each] *= self.gamma
            self._squares[each] *= self.gamma
        before = reward - self._mean[arm]
        self._count[arm] += 1
        self._mean[arm] += before / self._count[arm]
        self._squares[arm] += before * (reward - self._mean[arm])

    def _overall(self) -> float:
        total = math.fsum(self._count.values())
        return math.fsum(self._count[arm] * self._mean[arm] for arm in self.arms) / total if total else 0.0

    def state_dict(self) -> dict:
        return {"count": dict(self._count), "mean": dict(self._mean), "squares": dict(self._squares)}

    def load_state_dict(self, state: dict) -> None:
        self._count, self._mean = restored(state["count"], self.arms), restored(state["mean"], self.arms)
        self._squares = restored(state["squares"], self.arms)
