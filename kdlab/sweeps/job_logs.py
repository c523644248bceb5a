"""Read the log of a job: its first error, its last line, what it waits for."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from kdlab.storage import artifacts, locks

WAITS = (artifacts.WAITING, locks.WAITING)  # ends of the messages of a process that waits for another
_TAIL = 4096  # bytes read for the last line
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")  # of terminals


def first_error(log: Path, since: int, code: int) -> str:
    """The reason for exit code `code` in a log from byte `since` on: kdlab's own line, else the first exception, else the
    last line."""
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        memory = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
        return f"killed ({name}){memory}"
    lines = _lines(log, since)
    if code == 2:
        own = [line for line in lines if line.startswith("kdlab: ") and not line.startswith("kdlab: caveat: ")]
        if own:
            return own[-1].removeprefix("kdlab: ")
    exception = raised(lines)
    if exception is not None:
        return exception
    printed = [line for line in lines if line.strip()]
    return printed[-1].strip() if printed else f"exit code {code} and an empty log"


def raised(lines: Sequence[str]) -> str | None:
    """The exception line of the first traceback in `lines`; None without one."""
    for i, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)"):
            exceptions = [after for after in lines[i + 1 :] if after and not after.startswith((" ", "Traceback"))]
            if exceptions:
                return exceptions[0]
    return None


def last_line(log: Path, since: int) -> str:
    """The last non-empty line of a log from byte `since` on; "" without one."""
    try:
        size = os.path.getsize(log)
    except OSError:
        return ""
    printed = [line for line in _lines(log, max(since, size - _TAIL)) if line.strip()]
    return printed[-1].strip() if printed else ""


def wait_of(line: str) -> str | None:
    """The reason of a wait, from the last line of a log ("teacher X: process 1 on host is making it"); None if the job works."""
    for ending in WAITS:
        if line.endswith(ending):
            return line.removesuffix(ending).removeprefix("kdlab: ").rstrip(" ,:")
    return None


def _lines(log: Path, since: int) -> list[str]:
    """The lines of a log as a terminal would show them: after the last carriage return, without escape codes."""
    try:
        with open(log, "rb") as file:
            file.seek(since)
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rsplit("\r", 1)[-1] for line in _ESCAPES.sub("", text).split("\n")]
