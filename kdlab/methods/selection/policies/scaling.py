"""Rewards of any scale put on the scale that an algorithm assumes, by the last rewards alone: early ones are larger."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable


class RecentRewards:
    """The last `window` rewards of all arms; what they say of the scale of a reward.

    A range over the whole training would keep the large rewards of its beginning, and late ones would all look alike.
    """

    def __init__(self, window: int) -> None:
        self.values: deque[float] = deque(maxlen=window)

    def add(self, reward: float) -> None:
        """Take a reward."""
        self.values.append(reward)

    @property
    def spread(self) -> float:
        """The highest less the lowest."""
        return max(self.values) - min(self.values) if self.values else 0.0

    def unit(self, reward: float) -> float:
        """The place of a reward between the lowest, 0, and the highest, 1; 1/2 while these are equal."""
        return (reward - min(self.values)) / self.spread if self.spread > 0 else 0.5

    def standard(self, reward: float) -> float:
        """The reward less the mean, in standard deviations; 0 while there is no deviation."""
        mean = math.fsum(self.values) / len(self.values)
        variance = math.fsum((value - mean) ** 2 for value in self.values) / len(self.values)
        return (reward - mean) / math.sqrt(variance) if variance > 0 else 0.0

    def restore(self, values: Iterable[float]) -> None:
        """Continue from saved rewards."""
        self.values = deque(map(float, values), maxlen=self.values.maxlen)
