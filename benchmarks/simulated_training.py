"""Simulated trainings whose arms lower a loss at known rates, so that the best choice is known.

The loss above its floor falls by the factor exp(-v) a step, v the moving average of the rates of the arms in force (of
momentum `momentum`): its falls become ever smaller, as in training. A rate is that of the arm at this step, times the
learning rate, which falls linearly to 0, times exp(`jitter` N). Every `interval` steps the loss is observed, with a
relative error of `noise`. The arms are chosen by `kdlab.methods.selection.arm_selector.ArmSelector`, as in a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.credit import Credit
from kdlab.runtime.seeding import stable

FLOOR, START = 0.1, 1.1  # nats
Rates = Callable[[float, str], float]  # (progress, arm) -> fall of the log loss a step, at the full learning rate


@dataclass(frozen=True)
class World:
    """A simulated training. `ratios`: the share of rows that each arm queries (empty: all the same)."""

    name: str
    arms: tuple[str, ...]
    rates: Rates
    momentum: float = 0.9
    noise: float = 0.003
    jitter: float = 0.3
    steps: int = 600
    interval: int = 10
    ratios: Mapping[str, float] | None = None
    mean_ratio: float = 0.1

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step as a share of its peak."""
        return 1 - step / self.steps

    def loss(self, arms: list[str], seed: int | None = None) -> list[float]:
        """The loss after each interval with one arm in each; `seed`: of the jitter (None: without it)."""
        training = Training(self, seed)
        for arm in arms:
            training.run(arm)
        return training.losses

    def best(self) -> list[str]:
        """The arms of the best training, interval by interval; of arms of several ratios with the mean `mean_ratio`.

        What an arm adds to the fall of the log loss depends on when it is in force alone, so the best are those of the
        largest rate less a price for each query, at the price that makes the mean ratio `mean_ratio`.
        """
        places = [(step + self.interval / 2) / self.steps for step in range(0, self.steps, self.interval)]

        def at(price: float) -> list[str]:
            def value(progress: float, arm: str) -> float:
                return self.rates(progress, arm) * (1 - progress) - price * (self.ratios or {}).get(arm, 0.0)

            return [max(self.arms, key=lambda arm: value(progress, arm)) for progress in places]

        if self.ratios is None:
            return at(0.0)
        low, high = 0.0, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            spends = sum(self.ratios[arm] for arm in at(middle)) / len(places)
            low, high = (middle, high) if spends > self.mean_ratio else (low, middle)
        return at(high)


class Training:
    """A simulated training of a `World`. `losses`: the true ones, before the first step and after each interval."""

    def __init__(self, world: World, seed: int | None) -> None:
        self.world, self.step, self.speed = world, 0, 0.0
        self.random = None if seed is None else np.random.default_rng(stable(seed, "simulated", world.name))
        self.losses = [START]

    def run(self, arm: str) -> None:
        """An interval with `arm` in force."""
        world, excess = self.world, self.losses[-1] - FLOOR
        for _ in range(world.interval):
            rate = world.rates(self.step / world.steps, arm) * world.learning_rate(self.step)
            if self.random is not None:
                rate *= math.exp(world.jitter * self.random.standard_normal())
            self.speed = world.momentum * self.speed + (1 - world.momentum) * rate
            excess *= math.exp(-self.speed)
            self.step += 1
        self.losses.append(FLOOR + excess)

    def observed(self) -> float:
        """The loss with the error of an observation."""
        assert self.random is not None
        return self.losses[-1] * math.exp(self.world.noise * self.random.standard_normal())


def play(world: World, policy: Any, reward: Any, credit: Credit | None, seed: int) -> tuple[Training, list[str]]:
    """A training in which `policy` chooses, steered by `reward`; and the arms it has chosen."""
    training, chosen = Training(world, seed), []
    selector = ArmSelector(
        "policy", dict.fromkeys(world.arms), policy, world.steps, seed, reward, training.observed, world.interval,
        credit=credit, learning_rate=world.learning_rate,
    )  # fmt: skip
    for step in range(0, world.steps, world.interval):
        selector.decide(step)
        assert selector.arm is not None
        chosen.append(selector.arm)
        training.run(selector.arm)
    return training, chosen


SPEEDS = {"a": 1.0, "b": 0.8, "c": 0.65, "d": 0.55, "e": 0.45, "f": 0.35}  # of the best arm
RATE = 0.009  # of the best arm: the excess falls to 7 % in 600 steps
RATIOS = (0.05, 0.1, 0.3)


def _fixed(progress: float, arm: str) -> float:
    return RATE * SPEEDS[arm]


def _switching(progress: float, arm: str) -> float:
    """The best arm becomes the worst at a third of the training, and again at two thirds."""
    order = "abcdef"
    return RATE * SPEEDS[order[(order.index(arm) + 2 * int(3 * progress)) % len(order)]]


def _declining(progress: float, arm: str) -> float:
    """All arms lose most of their effect, so the loss falls ever more slowly whatever is chosen."""
    return 2.5 * RATE * SPEEDS[arm] / (1 + 12 * progress)


def _ratios(progress: float, arm: str) -> float:
    """Early on a few rows teach as much as many; later what is learnt grows with their number."""
    name, _, ratio = arm.partition("@")
    return 0.8 * RATE * {"a": 1.0, "c": 0.6}[name] * (float(ratio) / 0.1) ** (1.3 * progress)


def worlds() -> dict[str, World]:
    """The simulated trainings of the table, by name."""
    arms = tuple(SPEEDS)
    mixed = {f"{name}@{ratio:g}": ratio for name in "ac" for ratio in RATIOS}
    every = (
        World("stationary", arms, _fixed),
        World("noisy", arms, _fixed, noise=0.01),
        World("switching", arms, _switching),
        World("declining", arms, _declining),
        World("delayed", arms, _fixed, momentum=0.97),
        World("ratios", tuple(mixed), _ratios, ratios=mixed),
    )
    return {world.name: world for world in every}
