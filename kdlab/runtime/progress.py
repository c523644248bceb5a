"""Progress of a long step: a bar with the time left on a terminal, a plain line every minute elsewhere.

    with ProgressBar("tokenising the text", total, "characters") as bar:
        bar.to(done)
    for batch in track(batches, "evaluating", "batches"):

Everything goes to standard error, from the first rank alone. `redirect_tqdm` makes a library's tqdm bars do the same.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import Any, TypeVar

from tqdm import tqdm

from kdlab.storage.files import readable_size

LINE_SECONDS = 60.0  # between two plain lines
BAR_SECONDS = 0.5  # between two updates of a bar
BAR_DELAY = 1.0  # a shorter step shows no bar
clock = time.monotonic

T = TypeVar("T")


def is_reporting_rank() -> bool:
    """True on the first rank, the only one that reports, also before there is a process group."""
    if os.environ.get("LOCAL_RANK", "0") != "0" or os.environ.get("RANK", "0") != "0":
        return False
    if "torch" not in sys.modules:  # no process group without it; reports read runs and do not load it
        return True
    from kdlab.runtime import distributed

    return distributed.rank() == 0


def terminal() -> bool:
    """True if standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class ProgressBar:
    """Progress of one step `what` over `total` units (None: unknown) called `unit` ("B": bytes), of which `start` were
    done before. A context manager: the bar ends with the block."""

    def __init__(self, what: str, total: float | None = None, unit: str = "", start: float = 0) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, start
        self._start, self._began = start, clock()
        self._shown = self._began
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, count: float = 1) -> None:
        """Add `count` units to those done."""
        self.to(self.done + count)

    def to(self, done: float, more: Callable[[], str] = str) -> None:
        """Set the number of units done; `more` returns text for the end of the line and is called only if one is
        shown."""
        self.done, now = done, clock()
        if self.total is not None and done > self.total:
            self.total = None  # the total was an estimate
        # most calls end at the clock, which costs less than the other questions
        waited = now - self._shown
        if waited < min(BAR_SECONDS, LINE_SECONDS):
            return
        bar = terminal()
        if waited < (BAR_SECONDS if bar else LINE_SECONDS) or (bar and now - self._began < BAR_DELAY):
            return
        if not is_reporting_rank():
            return
        self._shown = now
        if bar:
            self._show(more())
        else:
            print("  ".join(filter(None, (f"  {self.line()}", more()))), file=sys.stderr, flush=True)

    def _show(self, more: str) -> None:
        if self._bar is None:
            unit = self.unit if self.unit == "B" else f" {self.unit}"
            self._bar = tqdm(
                desc=self.what, total=self.total, unit=unit, unit_scale=self.unit in ("B", "characters"),
                initial=self._start, leave=False, dynamic_ncols=True, file=sys.stderr,
            )  # fmt: skip
            self._bar.start_t -= clock() - self._began
        self._bar.n, self._bar.total = self.done, self.total
        self._bar.set_postfix_str(more, refresh=False)
        self._bar.refresh()

    def line(self) -> str:
        """The progress as one line, with the time left."""
        spent = clock() - self._began
        done, total = (
            "" if x is None else readable_size(int(x)) if self.unit == "B" else f"{x:,.0f}"
            for x in (self.done, self.total)
        )
        unit = "" if self.unit == "B" or not self.unit else f" {self.unit}"
        if self.total is None or self.done <= self._start:
            return f"{self.what}: {done}{f'/{total}' if total else ''}{unit}, {readable_time(spent)} so far"
        left = spent / (self.done - self._start) * (self.total - self.done)
        return f"{self.what}: {done}/{total}{unit}, about {readable_time(left)} left"

    def notify(self, line: str) -> None:
        """Print a line on standard output, above the bar if there is one."""
        if self._bar is None:
            print(line)
        else:
            tqdm.write(line)  # above the bar

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def track(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` with a `ProgressBar` over `total` of them (default: their length)."""
    with ProgressBar(what, total or length_hint(items) or None, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def redirect_tqdm(bars: type[tqdm], doing: str = "") -> None:
    """Make a library's class of tqdm bars print lines where there is no terminal, each after the text `doing`."""
    if getattr(bars, "_kdlab", None):
        return
    begin, show = bars.__init__, bars.display

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        self._progress = None
        if not is_reporting_rank():
            named["disable"] = True
        elif not terminal():
            named["file"] = io.StringIO()  # tqdm's own writing goes nowhere
            named["disable"] = bool(named.get("disable"))  # None would be no bar where there is no terminal
        begin(self, *arguments, **named)
        if not terminal() and not self.disable:
            what = f"{doing} {self.desc or ''}".strip().rstrip(": ")
            self._progress = ProgressBar(what, self.total, self.unit if self.unit == "B" else f"{self.unit}s", self.n)

    def display(self: Any, *arguments: Any, **named: Any) -> Any:
        if self._progress is None:
            return show(self, *arguments, **named)
        self._progress.total = self.total
        self._progress.to(self.n)
        return True

    bars.__init__, bars.display = init, display  # pyright: ignore[reportAttributeAccessIssue]
    bars._kdlab = (begin, show)  # pyright: ignore[reportAttributeAccessIssue]


def readable_time(seconds: float | None) -> str:
    """Format seconds: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
