"""The caveats of a run: each is printed once, when it occurs, and kept for result.json, the model card and reports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kdlab.errors import one_line
from kdlab.runtime.progress import is_reporting_rank
from kdlab.types import Caveat


class Caveats:
    """Caveats of one run, in the order in which they occurred, each once.

    `entries` is the list of result.json ({"kind", "text"}), always the same object. Nothing is printed before `open`: a
    configuration that is only checked or analysed prints none.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, str]] = []
        self.save: Callable[[], None] = lambda: None  # called after each new entry
        self._open = False

    def open(self, earlier: Iterable[Mapping[str, Any]] = ()) -> None:
        """Print caveats from now on, those so far included. `earlier`: entries of the interrupted run that this one
        resumes, which come first and are not printed again."""
        before, self._open = [*self.entries], True
        self.entries[:] = [{"kind": str(one["kind"]), "text": str(one["text"])} for one in earlier]
        for one in before:
            self.add(Caveat(one["kind"], one["text"]))

    def add(self, caveat: Caveat) -> None:
        """Keep a caveat and print it, unless the run has it already."""
        entry = {"kind": caveat.kind, "text": one_line(caveat.text)}
        if entry in self.entries:
            return
        self.entries.append(entry)
        if self._open:
            print_aside(f"kdlab: caveat: {entry['text']}")
        self.save()


def print_aside(line: str) -> None:
    """Print a line on standard error, above a progress bar if there is one; on the first rank only."""
    if not is_reporting_rank():
        return
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
