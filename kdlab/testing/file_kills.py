"""Kill a process before each of its operations on files: what it wrote must be unfinished, or whole."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.runs import folders
from kdlab.storage import locks
from kdlab.testing.child_process import ChildResult, outcome
from kdlab.testing.fault_lab import FaultLab, FaultResult

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")  # audit events of Python that name a path first
STRIDE = 5  # operations between two kills of a sample


@dataclass
class KillAtFile:
    """SIGKILL this process before operation `number` (from 0) that changes files below `folder`: a file opened to be
    written, a rename, a removal, a new folder. `begins`: call it with a function that starts the count; default: at once."""

    number: int
    folder: Path
    begins: Callable[[Callable[[], None]], None] | None = None

    def __call__(self) -> None:
        home, count, begun = str(self.folder.absolute()), 0, self.begins is None

        def start() -> None:
            nonlocal begun
            begun = True

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if not begun or event not in OPERATIONS or not isinstance(arguments[0], str | os.PathLike):
                return
            if event == "open" and not arguments[2] & WRITES:
                return
            if os.path.abspath(arguments[0]).startswith(home):
                if count == self.number:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        if self.begins is not None:
            self.begins(start)
        sys.addaudithook(hook)


def when_finishing(start: Callable[[], None]) -> None:
    """Call `start` when a run of this process begins to write its results."""
    from kdlab.runs import single

    finish = single.finish

    def started(*arguments: Any, **named: Any) -> Any:
        start()
        return finish(*arguments, **named)

    single.finish = started  # pyright: ignore[reportAttributeAccessIssue]


def names(folder: Path) -> list[str]:
    """The files below a folder, without locks and the checkpoints of a resumed run."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and file.name != locks.NAME)
    return sorted(str(file) for file in files if file.parts[0] != "checkpoints" and not file.name.endswith(".tmp"))


def results_killed(lab: FaultLab) -> FaultResult:
    """A run is killed before each operation that writes its results; a sample of them in a `few` lab.

    Each time it is unfinished and the same command completes it, or it is whole and refused as finished.
    """
    summary = FaultResult()
    whole = lab.new_folder()
    done = lab.run(whole, prepare=_nothing)
    files, folder, number = names(whole / "run"), lab.new_folder(), 0
    while done.code == 0:
        killed = lab.run(folder, prepare=KillAtFile(number, folder / "run", when_finishing))
        if killed.code == 0:
            break
        summary.injected += 1
        number += STRIDE if lab.few else 1
        finished = folders.status(folder / "run") == "finished"
        if killed.code != -signal.SIGKILL or (finished and names(folder / "run") != files):
            return _wrong(summary, f"operation {number}", killed)
        if finished:
            break
    again = lab.run(folder, prepare=_nothing)
    refused = again.code == 2 and "holds a finished run" in again.output
    same = refused and outcome(folder / "run") == lab.reference and names(folder / "run") == files
    warned = same and json.loads((folder / "run" / "result.json").read_text())["warnings"]
    return summary if same and not warned else _wrong(summary, "after the last operation", again)


def _nothing() -> None:
    """Inject no fault."""


def _wrong(summary: FaultResult, when: str, done: ChildResult) -> FaultResult:
    summary.wrong += 1
    summary.notes.append(f"{when}: exit code {done.code}: {done.output[-2000:]}")
    return summary
