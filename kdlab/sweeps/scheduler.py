"""Runs the jobs of a sweep on a launcher until all have ended, or until a signal stops them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from kdlab.runs import folders
from kdlab.sweeps import job_logs
from kdlab.sweeps.display import Display
from kdlab.sweeps.expansion import SweepJob
from kdlab.sweeps.job_status import JobStatus, SweepStatus

PATIENCE = 120.0  # seconds that stopped jobs have for saving their checkpoints
PAUSE = 0.1
TWICE = 0.5  # seconds within which a second signal is the first one again
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class JobHandle(Protocol):
    """A job that was handed to a launcher. `state` is running or queued; `why` a launcher's own word on its failure."""

    state: str
    why: str

    def poll(self) -> int | None:
        """The job's exit code; None while it waits or runs."""

    def stop(self, number: int) -> None:
        """Ask it to end by a signal: it saves what it has."""

    def kill(self) -> None:
        """End it and all it has started, now."""


class Launcher(Protocol):
    """Where jobs run. `at_once`: how many at a time; None where a cluster decides."""

    at_once: int | None

    def prepare(self, jobs: Sequence[SweepJob], name: str) -> None:
        """Look whether the jobs can run here; `name` is the sweep's. UserError before anything is written."""

    def begin(self, waiting: Sequence[SweepJob]) -> list[tuple[SweepJob, JobHandle]]:
        """Take as many of the waiting jobs as there is room for. A job that another process works on is left."""
        ...

    def held(self) -> set[int]:
        """Numbers of the jobs that another process works on, as found by the last `begin`."""
        ...


class StopSignals:
    """The signal that ends the sweep, once it has come, and how often it came. Some tools send one twice at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.times = 0
        self._last = float("-inf")

    def __call__(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        self.signal = self.signal or number
        self.times += now - self._last > TWICE
        self._last = now


@contextmanager
def signals() -> Iterator[StopSignals]:
    """Signals are noted during the block instead of ending this process; one that is ignored (nohup) stays so."""
    stop = StopSignals()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _none_left(running: dict[int, JobHandle]) -> Iterator[None]:
    """Jobs are asked to save and end if the block fails, as when what reads the output is gone."""
    try:
        yield
    except BaseException:
        for handle in running.values():
            handle.stop(signal.SIGTERM)
        raise


def dispatch(
    jobs: Sequence[SweepJob],
    launcher: Launcher,
    status: SweepStatus,
    board: Display,
    more: Callable[[JobStatus], Sequence[SweepJob]] = lambda ended: (),
) -> int | None:
    """Run `jobs`, and what `more` adds whenever one has ended. The signal that stopped it all, or None.

    Finished jobs are skipped. What becomes of each job stands in `status`.
    """
    waiting: list[SweepJob] = []
    running: dict[int, JobHandle] = {}

    def add(new: Sequence[SweepJob]) -> None:
        status.add(new)
        for job in new:
            if folders.status(job.folder) == "finished":
                end(status.finish(job.number, before=True))
            else:
                waiting.append(job)

    def end(one: JobStatus) -> None:
        board.changed(one)
        add(more(one))

    with signals() as stop, _none_left(running):
        add(jobs)
        deadline = float("inf")
        while running or (waiting and not stop.signal):
            for number, handle in list(running.items()):
                code = handle.poll()
                one = status.jobs[number]
                if code is None:
                    if one.state != handle.state:
                        one.began = time.monotonic()
                        _show(board, one, handle.state)
                    continue
                del running[number]
                if code == 0:
                    status.finish(number)
                else:
                    one.ended, one.state = time.monotonic(), "stopped" if stop.signal else "failed"
                    one.error = handle.why or job_logs.first_error(one.job.log, one.since, code)
                end(one)
            if not stop.signal:
                sizes = {job.number: job.log.stat().st_size if job.log.exists() else 0 for job in waiting}
                for job, handle in launcher.begin(waiting):
                    waiting.remove(job)
                    running[job.number] = handle
                    one = status.jobs[job.number]
                    one.began, one.since = time.monotonic(), sizes[job.number]
                    _show(board, one, handle.state)
                for job in waiting:
                    elsewhere = job.number in launcher.held()
                    if elsewhere != (status.jobs[job.number].state == "elsewhere"):
                        _show(board, status.jobs[job.number], "elsewhere" if elsewhere else "left")
            board.tick()
            if stop.signal and running:
                if stop.times and deadline == float("inf"):
                    deadline = time.monotonic() + PATIENCE
                    stop.times = 0
                    board.say(f"{signal.Signals(stop.signal).name}: stopping {len(running)} jobs, which save where they are; "
                              "once more ends them at once")  # fmt: skip
                    for handle in running.values():
                        handle.stop(stop.signal)
                elif stop.times or time.monotonic() > deadline:
                    for handle in running.values():
                        handle.kill()
            if running or waiting:
                time.sleep(PAUSE)
        return stop.signal


def _show(board: Display, one: JobStatus, state: str) -> None:
    one.state = state
    board.changed(one)
