"""How far a sweep is: what has become of each job, how long the rest will take, which is best so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdlab.sweeps import job_logs
from kdlab.sweeps.expansion import SweepJob
from kdlab.sweeps.job_logs import ObjectiveValue

STATES = ("done", "running", "queued", "elsewhere", "failed", "stopped", "left")


@dataclass
class JobStatus:
    """One job: its state, when it began and ended (seconds of a monotonic clock), its error line or objective."""

    job: SweepJob
    state: str = "left"
    began: float = 0.0
    ended: float = 0.0
    since: int = 0  # where in its log this attempt begins
    before: bool = False  # finished before this command
    error: str = ""
    objective: ObjectiveValue | None = None

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0


@dataclass
class SweepStatus:
    """All jobs of a sweep by number; `at_once` as many as run at one time (None: nobody knows)."""

    at_once: int | None = 1
    jobs: dict[int, JobStatus] = field(default_factory=dict)
    expected: int | None = None  # of a search, whose jobs come one by one

    def add(self, jobs: Sequence[SweepJob]) -> None:
        self.jobs.update({job.number: JobStatus(job) for job in jobs})

    def count(self, state: str) -> int:
        found = sum(one.state == state for one in self.jobs.values())
        if state == "left" and self.expected is not None:
            found += max(0, self.expected - len(self.jobs))
        return found

    def of(self, state: str) -> list[JobStatus]:
        return [one for one in self.jobs.values() if one.state == state]

    def counts(self) -> dict[str, int]:
        """Jobs by state; the rarer states only where there are some."""
        every = {state: self.count(state) for state in STATES}
        return {s: n for s, n in every.items() if n or s in ("done", "running", "failed", "left")}

    def seconds_left(self) -> float | None:
        """An estimate from the jobs that this command has finished; None before the first."""
        took = [one.seconds for one in self.of("done") if one.began]
        if not took:
            return None
        mean = sum(took) / len(took)
        begun = [max(0.0, mean - one.seconds) for one in self.of("running")]
        waiting = self.count("left") + self.count("queued")
        at_once = max(1, min(self.at_once or len(begun) or 1, len(begun) + waiting))
        return max([(mean * waiting + sum(begun)) / at_once, *begun])

    def best(self) -> list[JobStatus]:
        """The best finished job of each task, by the score of its dev set or the loss on held-out text."""
        found: dict[str, JobStatus] = {}
        for one in self.of("done"):
            if one.objective is not None:
                known = found.get(one.objective.task)
                if known is None or known.objective is None or one.objective.better_than(known.objective):
                    found[one.objective.task] = one
        return list(found.values())

    def finish(self, number: int, before: bool = False) -> JobStatus:
        """The job is finished: its objective is read from its folder."""
        one = self.jobs[number]
        one.state, one.before, one.ended = "done", before, time.monotonic()
        one.objective = job_logs.objective(one.job.folder)
        return one
