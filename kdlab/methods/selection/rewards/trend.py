"""Rewards against an expectation: the fall of the log loss beyond the trend of all arms, for each unit of training or cost."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np

from kdlab.errors import UserError
from kdlab.methods.marks import needs
from kdlab.ranges import Positive, Range, checked
from kdlab.types import Observation

FLOOR = 1e-6  # nats: a smaller loss counts as this one, or its logarithm would be all noise
SLOWEST = (
    0.05  # share of its peak that a learning rate counts for at least, or the falls divided by it would be all noise
)
SLOPE = 0.1  # penalty of the slope, of that of the arms: a fall that slows down is the rule
FORGOTTEN = 1e-4  # weight below which a fall leaves the trend

Shares = Mapping[str, float]


class ArmTrend:
    """The fall that is expected next, whatever the arm: a line through past falls, less what is due to their arms.

    The expectation a of the next fall, number t, minimises over a, b and the arms' effects e

        sum_{i<t} decay^(t-1-i) (g_i - a - b (i - t) / h - sum_k s_ik e_k)^2 + ridge (b^2 / 10 + sum_k e_k^2)

    g_i the past falls, s_ik the share of arm k in fall i, h = 1 / (1 - decay). So a good arm that is in force for long
    lifts its own effect, and not the expectation of all. `ridge` counts as so many falls that show no effect of an arm.
    A fall is kept while its weight is at least 1e-4.
    """

    def __init__(self, decay: float, ridge: float) -> None:
        self.decay, self.ridge = decay, ridge
        most = 2 if decay == 0 else 1 + math.floor(math.log(FORGOTTEN) / math.log(decay))
        self.falls: deque[tuple[float, dict[str, float]]] = deque(maxlen=most)

    def add(self, fall: float, shares: Shares) -> None:
        """Take a fall, and the share of each arm in it."""
        self.falls.append((fall, dict(shares)))

    def expected(self) -> float | None:
        """The expectation of the next fall; None before the first."""
        if not self.falls:
            return None
        arms = sorted({arm for _, shares in self.falls for arm in shares})
        age = np.arange(len(self.falls), 0, -1)  # the last fall is one back
        effects = [[shares.get(arm, 0.0) for arm in arms] for _, shares in self.falls]
        design = np.column_stack((np.ones(len(age)), -age * (1 - self.decay), np.array(effects)))
        weight = self.decay ** (age - 1.0)
        penalty = np.diag([0.0, SLOPE * self.ridge, *[self.ridge] * len(arms)])
        falls = np.array([fall for fall, _ in self.falls])
        return float(np.linalg.solve((design.T * weight) @ design + penalty, design.T @ (weight * falls))[0])


class FallBeyondTrend:
    """The shared part of `Trend` and `FallPerCost`: falls of the log loss for each unit of something, against `ArmTrend`."""

    def __init__(self, decay: float, ridge: float, standardise: bool, centred: bool = True) -> None:
        self.decay, self.ridge, self.standardise, self.centred = float(decay), float(ridge), standardise, centred
        self.trend = ArmTrend(self.decay, self.ridge)
        self._log_loss: float | None = None
        self._square: list[float] = []  # weighted sum of squared rewards, and sum of their weights

    def amount(self, observation: Observation) -> float:
        """The units of training or cost since the last observation; 0: there is no reward."""
        raise NotImplementedError

    def observe(self, value: Observation) -> tuple[float | None, float | None]:
        """Take one observation; (fall a unit, reward), each None while it does not exist. ValueError if the loss is not
        finite, UserError if it is negative."""
        if not math.isfinite(value.loss):
            raise ValueError(f"the observed loss must be finite, found {value.loss}")
        if value.loss < 0:
            raise UserError(
                f"the observed loss is {value.loss:g}, and {type(self).__name__} compares logarithms, of a loss from 0 on; "
                "the reward LossDecay (select.reward=loss_decay) takes any loss"
            )
        before, self._log_loss = self._log_loss, math.log(max(value.loss, FLOOR))
        amount = self.amount(value)
        if before is None or value.arm is None or amount <= 0:
            return None, None
        fall = (before - self._log_loss) / amount
        expected = self.trend.expected() if self.centred else 0.0
        self.trend.add(fall, value.shares or {value.arm: 1.0})
        return fall, None if expected is None else self._scaled(fall - expected)

    def _scaled(self, reward: float) -> float:
        """`reward`, or with `standardise` over the weighted root mean square of the rewards up to this one."""
        if not self.standardise:
            return reward
        squares, weights = self._square or [0.0, 0.0]
        self._square = [self.decay * squares + reward**2, self.decay * weights + 1.0]
        return reward / math.sqrt(self._square[0] / self._square[1]) if reward else 0.0

    def restart(self) -> None:
        """Drop the last loss and the trend: the next loss is another one."""
        self._log_loss = None
        self.trend.falls.clear()
        self._square = []

    def state_dict(self) -> dict[str, Any]:
        """The last log loss, the falls of the trend and the scale, in plain Python values."""
        falls = [[fall, dict(shares)] for fall, shares in self.trend.falls]
        return {"log_loss": self._log_loss, "falls": falls, "square": list(self._square)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; UserError if another kind of reward saved it."""
        if "falls" not in state:
            raise UserError(f"the checkpoint's reward is another one than {type(self).__name__}")
        self._log_loss, self._square = state["log_loss"], list(state["square"])
        self.trend.falls.clear()
        for fall, shares in state["falls"]:
            self.trend.add(fall, shares)


@needs("observation")
class Trend(FallBeyondTrend):
    """Fall of the log loss beyond the trend of all arms, for each step at the full learning rate (ours).

    The fall between two observations is g = (ln o_{t-1} - ln o_t) / x_t, with x_t the sum over the optimizer steps in
    between of the learning rate as a share of its peak (`per` "steps": their number); the reward is g less what was
    expected of it (`ArmTrend`: a line through the falls of all arms, `decay` their weights from one to the next, `ridge`
    the weight of the assumption that arms do not differ). So it is about 0 where the arms are alike, above 0 for a better
    one, and does not depend on the loss's unit. `standardise`: over the root mean square of the rewards so far, with the
    same weights. The first reward exists at the third observation.
    """

    @checked
    def __init__(
        self,
        per: Literal["learning_rate", "steps"] = "learning_rate",
        decay: Annotated[float, Range(0, 0.999)] = 0.9,
        ridge: Positive = 1.0,
        standardise: bool = False,
    ):
        super().__init__(decay, ridge, standardise)
        self.per = per

    def amount(self, observation: Observation) -> float:
        if self.per == "steps":
            return float(observation.steps)
        return max(observation.learning_rate, SLOWEST * observation.steps)
