"""Quoting for Hydra's command line and for a shell, so that every command that kdlab prints can be pasted and run.

Hydra is imported where it is used: commands that only read runs start without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdlab.errors import as_typed

SYNTAX = frozenset(",=()[]{}'\"\\$")  # characters that Hydra's grammar gives a meaning in a value
READ_UNQUOTED = re.compile(r"[\w/\\+.$%*@?|:\s-]*", re.ASCII)  # others are refused by it without quotes
_PARTS = re.compile(r"([+~]{0,2}[A-Za-z_][\w./@:-]*)=(.*)", re.DOTALL)


def quoted_value(value: object) -> str:
    """A value in Hydra's quotes, whatever characters it has; Hydra reads it as this text."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(str(value), Quote.double).with_quotes()


def override(key: str, value: object) -> str:
    """The override KEY=VALUE for a text, in Hydra's quotes where Hydra would read it otherwise."""
    plain = f"{key}={value}"
    return plain if _reads(plain, str(value)) else f"{key}={quoted_value(value)}"


def command(arguments: Iterable[str | Path], module: str = "kdlab.run") -> str:
    """A command of kdlab as a user types it into a shell; its `arguments` are not quoted for the shell yet."""
    return " ".join(["python", "-m", module, *(as_typed(str(argument)) for argument in arguments)])


def literal(line: str) -> str:
    """An override whose value has characters that Hydra refuses, and none of its syntax, with this value quoted:
    data.path=/tmp/été becomes data.path="/tmp/été". Any other as it is."""
    parts = _PARTS.fullmatch(line)
    if parts is None or READ_UNQUOTED.fullmatch(parts[2]) or SYNTAX & set(parts[2]):
        return line
    return f"{parts[1]}={quoted_value(parts[2])}"


def advice(line: str) -> str:
    """A clause with the characters of an override's value that Hydra reads as syntax, and how it is typed as one text;
    "" where quotes are not what it lacks."""
    parts = _PARTS.fullmatch(line)
    found = sorted(SYNTAX & set(parts[2])) if parts else []
    if parts is None or not found:
        return ""
    typed = f"{parts[1]}={quoted_value(parts[2])}"
    return f"Hydra reads {' '.join(found)} as syntax; as one text: {as_typed(typed)}" if _parses(typed) else ""


def _reads(line: str, text: str) -> bool:
    parsed = _parsed(line)
    return parsed is not None and parsed.value() == text


def _parses(line: str) -> bool:
    return _parsed(line) is not None


def _parsed(line: str) -> Any:
    """Hydra's override of a line; None where it refuses the line."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(line)
    except (HydraException, ValueError):
        return None
