"""Handling of SIGTERM (a scheduler reclaims the machine) and SIGINT (Ctrl-C), which stop a run.

The first signal raises `Stopped` where it arrives or, inside `defer_signals`, stays pending: a training ends its step
and saves. The second signal ends the process at once. Exit codes are 128 + signal: 143 and 130.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 20  # seconds that a loader's worker process survives a SIGTERM

_pending = 0
_deferring = False
_handling = False


class Stopped(BaseException):
    """A signal stopped the run; `saved_at`: optimizer steps in the checkpoint written for it, None if there is none."""

    def __init__(self, signum: int, saved_at: int | None = None) -> None:
        super().__init__(signum)
        self.signum, self.saved_at = signum, saved_at

    @property
    def code(self) -> int:
        """The exit code of the process."""
        return 128 + self.signum

    @property
    def name(self) -> str:
        """The name of the signal for users: Ctrl-C or SIGTERM."""
        return "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name

    def __str__(self) -> str:
        saved = "" if self.saved_at is None else f" after step {self.saved_at}, which is saved"
        return f"stopped by {self.name}{saved}; the same command resumes from the last checkpoint"


def pending() -> int:
    """The number of the pending signal, 0 if there is none."""
    return _pending


@contextmanager
def handling() -> Iterator[None]:
    """Handle both signals during the block; an ignored signal stays ignored. Does nothing outside the main thread."""
    global _pending, _handling
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _pending, _handling = 0, True
    install_handlers()
    try:
        yield
    finally:
        _handling = False
        for number, handler in before.items():
            signal.signal(number, handler)


def install_handlers() -> None:
    """Install the handlers (again) within `handling`, but not for ignored signals: background jobs ignore Ctrl-C."""
    for number in SIGNALS if _handling else ():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _arrived)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Keep the first signal pending during the block (`pending`); raise `Stopped` for it at the end of the block."""
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    raise_pending()


def raise_pending() -> None:
    """Stop deferring, and raise `Stopped` if a signal is pending."""
    global _deferring
    _deferring = False
    if _pending:
        raise Stopped(_pending)


def deferring() -> bool:
    """True inside `defer_signals`, where a first signal stays pending."""
    return _deferring


def _arrived(number: int, frame: FrameType | None) -> None:
    global _pending
    if _pending:
        os._exit(128 + number)
    _pending = number
    if not _deferring:
        raise Stopped(number)
    if {os.environ.get("LOCAL_RANK", "0"), os.environ.get("RANK", "0")} == {"0"}:
        name = Stopped(number).name
        # not print(): a handler may interrupt one
        os.write(2, f"\nkdlab: {name}: the step is ended and saved; a second {name} ends at once\n".encode())


def outlast_signals(worker: int) -> None:
    """Keep a loader's worker process alive for `GRACE` seconds: a run that is still saving needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
