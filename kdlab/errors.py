"""`UserError`, the one error class for wrong input, and the hint that goes with a wrong name."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input of any kind: one line with the mistake, the value found and the values that are valid.

    Commands print it without a traceback and exit with code 2. The value found may contain any character: those that
    would break the line, or control a terminal, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    r"""Escape all that cannot be printed in `text`, as Python does: a line break is \n, half a surrogate pair
    \ud800."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_typed(word: str) -> str:
    """A word of a command as it is typed into bash or zsh: quoted where it has a character that either gives a meaning."""
    quoted = shlex.quote(word)
    return f"'{word}'" if quoted == word and word.startswith("=") else quoted  # zsh replaces =NAME


def install(extra: str) -> str:
    """The command that installs an extra of kdlab, such as "demo"."""
    return f"pip install {as_typed(f'kdlab[{extra}]')}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause with the valid names closest to `name`, or with all of them if none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
