"""Where faults are caused (`FaultLab`), and the account that is given of one (`FaultResult`)."""

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
from kdlab.testing.fault_points import without_figures

T = TypeVar("T")
RUN = ("hydra.run.dir=run",)


@dataclass
class FaultResult:
    """What came of a fault: how often it was caused, how often something was wrong, and what.

    `kinds` counts, where there are several, in what kind of moment and under which conditions. `seconds`: of its runs,
    of which several may have been at once.
    """

    tried: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, other: FaultResult) -> None:
        self.tried, self.wrong = self.tried + other.tried, self.wrong + other.wrong
        self.notes += other.notes
        self.kinds += other.kinds
        self.seconds += other.seconds


def timed(cause: Callable[..., FaultResult], *given: Any) -> FaultResult:
    """What came of `cause`, with its seconds; one that breaks off is not as promised, and the others go on."""
    started = time.monotonic()
    try:
        found = cause(*given)
    except Exception:
        found = FaultResult(tried=1, wrong=1, notes=[traceback.format_exc()])
    found.seconds = time.monotonic() - started
    return found


@dataclass
class FaultLab:
    """Where faults are caused: a command of ten steps, an undisturbed run of it, and its artifacts. `few`: one of each."""

    folder: Path
    command: tuple[str, ...]
    whole: dict[str, Any]
    artifacts: Path
    ranks: int = 1
    few: bool = False
    count: int = 0

    def some(self, values: Iterable[T]) -> list[T]:
        """All of them, or the last."""
        return list(values)[-1:] if self.few else list(values)

    def fresh(self, prepared: bool = True) -> Path:
        """A new folder, with the artifacts of the undisturbed run unless they are to be made."""
        self.count += 1
        folder = self.folder / f"lab-{self.count}"
        folder.mkdir(parents=True)
        if prepared:
            shutil.copytree(self.artifacts, folder / "artifacts")
        return folder

    def run(self, folder: Path, *more: str, prepare: Callable[[], None] = without_figures) -> ChildResult:
        """The run, with a trap in its last rank."""
        return call([*self.command, *RUN, *more], folder, prepare, timeout=300, ranks=self.ranks, grace=20)

    def goes_on(self, folder: Path, note: str) -> str | None:
        """What is wrong after the command was given again; None if it ended as undisturbed."""
        done = self.run(folder)
        if done.code != 0:
            return f"{note}: the next run ends with {done.code}: {done.output[-1500:]}"
        ended = outcome(folder / "run")
        different = [part for part, value in self.whole.items() if ended[part] != value]
        return f"{note}: {', '.join(different)} differ" if different else None


def one_line(done: ChildResult, *words: str) -> bool:
    """Whether a run ended with one line of ours that holds `words`, code 2 and no traceback."""
    lines = [line for line in done.output.splitlines() if line.startswith("kdlab: ")]
    told = len(lines) == 1 and all(word in lines[0] for word in words)
    return done.code == 2 and told and "Traceback" not in done.output


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "result.json").read_text())


def judge(found: FaultResult, lab: FaultLab, folder: Path, fine: bool, note: str, done: ChildResult | None) -> None:
    found.tried += 1
    problem = None if fine else f"{note}: {done.code if done else ''}: {done.output[-1500:] if done else ''}"
    problem = problem or lab.goes_on(folder, note)
    if problem:
        found.wrong += 1
        found.notes.append(problem)
