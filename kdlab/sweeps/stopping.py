"""Signals that stop a sweep: recorded, and passed on to its jobs."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SAVE_TIMEOUT = 120.0  # seconds that stopped jobs have for saving their checkpoints
POLL = 0.1  # seconds between two rounds of the scheduler
DOUBLED = 0.5  # seconds within which a second signal counts as the first: some tools send one twice
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """A signal handler: `signal` is the first signal that came, `times` the number of signals since it was last reset."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.times = 0
        self._last = float("-inf")

    def __call__(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        self.signal = self.signal or number
        self.times += now - self._last > DOUBLED
        self._last = now


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Record signals during the block, in place of ending this process; one that is ignored (nohup) stays ignored."""
    stop = StopSignals()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
