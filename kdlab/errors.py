"""The one error class for what a user can mend, and the hint that goes with a wrong name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input of any kind: one line that says what is wrong, what was found and what would be right.

    `kdlab.run` and the other commands print it without a traceback and exit with code 2. What was found may hold any sign:
    those that would break the line, or steer a terminal, stand escaped.
    """

    def __init__(self, says: str) -> None:
        super().__init__(one_line(says))


def one_line(text: str) -> str:
    r"""`text` with all that cannot be printed escaped as Python does it: a line break is \n, half a character \ud800."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause naming the valid names closest to `name`, or all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
