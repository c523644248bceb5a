"""Size and speed of the students and teachers of a table, a row for each distinct model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from kdlab.reporting.tables import TaskTable
from kdlab.runs.closing.size_lines import conditions, size_rows
from kdlab.storage.escaping import shortened

HEAD = ["model", "rows", "parameters", "without embeddings", "file"]


@dataclass
class SizeTable:
    """Header and rows of the models, and the notes below them: how many runs, and how speed was measured."""

    head: list[str]
    rows: list[list[str]]
    notes: list[str]


@dataclass
class _Model:
    """Entries `size` of one model, and the numbers of the table's rows whose runs have it."""

    entries: list[Mapping[str, Any]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)


def size_table(table: TaskTable) -> SizeTable | None:
    """Models that differ in name, layers, parameters or conditions of the measurement; megabytes and milliseconds are means
    over runs. None where no run recorded a size."""
    models: dict[tuple[str, int, int, str], _Model] = {}
    for row in table.rows:
        for run in row.group.runs.values():
            for who, one in (run.result.get("size") or {}).items():
                said = conditions({**run.result, "size": {who: one}})
                key = (_name(who, run.result), one["parameters"], one["without_embeddings"], said)
                model = models.setdefault(key, _Model())
                model.entries.append(one)
                model.numbers.add(row.number)
    if not models:
        return None
    ordered = sorted(models, key=lambda key: key[0] != "student" and not key[0].startswith("student,"))
    means = {str(number): _mean(key, models[key]) for number, key in enumerate(ordered)}
    (_, _, _, _, *speeds), *body = size_rows({"size": means})
    everything = len({row.number for row in table.rows})
    rows = []
    several = len({key[3] for key in ordered if key[3]}) > 1
    for key, (_, *cells) in zip(ordered, body, strict=True):
        numbers = models[key].numbers
        name = f"{key[0]} ({key[3]})" if several and key[3] else key[0]
        rows.append([name, "all" if len(numbers) == everything else ", ".join(map(str, sorted(numbers))), *cells])
    return SizeTable([*HEAD, *speeds], rows, _notes(table, {key[3] for key in ordered if key[3]}))


def _name(who: str, result: Mapping[str, Any]) -> str:
    """The teacher's name; "student" with its layers."""
    layers = (result.get("student") or {}).get("layers") if who == "student" else None
    if layers is None:
        return shortened(who)
    return f"{who}, layers {', '.join(map(str, layers))}" if isinstance(layers, list) else f"{who}, {layers:g} layers"


def _mean(key: tuple[str, int, int, str], model: _Model) -> dict[str, Any]:
    """Entry `size` of a model: means over the runs that measured each number."""
    megabytes = [one["megabytes"] for one in model.entries if one.get("megabytes") is not None]
    batches = dict.fromkeys(size for one in model.entries for size in one.get("milliseconds") or ())
    speeds = {
        size: fmean(one["milliseconds"][size] for one in model.entries if size in (one.get("milliseconds") or {}))
        for size in batches
    }
    return {
        "parameters": key[1],
        "without_embeddings": key[2],
        "megabytes": fmean(megabytes) if megabytes else None,
        "milliseconds": speeds,
    }


def _notes(table: TaskTable, measured: set[str]) -> list[str]:
    notes = [
        "rows: numbers of the groups whose runs have the model; megabytes and milliseconds are means over these runs"
    ]
    if len(measured) == 1:
        notes.append(f"milliseconds: {measured.pop()}")
    silent = sum(not run.result.get("size") for run in table.runs)
    if silent:
        notes.append(f"{silent} of {len(table.runs)} runs recorded no size: an older kdlab")
    return notes
