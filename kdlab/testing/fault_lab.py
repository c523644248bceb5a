"""A folder to inject faults in (`FaultLab`), and the result of a fault (`FaultResult`)."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kdlab.testing.child_process import ChildResult, call, outcome

T = TypeVar("T")
RUN = ("hydra.run.dir=run",)


@dataclass
class FaultResult:
    """Result of a fault: times `injected`, times the outcome was `wrong`, and `notes` on it.

    `kinds`: injections by kind of moment and condition. `seconds`: sum over its runs, several of which may overlap.
    """

    injected: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, other: FaultResult) -> None:
        """Add the counts and notes of `other`."""
        self.injected, self.wrong = self.injected + other.injected, self.wrong + other.wrong
        self.notes += other.notes
        self.kinds += other.kinds
        self.seconds += other.seconds


def timed(cause: Callable[..., FaultResult], *given: Any) -> FaultResult:
    """Result of `cause(*given)` with its seconds; an exception counts as one wrong outcome."""
    started = time.monotonic()
    try:
        summary = cause(*given)
    except Exception:
        summary = FaultResult(injected=1, wrong=1, notes=[traceback.format_exc()])
    summary.seconds = time.monotonic() - started
    return summary


@dataclass
class FaultLab:
    """A command of ten steps, the outcome of an undisturbed run of it (`reference`), and its artifacts.

    `few`: inject one fault of each kind. `ranks`: processes per run.
    """

    folder: Path
    command: tuple[str, ...]
    reference: dict[str, Any]
    artifacts: Path
    ranks: int = 1
    few: bool = False
    count: int = 0

    def cases(self, values: Iterable[T]) -> list[T]:
        """All `values`; with `few` the last one."""
        return list(values)[-1:] if self.few else list(values)

    def new_folder(self, prepared: bool = True) -> Path:
        """A new folder, with the artifacts of the undisturbed run unless they are to be made."""
        self.count += 1
        folder = self.folder / f"lab-{self.count}"
        folder.mkdir(parents=True)
        if prepared:
            shutil.copytree(self.artifacts, folder / "artifacts")
        return folder

    def run(self, folder: Path, *more: str, prepare: Callable[[], None] | None = None) -> ChildResult:
        """Run the command in `folder`; `prepare` injects a fault into its last rank."""
        return call([*self.command, *RUN, *more], folder, prepare, timeout=300, ranks=self.ranks, grace=20)

    def check_rerun(self, folder: Path, note: str) -> str | None:
        """Repeat the command; the difference from the undisturbed run, or None if there is none."""
        done = self.run(folder)
        if done.code != 0:
            return f"{note}: the next run ends with {done.code}: {done.output[-1500:]}"
        ended = outcome(folder / "run")
        different = [part for part, value in self.reference.items() if ended[part] != value]
        return f"{note}: {', '.join(different)} differ" if different else None


def messages(done: ChildResult) -> list[str]:
    """The lines of kdlab's in a run's output, without its caveats."""
    lines = done.output.splitlines()
    return [line for line in lines if line.startswith("kdlab: ") and not line.startswith("kdlab: caveat: ")]


def one_line(done: ChildResult, *words: str) -> bool:
    """True if a run ended with code 2 and one line of kdlab's that contains `words`, without a traceback."""
    lines = messages(done)
    told = len(lines) == 1 and all(word in lines[0] for word in words)
    return done.code == 2 and told and "Traceback" not in done.output


def result(folder: Path) -> dict[str, Any]:
    """The result.json of the run in `folder`."""
    return json.loads((folder / "run" / "result.json").read_text())


def record_outcome(
    summary: FaultResult, lab: FaultLab, folder: Path, fine: bool, note: str, done: ChildResult | None
) -> None:
    """Add one injection to `summary`; it is wrong unless `fine` and a rerun in `folder` gives the reference outcome."""
    summary.injected += 1
    problem = None if fine else f"{note}: {done.code if done else ''}: {done.output[-1500:] if done else ''}"
    problem = problem or lab.check_rerun(folder, note)
    if problem:
        summary.wrong += 1
        summary.notes.append(problem)
