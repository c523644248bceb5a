"""Upper confidence bounds that forget: rewards of long ago count less, or not at all."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated

import torch

from kdlab.errors import UserError
from kdlab.methods.selection.policies.checks import checked_arms, checked_reward, known_arm, restored
from kdlab.methods.selection.policies.drawing import greedy, pick
from kdlab.methods.selection.policies.scaling import RecentRewards
from kdlab.ranges import InnerShare, NotNegative, Range, checked

Window = Annotated[int, Range(1, usual=10_000)]


class DiscountedUCB:
    """D-UCB: the arm of largest discounted mean + 2 B sqrt(xi ln n / N), after every arm once (equals at random).

    Each reward that follows multiplies an arm's number N and sum of rewards by `gamma`; n is the sum of all N. Garivier
    and Moulines, arXiv 0805.3415 (`xi` above 1/2 in their theorem; 0.6 is theirs). They know a bound B
    of the rewards; here B is the range of the last 1 / (1 - gamma) of them (ours). `q`: the discounted means.
    """

    @checked
    def __init__(self, arms: Sequence[str], gamma: InnerShare = 0.95, xi: NotNegative = 0.6):
        self.arms = checked_arms(arms)
        self.gamma, self.xi = float(gamma), float(xi)
        self._count = dict.fromkeys(self.arms, 0.0)
        self._sum = dict.fromkeys(self.arms, 0.0)
        self._recent = RecentRewards(max(2, round(1 / (1 - self.gamma))))

    @property
    def q(self) -> dict[str, float]:
        return {arm: self._sum[arm] / (self._count[arm] or 1.0) for arm in self.arms}

    def choose(self, progress: float, rng: torch.Generator) -> str:
        new = [arm for arm in self.arms if self._count[arm] == 0]
        if new:
            return pick(new, rng)
        total = max(1.0, math.fsum(self._count.values()))
        bonus = 2 * self._recent.spread * math.sqrt(self.xi * math.log(total))
        return greedy({arm: q + bonus / math.sqrt(self._count[arm]) for arm, q in self.q.items()}, rng)

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        reward = checked_reward(arm, self.arms, reward)
        for each in self.arms:
            self._count[each] *= self.gamma
            self._sum[each] *= self.gamma
        self._count[arm] += 1
        self._sum[arm] += reward
        self._recent.add(reward)

    def state_dict(self) -> dict:
        return {"count": dict(self._count), "sum": dict(self._sum), "recent": list(self._recent.values)}

    def load_state_dict(self, state: dict) -> None:
        self._count, self._sum = restored(state["count"], self.arms), restored(state["sum"], self.arms)
        self._recent.restore(state["recent"])


class WindowUCB:
    """SW-UCB: the arm of largest mean over the last `window` rewards + B sqrt(xi ln min(t, window) / N).

    t rewards so far, N of the arm among the last `window`; an arm that has none there is taken first (equals at
    random). Garivier and Moulines, arXiv 0805.3415. B: the range of the rewards in the window (ours). `q`:
    the means over the window, 0 of an arm that has none there.
    """

    @checked
    def __init__(self, arms: Sequence[str], window: Window = 30, xi: NotNegative = 0.6):
        self.arms = checked_arms(arms)
        if window < len(self.arms):
            raise UserError(
                f"window={window}: fewer rewards than the {len(self.arms)} arms, so that some arm always has none and is taken "
                "first; a window of several rewards an arm"
            )
        self.window, self.xi = window, float(xi)
        self._rewards: deque[tuple[str, float]] = deque(maxlen=window)

    def _of(self, arm: str) -> list[float]:
        return [reward for name, reward in self._rewards if name == arm]

    @property
    def q(self) -> dict[str, float]:
        return {arm: math.fsum(own) / max(len(own), 1) for arm in self.arms for own in [self._of(arm)]}

    def choose(self, progress: float, rng: torch.Generator) -> str:
        new = [arm for arm in self.arms if not self._of(arm)]
        if new:
            return pick(new, rng)
        values = [reward for _, reward in self._rewards]
        bonus = (max(values) - min(values)) * math.sqrt(self.xi * math.log(len(values)))
        return greedy({arm: q + bonus / math.sqrt(len(self._of(arm))) for arm, q in self.q.items()}, rng)

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        self._rewards.append((arm, checked_reward(arm, self.arms, reward)))

    def state_dict(self) -> dict:
        return {"rewards": [[arm, reward] for arm, reward in self._rewards], "arms": list(self.arms)}

    def load_state_dict(self, state: dict) -> None:
        restored(dict.fromkeys(state["arms"], 0.0), self.arms)
        self._rewards = deque(((known_arm(arm, self.arms), float(r)) for arm, r in state["rewards"]), self.window)
