"""When a run writes its checkpoints: once a minute, or less often where that would be more than a small share of its time."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from kdlab.runtime.ledger import Ledger

PART = "checkpoint"  # what the ledger calls their seconds
APART = 60.0  # seconds between two, at least
TIMES = 75.0  # how many times as long as one takes they lie apart, at least
SHARE = 0.02  # of a run's seconds that all of them may take
RATE = 200e6  # bytes a second that the first one is expected to be written with, verified


class CheckpointSchedule:
    """Tells when a checkpoint is due: `APART` seconds after the one before, and `TIMES` what one takes (the median of the
    last five; the first: as long as its bytes take at `RATE`).

    Nor is one due while it would bring all of them over `SHARE` of the run, as after one that took far longer than the
    others. Seconds are this rank's in `ledger`, those from before an interruption included.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.written = 0  # those whose seconds the ledger has
        self._took: deque[float] = deque(maxlen=5)
        self._first = self._last = 0.0

    def begin(self, parameters: Iterable[Tensor]) -> None:
        """A training of these parameters by AdamW begins, or goes on from a checkpoint."""
        size = sum(p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in parameters)
        self._first = size / RATE
        self._last = self.ledger.elapsed()

    def due(self) -> bool:
        """Whether one should be written now."""
        now, expected = self.ledger.elapsed(), self.expected
        waited = now - self._last >= max(APART, TIMES * expected)
        return waited and self.ledger.elapsed(PART) + expected <= SHARE * now

    @property
    def expected(self) -> float:
        """Seconds that the next one will take."""
        return statistics.median(self._took) if self._took else self._first

    def wrote(self, seconds: float) -> None:
        """One was written, and the ledger has its seconds."""
        self.written += 1
        self._took.append(seconds)
        self._last = self.ledger.elapsed()

    def state_dict(self) -> dict[str, Any]:
        return {"written": self.written, "took": list(self._took)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.written = state["written"]
        self._took.extend(state["took"])
