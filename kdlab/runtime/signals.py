"""How a signal ends a run: SIGTERM (a scheduler takes the machine back) and SIGINT (Ctrl-C).

The first one raises `Stopped` where it arrives or, inside `defer_signals`, is kept until the block asks for it: a
training ends its step and saves. The second one ends the process at once. Exit codes are 128 + signal: 143 and 130.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 20  # seconds that a loader's process lives on after a SIGTERM

_asked = 0
_waits = False
_listens = False


class Stopped(BaseException):
    """A signal has ended the run; `saved_at`: the optimizer steps in the checkpoint that was written for it."""

    def __init__(self, signum: int, saved_at: int | None = None) -> None:
        super().__init__(signum)
        self.signum, self.saved_at = signum, saved_at

    @property
    def code(self) -> int:
        """What the process exits with."""
        return 128 + self.signum

    @property
    def name(self) -> str:
        """The signal as a user knows it."""
        return "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name

    def __str__(self) -> str:
        saved = "" if self.saved_at is None else f" after step {self.saved_at}, which is saved"
        return f"stopped by {self.name}{saved}; the same command goes on from the last checkpoint"


def pending() -> int:
    """The signal that waits to be obeyed, 0 if there is none."""
    return _asked


@contextmanager
def handling() -> Iterator[None]:
    """Take the two signals during the block; what ignored one goes on to. Does nothing outside the main thread."""
    global _asked, _listens
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _asked, _listens = 0, True
    install_handlers()
    try:
        yield
    finally:
        _listens = False
        for number, handler in before.items():
            signal.signal(number, handler)


def install_handlers() -> None:
    """Take the two signals (again) within `handling`, unless they are ignored: a shell's background jobs ignore
    Ctrl-C."""
    for number in SIGNALS if _listens else ():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _arrived)


@contextmanager
def defer_signals() -> Iterator[None]:
    """The first signal is only noted during the block: `pending` tells of it. At the end of the block it is obeyed."""
    global _waits
    _waits = True
    try:
        yield
    finally:
        _waits = False
    raise_pending()


def raise_pending() -> None:
    """End the patience, and raise `Stopped` if a signal waits."""
    global _waits
    _waits = False
    if _asked:
        raise Stopped(_asked)


def deferring() -> bool:
    """Whether a first signal would only be noted now."""
    return _waits


def _arrived(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        os._exit(128 + number)
    _asked = number
    if not _waits:
        raise Stopped(number)
    if {os.environ.get("LOCAL_RANK", "0"), os.environ.get("RANK", "0")} == {"0"}:
        name = Stopped(number).name
        # not print(): a handler may interrupt one
        os.write(2, f"\nkdlab: {name}: the step is ended and saved; a second {name} ends at once\n".encode())


def outlast_signals(worker: int) -> None:
    """For a loader's process: a signal to the whole group must not take its batches from a run that is still saving."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
