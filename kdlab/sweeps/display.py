"""Show the progress of a sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any, Protocol, TextIO

from kdlab.runtime.progress import LINE_SECONDS, readable_time
from kdlab.sweeps import job_logs
from kdlab.sweeps.job_status import JobStatus, SweepStatus

PLAIN_SECONDS = LINE_SECONDS  # between two lines without a terminal, at most
LIVE_SECONDS = 0.5  # between two drawings of the table
ROWS = 12  # running jobs that the table shows
WORKING = 2  # running jobs whose last line is shown without a terminal


class Display(Protocol):
    """The output of a sweep."""

    def changed(self, one: JobStatus) -> None:
        """Show a job whose state has changed."""

    def tick(self) -> None:
        """Show the sweep again if enough time has passed."""

    def notify(self, line: str) -> None:
        """Print a line."""

    def close(self) -> None:
        """Finish the output."""


def display_of(status: SweepStatus, title: str, stream: TextIO) -> Display:
    """The live table where `stream` is a terminal, lines where it is not."""
    return LiveDisplay(status, title, stream) if stream.isatty() else PlainDisplay(status, stream)


def summary(status: SweepStatus) -> str:
    """The number of jobs by state and the time left, in one line."""
    counts = ", ".join(f"{count} {state}" for state, count in status.counts().items())
    left = status.seconds_left()
    return counts + (
        f"; about {readable_time(left)} left" if left and (status.count("left") or status.count("running")) else ""
    )


def activities(status: SweepStatus) -> list[str]:
    """Activities by the last lines of logs: of the preparation that jobs share; of the running jobs, first what some wait for, then
    up to `WORKING` others."""
    if (shared := status.preparation) is not None:
        return [f"preparing what the jobs share: {job_logs.last_line(shared.log, shared.since)}"]
    waits: dict[str, int] = {}
    working: list[str] = []
    for one in status.of("running"):
        line = job_logs.last_line(one.job.log, one.since)
        if (wait := job_logs.wait_of(line)) is not None:
            waits[wait] = waits.get(wait, 0) + 1
        elif line:
            working.append(f"{one.job.differs or one.job.folder}: {line}")
    waiting = [f"{count} of the running wait{'s' * (count == 1)} for {wait}" for wait, count in waits.items()]
    return [*waiting, *working[:WORKING]]


class PlainDisplay:
    """One line for each change, and one a minute (`PLAIN_SECONDS`) that says what the running jobs do or wait for."""

    def __init__(self, status: SweepStatus, stream: TextIO) -> None:
        self.status, self.stream = status, stream
        self._printed = time.monotonic()

    def notify(self, line: str) -> None:
        self._printed = time.monotonic()
        print(f"kdlab: {line}", file=self.stream, flush=True)

    def changed(self, one: JobStatus) -> None:
        name = f"{one.job.differs or one.job.folder}"
        took = readable_time(one.seconds)
        if one.state == "running":
            self.notify(f"{name}: started, log in {one.job.log}")
        elif one.state == "done":
            end = "is finished, skipped" if one.before else f"finished in {took}"
            self.notify(f"{name}: {end}{f', {one.objective}' if one.objective else ''}; {summary(self.status)}")
        elif one.state == "failed":
            self.notify(f"{name}: failed after {took}: {one.error}; {summary(self.status)}")
        elif one.state == "elsewhere":
            self.notify(f"{name}: another process is at work in {one.job.folder}, waiting for its end")
        else:
            self.notify(f"{name}: {one.state}")

    def tick(self) -> None:
        if time.monotonic() - self._printed >= PLAIN_SECONDS:
            best = [f"best so far {one.objective} ({one.job.differs})" for one in self.status.best()]
            self.notify("; ".join([summary(self.status), *activities(self.status), *best]))

    def close(self) -> None:
        """Do nothing: no output is open."""


class LiveDisplay:
    """A table that is redrawn in place with rich."""

    def __init__(self, status: SweepStatus, title: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as Drawn

        self.status, self.title = status, title
        self._began = self._drawn = time.monotonic()
        self.console = Console(file=stream, highlight=False)
        self._live = Drawn(self.table(), console=self.console, auto_refresh=False)
        self._live.start()

    def notify(self, line: str) -> None:
        self.console.print(f"kdlab: {line}", markup=False)

    def changed(self, one: JobStatus) -> None:
        if one.state == "failed":
            self.notify(f"{one.job.differs or one.job.folder}: failed: {one.error}")
        self._live.update(self.table(), refresh=True)

    def tick(self) -> None:
        if time.monotonic() - self._drawn >= LIVE_SECONDS:
            self._drawn = time.monotonic()
            self._live.update(self.table(), refresh=True)

    def close(self) -> None:
        self._live.update(self.table(), refresh=True)
        self._live.stop()

    def table(self) -> Any:
        """The table: counts and times, the running jobs with their last line, the best of each task."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        head = Table(title=Text(self.title), title_justify="left", box=None, pad_edge=False)
        times = {
            "so far": readable_time(time.monotonic() - self._began),
            "time left": readable_time(self.status.seconds_left()),
        }
        cells = {**{state: str(count) for state, count in self.status.counts().items()}, **times}
        for name in cells:
            head.add_column(name, justify="right")
        head.add_row(*cells.values())
        parts: list[Any] = [head]
        running = [*self.status.of("running"), *self.status.of("queued"), *self.status.of("elsewhere")]
        if running:
            rows = Table(box=None, pad_edge=False, show_header=False)
            rows.add_column(overflow="ellipsis", no_wrap=True, ratio=2)
            rows.add_column(justify="right", no_wrap=True)
            rows.add_column(overflow="ellipsis", no_wrap=True, ratio=3)
            for one in running[:ROWS]:
                last = job_logs.last_line(one.job.log, one.since) if one.state == "running" else one.state
                rows.add_row(
                    Text(one.job.differs or one.job.folder.name), readable_time(one.seconds), Text(last, style="dim")
                )
            if len(running) > ROWS:
                rows.add_row(f"and {len(running) - ROWS} more", "", "")
            parts.append(rows)
        if (shared := self.status.preparation) is not None:
            took = readable_time(time.monotonic() - shared.began)
            parts.append(Text(f"preparing what the jobs share, {took}: {job_logs.last_line(shared.log, shared.since)}"))
        several = len({one.objective.task for one in self.status.best() if one.objective}) > 1
        for one in self.status.best()[:ROWS]:
            assert one.objective is not None
            where = f" of {one.objective.task}" if several else ""
            parts.append(Text(f"best so far{where}: {one.objective}  {one.job.differs}"))
        return Group(*parts)
