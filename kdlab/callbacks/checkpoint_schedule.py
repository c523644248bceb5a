"""Schedule of a run's checkpoints: once a minute, or less often where that would take more than 2 % of its time."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from kdlab.runtime.ledger import Ledger

PART = "checkpoint"  # the ledger's part for their seconds
MIN_GAP = 60.0  # seconds between two, at least
GAP_FACTOR = 75.0  # the gap is at least so many times the seconds that one takes
SHARE = 0.02  # of a run's seconds that all of them may take
RATE = 200e6  # expected bytes a second of the first one, verification included


class CheckpointSchedule:
    """Decides when a checkpoint is due: `MIN_GAP` seconds after the last one, and `GAP_FACTOR` times its expected seconds.

    Expected are the median of the last five; for the first, its bytes at `RATE`. None is due while it would bring the sum
    over `SHARE` of the run, as after one that took far longer than the others. Seconds are this rank's in `ledger`, those
    from before an interruption included. `written`: the number of checkpoints whose seconds the ledger has.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.written = 0
        self._seconds: deque[float] = deque(maxlen=5)
        self._first = self._last = 0.0

    def begin(self, parameters: Iterable[Tensor]) -> None:
        """Start, or resume, a training of these parameters by AdamW."""
        size = sum(p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in parameters)
        self._first = size / RATE
        self._last = self.ledger.elapsed()

    def due(self) -> bool:
        """True if a checkpoint should be written now."""
        now, expected = self.ledger.elapsed(), self.expected
        waited = now - self._last >= max(MIN_GAP, GAP_FACTOR * expected)
        return waited and self.ledger.elapsed(PART) + expected <= SHARE * now

    @property
    def expected(self) -> float:
        """Expected seconds of the next checkpoint."""
        return statistics.median(self._seconds) if self._seconds else self._first

    @property
    def gap(self) -> float:
        """Seconds between checkpoints that follow from their expected seconds alone."""
        return GAP_FACTOR * self.expected

    def record(self, seconds: float) -> None:
        """Record that one was written in `seconds`, which the ledger has."""
        self.written += 1
        self._seconds.append(seconds)
        self._last = self.ledger.elapsed()

    def state_dict(self) -> dict[str, Any]:
        return {"written": self.written, "took": list(self._seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.written = state["written"]
        self._seconds.extend(state["took"])
