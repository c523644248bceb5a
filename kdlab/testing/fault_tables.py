"""Tables of fault results, and the file in which several calls of `python -m kdlab.faults` collect theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.storage.files import atomic_write_text, locked
from kdlab.testing.fault_lab import FaultResult
from kdlab.testing.kills import ALONE, KINDS, LAST, PREPARING

KILLED = "killed: "
ROWS = (*KINDS.values(), LAST, PREPARING, ALONE, "2 ranks", "0 loader workers", "2 loader workers")
HEAD = ("fault", "caused", "wrong", "seconds")


def row(name: str, summary: FaultResult) -> dict[str, Any]:
    """The row of a fault, as written to the file."""
    kept = {"fault": name, "caused": summary.injected, "wrong": summary.wrong, "seconds": round(summary.seconds)}
    return kept | {"notes": summary.notes, "kinds": dict(summary.kinds)}


def line(values: Sequence[Any]) -> str:
    """A line of the table that is printed while faults are caused."""
    return f"{values[0]:60} {values[1]:>6} {values[2]:>6} {values[3]:>8}"


def add(file: Path, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `file` (a line of JSON each), with `rows` instead of those of the same faults; written back.

    UserError if it is no such file.
    """
    with locked(file.with_name(f".{file.name}.lock")):
        return _add(file, rows)


def _add(file: Path, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        kept = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
        found = {one["fault"]: one for one in [*kept, *rows]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no table that --table has written: {error}") from error
    atomic_write_text(file, "".join(json.dumps(one) + "\n" for one in found.values()))
    return list(found.values())


def kills(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A table in Markdown: at what moments, and under which conditions, each experiment was killed; [] without kills."""
    counts: dict[str, dict[str, int]] = {}
    for one in rows:
        if one["fault"].startswith(KILLED):
            into = counts.setdefault(one["fault"].removeprefix(KILLED).split(",")[0], {})
            for kind, count in {**one["kinds"], "all": one["caused"]}.items():
                into[kind] = into.get(kind, 0) + count
    if not counts:
        return []
    table = [f"| killed | {' | '.join(counts)} |", "|---" * (len(counts) + 1) + "|"]
    for kind in (*ROWS, "all"):
        numbers = [into.get(kind, 0) for into in counts.values()]
        if any(numbers):
            table.append(f"| {kind} | {' | '.join(map(str, numbers))} |")
    return table


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """All of it in Markdown: a row for each fault with what it noted, then the table of kills."""
    table = ["| fault | caused | not as promised |", "|---|---|---|"]
    for one in rows:
        said = "".join(f"; {note.splitlines()[0]}" for note in one["notes"])
        table.append(f"| {one['fault']}{said.replace('|', '/')} | {one['caused']} | {one['wrong']} |")
    all_kills = [one for one in rows if one["fault"].startswith(KILLED)]
    if all_kills:
        caused, wrong = (sum(one[key] for one in all_kills) for key in ("caused", "wrong"))
        table.append(f"| **all kills** | **{caused}** | **{wrong}** |")
    return "\n".join([*table, *(["", *kills(rows)] if all_kills else [])])
