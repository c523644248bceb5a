"""Policies: the choice of the next arm, by its name.

Every policy takes its `arms` first and has `choose(progress, rng) -> arm`, `progress` being the share of training
done, in [0, 1], and `rng` a generator keyed by the step; and `state_dict` / `load_state_dict` in plain Python values.
A `Learner` also has `learn(arm, reward)` and `q`, a value for each arm; only a Learner needs observed rewards.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from kdlab.errors import UserError, nearest
from kdlab.ranges import InnerShare, NotNegative, Probability, Share, checked

SQRT2 = math.sqrt(2)


@runtime_checkable
class Policy(Protocol):
    """A rule that chooses one of `arms`."""

    arms: tuple[str, ...]

    def choose(self, progress: float, rng: torch.Generator) -> str:
        """The next arm; `progress` share of training done, in [0, 1]; random choices draw from `rng`."""
        ...

    def state_dict(self) -> dict:
        """The learnt state in plain Python values."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`; UserError if another policy, or one of other arms, saved it."""
        ...


@runtime_checkable
class Learner(Policy, Protocol):
    """A policy that learns from rewards."""

    @property
    def q(self) -> dict[str, float]:
        """A value for each arm, as selector.csv records it."""
        ...

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        ...


class Fixed:
    """The same arm every time: the only one, or `arm`."""

    @checked
    def __init__(self, arms: Sequence[str], arm: str | None = None):
        self.arms = _arms(arms)
        if arm is None and len(self.arms) != 1:
            raise UserError(f"a fixed policy takes one arm, found {', '.join(self.arms)}: choose one by arm=")
        self.arm = self.arms[0] if arm is None else _known(arm, self.arms)

    def choose(self, progress: float, rng: torch.Generator) -> str:
        return self.arm

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        _stateless(self, state)


class Schedule:
    """The arms `stages`, one after the other, with switches at the shares `at` of training (AdaDS Table 3: A, then B).

    `at` has one share in (0, 1) less than there are stages, ascending; by default the stages are equally long (two: a
    switch at half). The step at which `progress` reaches a share belongs to the new stage.
    """

    @checked
    def __init__(self, arms: Sequence[str], stages: Sequence[str], at: Sequence[InnerShare] | None = None):
        self.arms = _arms(arms)
        if isinstance(stages, str) or not stages:
            raise UserError(f"a schedule needs a list of one stage or more, found {stages!r}")
        self.stages = tuple(_known(stage, self.arms) for stage in stages)
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
        _stateless(self, state)


class RandMix:
    """An arm drawn uniformly each time (AdaDS Table 5)."""

    @checked
    def __init__(self, arms: Sequence[str]):
        self.arms = _arms(arms)

    def choose(self, progress: float, rng: torch.Generator) -> str:
        return _pick(self.arms, rng)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        _stateless(self, state)


class Online:
    """Epsilon-greedy selector of AdaDS, Eq. 9: Q(a) <- alpha r + (1 - alpha) Q(a) for the arm taken, zero at first.

    With probability 1 - `epsilon` the arm of largest Q (equals at random), else one drawn uniformly from all. The
    Online algorithm of Matiisen et al., Teacher-student curriculum learning, IEEE TNNLS 2020. AdaDS prints neither
    `alpha` in (0, 1] nor `epsilon` in [0, 1]; 0.1 are ours.
    """

    @checked
    def __init__(self, arms: Sequence[str], alpha: Share = 0.1, epsilon: Probability = 0.1):
        self.arms = _arms(arms)
        self.alpha = float(alpha)
        self.epsilon = float(epsilon)
        self.q = dict.fromkeys(self.arms, 0.0)

    def choose(self, progress: float, rng: torch.Generator) -> str:
        if _uniform(rng) < self.epsilon:
            return _pick(self.arms, rng)
        return _greedy(self.q, rng)

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        reward = _reward(arm, self.arms, reward)
        self.q[arm] = self.alpha * reward + (1 - self.alpha) * self.q[arm]

    def state_dict(self) -> dict:
        return {"q": dict(self.q)}

    def load_state_dict(self, state: dict) -> None:
        self.q = _restored(state["q"], self.arms)


class UCB:
    """UCB1: the arm of largest mean reward + c sqrt(ln t / n), after every arm once (equals at random).

    t is the number of rewards so far, n that of the arm. Auer, Cesa-Bianchi and Fischer, Finite-time analysis of the
    multiarmed bandit problem, Machine Learning 2002, Fig. 1, where c = sqrt 2 and rewards lie in [0, 1]. For rewards of
    any other scale the bonus is multiplied by the range of the rewards seen so far, which equals mapping them on [0, 1]
    (ours). It assumes stationary rewards, which those of distillation are not; not part of AdaDS. `q`: the means.
    """

    @checked
    def __init__(self, arms: Sequence[str], c: NotNegative = SQRT2):
        self.arms = _arms(arms)
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
            return _pick(new, rng)
        bonus = self.c * (self._seen[1] - self._seen[0]) * math.sqrt(math.log(sum(self._count.values())))
        return _greedy({arm: q + bonus / math.sqrt(self._count[arm]) for arm, q in self.q.items()}, rng)

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`. ValueError, without any change, if it is not finite."""
        reward = _reward(arm, self.arms, reward)
        self._count[arm] += 1
        self._sum[arm] += reward
        self._seen = _widened(self._seen, reward)

    def state_dict(self) -> dict:
        return {"count": dict(self._count), "sum": dict(self._sum), "seen": list(self._seen)}

    def load_state_dict(self, state: dict) -> None:
        self._count = {arm: int(count) for arm, count in _restored(state["count"], self.arms).items()}
        self._sum, self._seen = _restored(state["sum"], self.arms), list(state["seen"])


class Exp3:
    """Exp3: an arm drawn with p = (1 - gamma) w / sum w + gamma / n; its weight becomes w exp(gamma x / (p n)).

    n arms, x the reward in [0, 1]. Auer, Cesa-Bianchi, Freund and Schapire, The nonstochastic
    multiarmed bandit problem, SIAM J. Computing 2002, Fig. 1: it assumes nothing of how rewards change over time.
    Rewards of any other scale are mapped on [0, 1] by the lowest and highest seen so far, 1/2 while these are equal
    (ours). Not part of AdaDS. `q`: the probabilities.
    """

    @checked
    def __init__(self, arms: Sequence[str], gamma: Share = 0.1):
        self.arms = _arms(arms)
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
        draw, q = _uniform(rng), self.q
        for arm in self.arms:
            draw -= q[arm]
            if draw < 0:
                return arm
        return self.arms[-1]

    def learn(self, arm: str, reward: float) -> None:
        """Take the reward of `arm`, chosen since the last `learn`. ValueError, without any change, if not finite."""
        reward = _reward(arm, self.arms, reward)
        self._seen = _widened(self._seen, reward)
        low, high = self._seen
        unit = (reward - low) / (high - low) if high > low else 0.5
        self._log_weight[arm] += self.gamma * unit / (self.q[arm] * len(self.arms))

    def state_dict(self) -> dict:
        return {"log_weight": dict(self._log_weight), "seen": list(self._seen)}

    def load_state_dict(self, state: dict) -> None:
        self._log_weight, self._seen = _restored(state["log_weight"], self.arms), list(state["seen"])


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng, device=rng.device, dtype=torch.float64))


def _pick(names: Sequence[str], rng: torch.Generator) -> str:
    return names[int(torch.randint(len(names), (), generator=rng, device=rng.device))]


def _greedy(value: dict[str, float], rng: torch.Generator) -> str:
    best = max(value.values())
    return _pick([arm for arm in value if value[arm] == best], rng)


def _reward(arm: str, arms: tuple[str, ...], reward: float) -> float:
    if arm not in arms:
        raise ValueError(f"no arm is called {arm}: {nearest(arm, arms)}")
    reward = float(reward)
    if not math.isfinite(reward):
        raise ValueError(f"the reward of {arm} must be finite, found {reward}")
    return reward


def _widened(seen: list[float], reward: float) -> list[float]:
    return [min([*seen, reward]), max([*seen, reward])]


def _arms(arms: Sequence[str]) -> tuple[str, ...]:
    if isinstance(arms, str) or not arms:
        raise UserError(f"a policy needs a list of one arm or more, found {arms!r}")
    if len(set(arms)) != len(arms):
        raise UserError(f"a policy's arms must differ, found {', '.join(arms)}")
    return tuple(arms)


def _known(name: str, arms: tuple[str, ...]) -> str:
    if name not in arms:
        raise UserError(f"no arm is called {name}: {nearest(str(name), arms)}")
    return name


def _stateless(policy: Policy, state: dict) -> None:
    if state:
        found = ", ".join(state)
        raise UserError(f"the checkpoint was saved by another policy than {type(policy).__name__}: it holds {found}")


def _restored(saved: dict[str, float], arms: tuple[str, ...]) -> dict[str, float]:
    """The numbers saved for `arms`, in their order; UserError if they were saved for others."""
    if set(saved) != set(arms):
        raise UserError(f"the checkpoint's arms are {', '.join(saved)}, the configured ones are {', '.join(arms)}")
    return {arm: float(saved[arm]) for arm in arms}
