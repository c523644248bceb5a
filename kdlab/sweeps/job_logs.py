"""What a job of a sweep has to say: its first error line, its last line, and the value a sweep compares jobs by."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TAIL = 4096  # bytes
_NO_TEXT = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True)
class ObjectiveValue:
    """What a job is judged by: the mean of a task's metrics on the dev set, or the loss on held-out text."""

    name: str
    value: float
    higher: bool
    task: str

    def better_than(self, other: ObjectiveValue) -> bool:
        return self.value > other.value if self.higher else self.value < other.value

    def __str__(self) -> str:
        return f"{self.name} {100 * self.value:.1f}" if self.higher else f"{self.name} {self.value:.4f}"


def objective(folder: Path) -> ObjectiveValue | None:
    """The objective in the result.json of a finished run; None where there is none (a suite writes another file)."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        student, task = result["metrics"]["student"], result["data"].get("task")
        if "score" in student:
            return ObjectiveValue("score", float(student["score"]), True, str(task or "task"))
        return ObjectiveValue("held-out loss", float(student["loss"]), False, "text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def first_error(log: Path, since: int, code: int) -> str:
    """The line of a log, from byte `since` on, that says why a job ended with exit code `code`."""
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        memory = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
        return f"killed ({name}){memory}"
    lines = _lines(log, since)
    if code == 2:
        ours = [line for line in lines if line.startswith("kdlab: ")]
        if ours:
            return ours[-1].removeprefix("kdlab: ")
    found = raised(lines)
    if found is not None:
        return found
    said = [line for line in lines if line.strip()]
    return said[-1].strip() if said else f"exit code {code}, and nothing was said"


def raised(lines: Sequence[str]) -> str | None:
    """The exception of the first traceback in some lines."""
    for i, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)"):
            said = [after for after in lines[i + 1 :] if after and not after.startswith((" ", "Traceback"))]
            if said:
                return said[0]
    return None


def last_line(log: Path, since: int) -> str:
    """The last line that is not empty, of what a log has from byte `since` on."""
    try:
        size = os.path.getsize(log)
    except OSError:
        return ""
    said = [line for line in _lines(log, max(since, size - _TAIL)) if line.strip()]
    return said[-1].strip() if said else ""


def _lines(log: Path, since: int) -> list[str]:
    try:
        with open(log, "rb") as file:
            file.seek(since)
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rsplit("\r", 1)[-1] for line in _NO_TEXT.sub("", text).split("\n")]
