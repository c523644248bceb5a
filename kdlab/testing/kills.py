"""Kill runs with SIGKILL at every kind of moment and resume them by the same command: no result may differ.

An undisturbed run is recorded first: its moments (`kdlab.testing.fault_points.Moment`) are the points to kill at. Points are gone
through in chains: run, killed, run again, killed later, and so on until a run ends, whose results are then compared bit
for bit. If they differ, all points of the chain count as differing.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.testing.child_process import call, outcome
from kdlab.testing.fault_lab import RUN, FaultResult, timed
from kdlab.testing.fault_points import FaultAt, Moment, RecordMoments, SendSignal

CHAIN = 6  # kills before a run may end
KINDS = {
    "start": "at the start of a step", "gradient": "before its update", "end": "at its end",
    "observation": "in an observation", "evaluation": "in an evaluation", "phase": "in a phase of KSM",
    "save": "while a checkpoint is written", "artifact": "while an artifact is written",
    "answers": "while a teacher's answers are written",
}  # fmt: skip
LAST, PREPARING, ALONE = "in the last step of an epoch", "while teachers and modules are made", "one process"


@dataclass(frozen=True)
class KillCase:
    """A command that is killed at `points` moments.

    `prepared` False: teachers and other artifacts are made anew, and kills fall there instead. `only`: kills fall in
    moments of this kind alone (a key of `KINDS`).
    """

    name: str
    command: tuple[str, ...]
    ranks: int = 1
    prepared: bool = True
    points: int = 40
    only: str | None = None
    workers: int = 0
    epochs: int = 2


@dataclass
class ReferenceRun:
    """An undisturbed run: its moments in order, its outcome, its folder with artifacts."""

    folder: Path
    moments: list[Moment]
    outcome: dict[str, Any]


def reference_run(case: KillCase, folder: Path) -> ReferenceRun:
    """Do the run, recording it. RuntimeError if it fails.

    A run whose modules were made by asking teachers is done again without those answers: killed runs begin so too.
    """
    log, answers = folder / "moments.jsonl", folder / "artifacts" / "answers"
    for again in (False, True):
        done = call([*case.command, *RUN], folder, RecordMoments(log), timeout=600, ranks=case.ranks, trapped=0)
        if done.code != 0:
            raise RuntimeError(f"{case.name} fails undisturbed:\n{done.output}")
        if again or not case.prepared or not answers.exists():
            break
        for left in (answers, folder / "run"):
            shutil.rmtree(left)
        log.unlink()
    moments = [Moment(*json.loads(line)) for line in log.read_text().splitlines()]
    return ReferenceRun(folder, list(dict.fromkeys(moments)), outcome(folder / "run"))


def points(case: KillCase, moments: Sequence[Moment]) -> list[Moment]:
    """The moments to kill at, in order: the three of each step first, the rest shared out over all kinds."""
    moments_by_kind: dict[str, list[Moment]] = {}
    for moment in moments:
        if (moment.stage == "training") == case.prepared and case.only in (None, _kind(moment)):
            moments_by_kind.setdefault(_kind(moment), []).append(moment)
    chosen: list[Moment] = []
    steps = [moment for kind in ("start", "gradient", "end") for moment in moments_by_kind.get(kind, [])]
    if len(steps) < case.points:
        chosen = steps
        moments_by_kind = {
            kind: some for kind, some in moments_by_kind.items() if kind not in ("start", "gradient", "end")
        }
    for number, kind in enumerate(sorted(moments_by_kind, key=lambda kind: len(moments_by_kind[kind]))):
        share = -(-(case.points - len(chosen)) // (len(moments_by_kind) - number))
        chosen += _ends(moments_by_kind[kind], share) if kind == "save" else _spread(moments_by_kind[kind], share)
    return sorted(set(chosen), key=list(moments).index)


def _ends(saves: Sequence[Moment], count: int) -> list[Moment]:
    """`count` of the calls of checkpoints: most write a tensor; those at the end flush, rename and remove."""
    last = [m for i, m in enumerate(saves) if i + 1 == len(saves) or saves[i + 1].step != m.step]
    late = [m for m in saves if any(m.step == e.step and _number(e) - _number(m) < 20 for e in last)]
    return [*_spread(late, count - count // 4), *_spread(saves, count // 4)]


def chains(case: KillCase, moments: Sequence[Moment]) -> list[list[Moment]]:
    """The points of a case in chains, each in the order of time."""
    chosen = points(case, moments)
    # an answer that another rank has stored by then is not written again, and the run that was to be killed ends
    count = len(chosen) if case.only and case.ranks > 1 else -(-len(chosen) // CHAIN)
    return [chosen[start::count] for start in range(count)]


def kill_chain(case: KillCase, whole: ReferenceRun, chain: Sequence[Moment], folder: Path) -> FaultResult:
    """Kill at the chain's moments one after the other, end the run, compare."""
    folder.mkdir(parents=True)
    if case.prepared:  # but for remembered answers, which are written in the training
        shutil.copytree(whole.folder / "artifacts", folder / "artifacts", ignore=shutil.ignore_patterns("answers"))
    summary = FaultResult()
    for moment in chain:
        rank = 0 if _kind(moment) == "save" else moment.step % case.ranks  # the first rank alone saves
        trap = FaultAt(moment.step, SendSignal(signal.SIGKILL), moment.when, moment.stage)
        done = call([*case.command, *RUN], folder, trap, timeout=600, ranks=case.ranks, trapped=rank)
        if done.code == -9:
            summary.injected += 1
            summary.kinds.update(kinds(case, whole.moments, moment))
        if done.code not in (0, -9):
            summary.wrong = max(1, summary.injected)
            summary.notes.append(f"{case.name}, before {moment}: exit code {done.code}: {done.output[-2000:]}")
            return summary
        if done.code == 0:  # what the kill before had reached is not done again
            break
    else:
        done = call([*case.command, *RUN], folder, timeout=600, ranks=case.ranks)
    ended = outcome(folder / "run") if done.code == 0 else {}
    different = [part for part, value in whole.outcome.items() if ended.get(part) != value]
    if different:
        summary.wrong = max(1, summary.injected)
        summary.notes.append(f"{case.name}, {list(chain)}: {', '.join(different)} differ: {done.output[-2000:]}")
    shutil.rmtree(folder)
    return summary


def kinds(case: KillCase, moments: Sequence[Moment], moment: Moment) -> list[str]:
    """Categories of a kill: its kind of moment, and its conditions (ranks, loader workers)."""
    steps = max((m.step + 1 for m in moments if (m.stage, m.when) == ("training", "start")), default=0)
    names = [KINDS[_kind(moment)]]
    done = moment.step - (moment.when == "end")  # the step has been counted by then
    if moment.stage == "training" and steps and (done + 1) * case.epochs % steps == 0:
        names.append(LAST)
    names += [PREPARING] if moment.stage != "training" else []
    names.append(f"{case.ranks} ranks" if case.ranks > 1 else ALONE)
    names.append(f"{case.workers} loader workers")
    return names


def start_kills(
    cases: Sequence[KillCase], folder: Path, pool: Executor
) -> Iterator[tuple[str, list[Future[FaultResult]]]]:
    """The name of each case and its chains, which are under way in `pool` by then."""
    wholes = [pool.submit(reference_run, case, folder / str(number) / "whole") for number, case in enumerate(cases)]
    for number, (case, future) in enumerate(zip(cases, wholes, strict=True)):
        whole = future.result()
        yield (
            case.name,
            [
                pool.submit(timed, kill_chain, case, whole, chain, folder / str(number) / f"chain-{start}")
                for start, chain in enumerate(chains(case, whole.moments))
            ],
        )


def _kind(moment: Moment) -> str:
    return moment.when.split()[0]


def _number(moment: Moment) -> int:
    return int(moment.when.split()[1])


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """`count` of the values, evenly spaced, the first and the last among them."""
    if len(values) <= count:
        return list(values)
    return (
        [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
        if count > 1
        else list(values[:count])
    )
