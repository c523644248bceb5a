"""The status of a sweep: the state of each job, an estimate of the time left, the best job so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdlab.data.names import name_in
from kdlab.plotting.metrics import metric_scale, scored_by
from kdlab.runs.finished import read_result
from kdlab.sweeps.expansion import SweepJob

# elsewhere: another process runs it; stopped: by a signal to the sweep; left: not started yet
STATES = ("done", "running", "queued", "elsewhere", "failed", "stopped", "left")


@dataclass(frozen=True)
class ObjectiveValue:
    """The score that the jobs of a sweep are compared by: the mean of a task's metrics on the dev set, or the loss on
    held-out text."""

    name: str
    value: float
    higher: bool  # higher is better
    task: str  # only jobs of one data set are compared: of this name
    rows: str = ""  # and this fingerprint

    def better_than(self, other: ObjectiveValue) -> bool:
        """True if this value is strictly better."""
        return self.value > other.value if self.higher else self.value < other.value

    def __str__(self) -> str:
        if not self.higher:
            return f"{self.name} {self.value:.4f}"
        title, percent, _ = self.name.partition(" (%)")
        return f"{title} {100 * self.value:.1f}{' %' if percent else ''}"


def objective(folder: Path) -> ObjectiveValue | None:
    """The objective in the result.json of a finished run; None without one (a suite writes another file)."""
    result, _ = read_result(folder)
    if result is None:
        return None
    student, data = result["metrics"]["student"], result["data"]
    of = str(data.get("task") or name_in(data)), str(data.get("fingerprint", ""))
    if student.get("score") is not None:
        return ObjectiveValue(metric_scale("score", scored_by(result)).unit, float(student["score"]), True, *of)
    return None if student.get("loss") is None else ObjectiveValue("held-out loss", float(student["loss"]), False, *of)


@dataclass
class JobStatus:
    """The status of one job. Times are seconds of the monotonic clock, 0 before they are known."""

    job: SweepJob
    state: str = "left"  # one of STATES
    began: float = 0.0
    ended: float = 0.0
    since: int = 0  # byte of its log at which this attempt begins
    before: bool = False  # finished before this command
    error: str = ""  # one line, of a failed job
    objective: ObjectiveValue | None = None  # of a finished job

    @property
    def seconds(self) -> float:
        """Duration of this attempt so far; 0 before it begins."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0


@dataclass(frozen=True)
class RunningPreparation:
    """The preparation that jobs share, while it runs: its log from byte `since` on, and the second at which it `began`."""

    log: Path
    since: int
    began: float


@dataclass
class SweepStatus:
    """The status of all jobs of a sweep. `preparation`: of what they share, while it runs; `unprepared`: its error, with which no job
    begins."""

    at_once: int | None = 1  # jobs that run at one time; None: unknown
    jobs: dict[int, JobStatus] = field(default_factory=dict)  # by job number
    preparation: RunningPreparation | None = None
    unprepared: str = ""
    expected: int | None = None  # number of jobs in the end, for a search that adds them one by one

    def add(self, jobs: Sequence[SweepJob]) -> None:
        """Add jobs that have not started."""
        self.jobs.update({job.number: JobStatus(job) for job in jobs})

    def count(self, state: str) -> int:
        """The number of jobs in a state; "left" includes those that a search will add."""
        count = sum(one.state == state for one in self.jobs.values())
        if state == "left" and self.expected is not None:
            count += max(0, self.expected - len(self.jobs))
        return count

    def of(self, state: str) -> list[JobStatus]:
        """The jobs in a state."""
        return [one for one in self.jobs.values() if one.state == state]

    def counts(self) -> dict[str, int]:
        """The number of jobs by state, without the rarer states that have none."""
        every = {state: self.count(state) for state in STATES}
        return {s: n for s, n in every.items() if n or s in ("done", "running", "failed", "left")}

    def seconds_left(self) -> float | None:
        """An estimate from the mean duration of the jobs that this command has finished; None before the first."""
        durations = [one.seconds for one in self.of("done") if one.began]
        if not durations:
            return None
        mean = sum(durations) / len(durations)
        running = [max(0.0, mean - one.seconds) for one in self.of("running")]
        waiting = self.count("left") + self.count("queued")
        at_once = max(1, min(self.at_once or len(running) or 1, len(running) + waiting))
        return max([(mean * waiting + sum(running)) / at_once, *running])

    def best(self) -> list[JobStatus]:
        """The finished job of each data set with the best objective."""
        best: dict[tuple[str, str], JobStatus] = {}
        for one in self.of("done"):
            if one.objective is not None:
                of = one.objective.task, one.objective.rows
                known = best.get(of)
                if known is None or known.objective is None or one.objective.better_than(known.objective):
                    best[of] = one
        return list(best.values())

    def finish(self, number: int, before: bool = False) -> JobStatus:
        """Mark a job as done and read its objective from its folder; `before`: it was done before this command."""
        one = self.jobs[number]
        one.state, one.before, one.ended = "done", before, time.monotonic()
        one.objective = objective(one.job.folder)
        return one
