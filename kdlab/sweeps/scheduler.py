"""Run the jobs of a sweep on a launcher until all have ended or a signal stops them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from kdlab.runs import folders
from kdlab.sweeps import job_logs
from kdlab.sweeps.display import Display
from kdlab.sweeps.expansion import SweepJob
from kdlab.sweeps.job_status import JobStatus, SweepStatus
from kdlab.sweeps.preparation import SharedPreparation
from kdlab.sweeps.stopping import POLL, SAVE_TIMEOUT, StopSignals, stop_signals


class JobHandle(Protocol):
    """A job that a launcher has taken. `state`: "running" or "queued"; `why`: the launcher's error, "" for none."""

    state: str
    why: str

    def poll(self) -> int | None:
        """The job's exit code; None while it waits or runs."""

    def stop(self, number: int) -> None:
        """Send the signal `number`, at which the job saves a checkpoint and ends."""

    def kill(self) -> None:
        """End the job and all processes it has started, now."""


class Launcher(Protocol):
    """A place where jobs run. `at_once`: how many at a time; None where a cluster decides."""

    at_once: int | None

    def prepare(self, jobs: Sequence[SweepJob], name: str) -> None:
        """Check that the jobs of the sweep `name` can run here. UserError before anything is written."""

    def begin(self, waiting: Sequence[SweepJob]) -> list[tuple[SweepJob, JobHandle]]:
        """Start as many of the waiting jobs as can run now, but none that another process works on."""
        ...

    def elsewhere(self) -> set[int]:
        """Numbers of the jobs that the last `begin` left because another process works on them."""
        ...

    def close(self) -> None:
        """Release what `prepare` and `begin` have taken, but for running jobs."""


class Scheduler:
    """Starts and polls jobs. Records their states in `status` and shows each change on `display`.

    `more` is called with every job that has ended, and returns jobs to add (a search proposes them one by one).
    `preparation`: of what jobs share, before the first of them begins.
    """

    def __init__(
        self,
        launcher: Launcher,
        status: SweepStatus,
        display: Display,
        more: Callable[[JobStatus], Sequence[SweepJob]] = lambda ended: (),
        preparation: SharedPreparation | None = None,
    ) -> None:
        self.launcher, self.status, self.display, self.more = launcher, status, display, more
        self.preparation = preparation
        self.waiting: list[SweepJob] = []
        self.running: dict[int, JobHandle] = {}  # by job number
        self._deadline = float("inf")  # for stopped jobs

    def run(self, jobs: Sequence[SweepJob]) -> int | None:
        """Run `jobs` and those that `more` adds, but for finished ones. The signal that stopped the sweep, or None."""
        with stop_signals() as stop, self._stop_on_error():
            self._add(jobs)
            shared = self.preparation if self.waiting else None
            if shared is not None and not shared.run(stop, self.status, self.display):
                return stop.signal
            while self.running or (self.waiting and not stop.signal):
                self._poll(stop)
                if not stop.signal:
                    self._start()
                self.display.tick()
                if stop.signal and self.running:
                    self._stop(stop.signal, stop)
                if self.running or self.waiting:
                    time.sleep(POLL)
            return stop.signal

    def _add(self, jobs: Sequence[SweepJob]) -> None:
        self.status.add(jobs)
        for job in jobs:
            if folders.status(job.folder) == "finished":
                self._ended(self.status.finish(job.number, before=True))
            else:
                self.waiting.append(job)

    def _ended(self, job: JobStatus) -> None:
        self.display.changed(job)
        self._add(self.more(job))

    def _poll(self, stop: StopSignals) -> None:
        """Record the jobs that have ended, and those that have left a cluster's queue."""
        for number, handle in list(self.running.items()):
            code, job = handle.poll(), self.status.jobs[number]
            if code is None:
                if job.state != handle.state:
                    job.began = time.monotonic()
                    self._change(job, handle.state)
                continue
            del self.running[number]
            if code == 0 or folders.status(job.job.folder) == "finished":  # what fails after the end changes no result
                self.status.finish(number)
            else:
                job.ended, job.state = time.monotonic(), "stopped" if stop.signal else "failed"
                job.error = handle.why or job_logs.first_error(job.job.log, job.since, code)
            self._ended(job)

    def _start(self) -> None:
        """Start the waiting jobs that the launcher can take; record those that another process works on."""
        sizes = {job.number: job.log.stat().st_size if job.log.exists() else 0 for job in self.waiting}
        for job, handle in self.launcher.begin(self.waiting):
            self.waiting.remove(job)
            self.running[job.number] = handle
            started = self.status.jobs[job.number]
            started.began, started.since = time.monotonic(), sizes[job.number]
            self._change(started, handle.state)
        for job in self.waiting:
            elsewhere, left = job.number in self.launcher.elsewhere(), self.status.jobs[job.number]
            if elsewhere != (left.state == "elsewhere"):
                self._change(left, "elsewhere" if elsewhere else "left")

    def _stop(self, number: int, stop: StopSignals) -> None:
        """Pass on the signal `number` once; kill the jobs at the next signal or after `SAVE_TIMEOUT`."""
        if stop.times and self._deadline == float("inf"):
            self._deadline = time.monotonic() + SAVE_TIMEOUT
            stop.times = 0
            self.display.notify(
                f"{signal.Signals(number).name}: stopping {len(self.running)} jobs, which save a checkpoint; "
                "a second signal ends them at once"
            )
            for handle in self.running.values():
                handle.stop(number)
        elif stop.times or time.monotonic() > self._deadline:
            for handle in self.running.values():
                handle.kill()

    def _change(self, job: JobStatus, state: str) -> None:
        job.state = state
        self.display.changed(job)

    @contextmanager
    def _stop_on_error(self) -> Iterator[None]:
        """Let the jobs save and end if the block fails, for example because the reader of the output has closed it."""
        try:
            yield
        except BaseException:
            for handle in self.running.values():
                handle.stop(signal.SIGTERM)
            raise
