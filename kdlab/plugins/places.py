"""Files and lines of the user's own code, for one-line errors."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdlab
from kdlab.errors import UserError

_PACKAGE = str(Path(kdlab.__file__).resolve().parent)
_LIBRARIES = re.compile(r"[\\/](?:site|dist)-packages[\\/]|[\\/]lib[\\/]python3\.\d+[\\/]|^<")
LONGEST = 300  # characters of an exception's text


def raised(error: BaseException, is_own: Callable[[str], bool], code: Any = None) -> str:
    """The text of an exception after the deepest line of a file that `is_own` accepts: "mine.py:12 in f: KeyError: 'x'".

    Without such a line (a call with the wrong arguments): after the place where `code` is defined.
    """
    said = _said(error)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
    if not frames:
        return f"{defined(code)}: {said}" if code is not None else said
    inside = "" if frames[-1].name.startswith("<") else f" in {frames[-1].name}"
    return f"{_shown(frames[-1].filename)}:{frames[-1].lineno}{inside}: {said}"


def defined(code: Any) -> str:
    """The file and line where a function or class is defined: "mine.py:10 (my_strategy)"; its name alone where unknown."""
    name = getattr(code, "__name__", type(code).__name__)
    file, line = file_of(code), _line(code)
    if file is None:
        return name
    return f"{_shown(file)}:{line} ({name})" if line else f"{_shown(file)} ({name})"


def file_of(code: Any) -> str | None:
    """The file that defines a function or class; None where there is none."""
    try:
        return inspect.getfile(inspect.unwrap(code))
    except (TypeError, OSError, ValueError):
        return None


def is_foreign(file: str) -> bool:
    """True for a file that is neither kdlab's, nor Python's, nor of an installed package."""
    return not os.path.abspath(file).startswith(f"{_PACKAGE}{os.sep}") and not _LIBRARIES.search(file)


def _line(code: Any) -> int | None:
    """The line of `def` or `class`, below the decorators; None where there is none."""
    code = inspect.unwrap(code)
    try:
        lines, start = inspect.findsource(code)
    except (OSError, TypeError, IndexError):
        return None
    heading = re.compile(rf"\s*(?:async\s+def|def|class)\s+{re.escape(getattr(code, '__name__', ''))}\b")
    found = (number for number, line in enumerate(lines[start:], start + 1) if heading.match(line))
    return next(found, start + 1)


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shown(file: str) -> str:
    """A path as a user finds it: relative to the present folder where it lies below."""
    path, here = os.path.abspath(file), os.getcwd()
    return os.path.relpath(path, here) if path.startswith(f"{here}{os.sep}") else path
