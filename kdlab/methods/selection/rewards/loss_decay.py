"""The reward of AdaDS: acceleration of the fall of the loss."""

from __future__ import annotations

import math
from collections import deque
from typing import Annotated

from kdlab.errors import UserError
from kdlab.ranges import Range, checked


class LossDecay:
    """Acceleration of the loss's fall: reward v_t - v_{t-1} of the decay speed v (AdaDS Eq. 10-11 and section 5.3).

    The observation o_t is the student's mean loss on the selector-evaluation samples (nats). The speed v_t is minus
    the slope of the least-squares line through the last `window` = K observations against their index (nats per
    observation; positive while the loss falls). The first speed exists after K observations, the first reward after
    K + 1. K is not printed in AdaDS.
    """

    @checked
    def __init__(self, window: Annotated[int, Range(2, usual=10_000)] = 5):
        self.window = window
        self._observations: deque[float] = deque(maxlen=window)
        self._speed: float | None = None

    def observe(self, value: float) -> tuple[float | None, float | None]:
        """Take one observation; (speed, reward), each None while it does not exist. ValueError if not finite."""
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(f"the observed loss must be finite, found {value}")
        self._observations.append(value)
        if len(self._observations) < self.window:
            return None, None
        before, self._speed = self._speed, -_slope(self._observations)
        return self._speed, None if before is None else self._speed - before

    def restart(self) -> None:
        """Drop all observations and the last speed: the next one is of another loss, and differences would mean nothing."""
        self._observations.clear()
        self._speed = None

    def state_dict(self) -> dict:
        """The window, its observations and the last speed, in plain Python values."""
        return {"window": self.window, "observations": list(self._observations), "speed": self._speed}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`; UserError if it was saved with another window."""
        if state["window"] != self.window:
            raise UserError(f"the checkpoint's reward window is {state['window']}, the configured one is {self.window}")
        self._observations = deque(map(float, state["observations"]), maxlen=self.window)
        self._speed = state["speed"]


def _slope(values: deque[float]) -> float:
    middle = (len(values) - 1) / 2
    mean = math.fsum(values) / len(values)
    cross = math.fsum((index - middle) * (value - mean) for index, value in enumerate(values))
    return cross / math.fsum((index - middle) ** 2 for index in range(len(values)))
