"""Runs killed by SIGKILL in every kind of moment and gone on with by the same command: nothing may differ in the end.

An undisturbed run is recorded first: its moments (`kdlab.traps.Moment`) are the points to kill at. Points are gone
through in chains: run, killed, run again, killed later, and so on until a run ends, whose results are then compared bit
for bit. If they differ, all points of the chain count as differing.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdlab.children import call, outcome
from kdlab.traps import At, Moment, Record, Send

CHAIN = 6  # kills before a run may end
RUN = ("hydra.run.dir=run",)


@dataclass(frozen=True)
class Case:
    """A command that is killed; `prepared` False: teachers and other artifacts are made anew, and kills fall there too."""

    name: str
    command: tuple[str, ...]
    ranks: int = 1
    prepared: bool = True
    points: int = 40


@dataclass
class Found:
    """What came of a fault: how often it was caused, how often something was wrong, and what."""

    tried: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.tried, self.wrong = self.tried + other.tried, self.wrong + other.wrong
        self.notes += other.notes


@dataclass
class Whole:
    """An undisturbed run: its moments in order, its outcome, its folder with artifacts."""

    folder: Path
    moments: list[Moment]
    outcome: dict[str, Any]


def undisturbed(case: Case, folder: Path) -> Whole:
    """Do the run once, recording it. RuntimeError if it fails."""
    log = folder / "moments.jsonl"
    done = call([*case.command, *RUN], folder, Record(log), timeout=600, ranks=case.ranks, trapped=0)
    if done.code != 0:
        raise RuntimeError(f"{case.name} fails undisturbed:\n{done.output}")
    moments = [Moment(*json.loads(line)) for line in log.read_text().splitlines()]
    return Whole(folder, list(dict.fromkeys(moments)), outcome(folder / "run"))


def points(case: Case, moments: Sequence[Moment]) -> list[Moment]:
    """The moments to kill at, in order: all steps, evenly spaced ones of the calls of a checkpoint or an artifact."""
    in_training = [m for m in moments if m.stage == "training"]
    if case.prepared:
        steps = [m for m in in_training if not m.when.startswith("save")]
        saves = [m for m in in_training if m.when.startswith("save")]
        # most calls write a tensor; those at the end flush, rename and remove
        ends = [m for i, m in enumerate(saves) if i + 1 == len(saves) or saves[i + 1].step != m.step]
        late = [m for m in saves if any(m.step == e.step and _number(e) - _number(m) < 20 for e in ends)]
        chosen = [*steps, *_spread(late, max(4, case.points // 4)), *_spread(saves, 4)]
        chosen = chosen if len(chosen) <= case.points else _spread(chosen, case.points)
    else:
        before = [m for m in moments if m.stage != "training"]
        steps = [m for m in before if not m.when.startswith("artifact")]
        artifacts = [m for m in before if m.when.startswith("artifact")]
        chosen = [*_spread(steps, case.points * 3 // 4), *_spread(artifacts, case.points // 4)]
    return sorted(set(chosen), key=list(moments).index)


def killed(case: Case, whole: Whole, chain: Sequence[Moment], folder: Path) -> Found:
    """Kill at the chain's moments one after the other, end the run, compare."""
    folder.mkdir(parents=True)
    if case.prepared:
        shutil.copytree(whole.folder / "artifacts", folder / "artifacts")
    found = Found()
    for number, moment in enumerate(chain):
        rank = 0 if moment.when.startswith("save") else number % case.ranks  # the first rank alone saves
        trap = At(moment.step, Send(signal.SIGKILL), moment.when, moment.stage)
        done = call([*case.command, *RUN], folder, trap, timeout=600, ranks=case.ranks, trapped=rank)
        found.tried += done.code == -9
        if done.code not in (0, -9):
            found.wrong = max(1, found.tried)
            found.notes.append(f"{case.name}, before {moment}: exit code {done.code}: {done.output[-2000:]}")
            return found
        if done.code == 0:  # what the kill before had reached is not done again
            break
    else:
        done = call([*case.command, *RUN], folder, timeout=600, ranks=case.ranks)
    ended = outcome(folder / "run") if done.code == 0 else {}
    different = [part for part, value in whole.outcome.items() if ended.get(part) != value]
    if different:
        found.wrong = max(1, found.tried)
        found.notes.append(f"{case.name}, {list(chain)}: {', '.join(different)} differ: {done.output[-2000:]}")
    shutil.rmtree(folder)
    return found


def campaign(cases: Sequence[Case], folder: Path, jobs: int, tell: Callable[[str, Found], None]) -> None:
    """All cases, `jobs` chains at a time; `tell` is called with a case's name and what was found when it is done."""
    for number, case in enumerate(cases):
        top = folder / str(number)
        whole = undisturbed(case, top / "whole")
        chosen = points(case, whole.moments)
        count = max(1, -(-len(chosen) // CHAIN))
        found = Found()
        with ThreadPoolExecutor(jobs) as pool:
            chains = [chosen[start::count] for start in range(count)]
            folders = [top / f"chain-{start}" for start in range(count)]
            for one in pool.map(lambda pair: killed(case, whole, *pair), zip(chains, folders, strict=True)):  # noqa: B023
                found.add(one)
        tell(case.name, found)
        shutil.rmtree(top)


def _number(moment: Moment) -> int:
    return int(moment.when.split()[1])


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """`count` of the values, evenly spaced, the first and the last among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)] if count > 1 else [values[0]]
