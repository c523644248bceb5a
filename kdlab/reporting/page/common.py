"""Settings and facts that all runs of a table share, as lines of a box, and those that differ, as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kdlab.reporting.seed_groups import Run
from kdlab.reporting.tables import TableRow, TaskTable
from kdlab.runs.finished import inside
from kdlab.storage.escaping import shortened

COLUMNS = 4  # settings with a column of their own; further ones share one
REST = "other settings"


def common(table: TaskTable) -> list[tuple[str, str]]:
    """Lines of the box by name: values that all runs of a table share; dates, versions and seeds may be several."""
    runs = table.runs
    lines = []
    for name, read in _READ.items():
        each = [read(run) for run in runs]
        values = list(dict.fromkeys(filter(None, each)))
        if not values or (name not in _RANGES and (len(values) > 1 or not all(each))):  # unknown of some is not shared
            continue
        lines.append((name, values[0] if len(values) == 1 else _RANGES[name](sorted(values))))
    return lines


def different(table: TaskTable) -> tuple[list[str], list[list[str]]]:
    """Labels of the settings that differ between the groups, and their cells in each row, the selection first.

    Beside the settings that name the groups: steps, batch, teacher, student, ... that differ for another reason.
    """
    settings = [dict(row.group.settings) for row in table.rows]
    for one, row in zip(settings, table.rows, strict=True):
        if "select" in one and row.ratio == 1 and any("ratio" in other for other in settings):
            one.setdefault("ratio", "1")
    labels = list(dict.fromkeys(label for one in settings for label in one))
    for name in _RELATED:
        values = [{_READ[name](run) for run in row.group.runs.values()} for row in table.rows]
        if any(len(one) != 1 for one in values) or len({*map(frozenset, values)}) == 1:
            continue
        if not any(label.split(".")[-1] in _RELATED[name] or label.split(".")[0] in _RELATED[name] for label in labels):
            labels.append(name)
            for one, value in zip(settings, values, strict=True):
                one[name] = value.pop() or "-"
    own, more = (labels, []) if len(labels) <= COLUMNS + 1 else (labels[:COLUMNS], labels[COLUMNS:])
    cells = [[one.get(label, "-") for label in own] for one in settings]
    if more:
        for line, one in zip(cells, settings, strict=True):
            line.append(" ".join(f"{label}={one[label]}" for label in more if label in one) or "-")
    return [*own, *([REST] if more else [])], cells


def method(row: TableRow, labels: Sequence[str], cells: Sequence[str]) -> str:
    """The first cell of a row: the value of the first setting that differs, with its number."""
    return f"{row.number}. {cells[0] if labels[0] == 'select' else f'{labels[0]} {cells[0]}'}"


# ---- what is read of a run


def _fact(*keys: str) -> Callable[[Run], str]:
    def read(run: Run) -> str:
        value = next((run.facts[key] for key in keys if run.facts.get(key) is not None), None)
        return "" if value is None else shortened(f"{value:g}" if isinstance(value, float) else str(value))

    return read


def _said(*keys: str) -> Callable[[Run], str]:
    def read(run: Run) -> str:
        value = inside(run.result, ".".join(keys))
        return shortened(str(value)) if isinstance(value, str | int | float) else ""

    return read


def _data(run: Run) -> str:
    path = inside(run.result, "data.path")
    name = run.task.split(" (rows ")[0]
    return f"{name} ({shortened(str(path))})" if path and str(path) != name else name


def _rows(run: Run) -> str:
    splits = inside(run.result, "data.splits")
    each = splits.items() if isinstance(splits, Mapping) else ()
    found = [f"{name} {part['rows']:,.0f}" for name, part in each if isinstance(part, Mapping) and part.get("rows")]
    return ", ".join(found)


def _teacher(run: Run) -> str:
    if not run.taught:
        return "none"
    teachers = run.result.get("teachers") or []
    if not isinstance(teachers, list) or len(teachers) < 2:
        teachers = [run.result.get("teacher") or {}]
    return "; ".join(text for one in teachers if isinstance(one, Mapping) and (text := _model(one)))


def _student(run: Run) -> str:
    student = run.result.get("student")
    return _model(student) if isinstance(student, Mapping) else ""


def _model(one: Mapping[str, Any]) -> str:
    """A model in words: name, layers, parameters."""
    layers, parameters = one.get("layers"), one.get("parameters")
    parts = [shortened(str(one["name"]))] if one.get("name") else []
    if isinstance(layers, list):
        parts.append(f"layers {', '.join(map(str, layers))}")
    elif layers is not None:
        parts.append(f"{layers} layers" if not isinstance(layers, float) else f"{layers:g} layers")
    parts += [f"{parameters / 1e6:.1f} M parameters"] if parameters else []
    return ", ".join(parts)


def _batch(run: Run) -> str:
    size, accumulated = run.facts.get("data.batch_size"), run.facts.get("trainer.accumulate") or 1
    return "" if size is None else f"{size} rows" + (f" x {accumulated} accumulated" if accumulated != 1 else "")


def _versions(run: Run) -> str:
    versions = run.result.get("versions")
    found = versions if isinstance(versions, Mapping) else {}
    return ", ".join(f"{name} {found[name]}" for name in VERSIONS if name in found)


def _git(run: Run) -> str:
    commit = run.result.get("git")
    text = str(commit) if commit else ""
    return text[:10] + (" with local changes" if text.endswith("-dirty") else "")


def _device(run: Run) -> str:
    one = run.result.get("devices")
    if not isinstance(one, Mapping):
        return ""
    name = str(one.get("name") or one.get("kind") or "")
    world = one.get("world") or 1
    return ", ".join(filter(None, (f"{world} x {name}" if world != 1 else name, str(one.get("precision") or ""))))


def _date(run: Run) -> str:
    """The day on which the run ended; of older runs, that of their result.json."""
    said = run.result.get("date")
    if isinstance(said, str):
        return said[:10]
    try:
        return datetime.fromtimestamp((run.folder / "result.json").stat().st_mtime, UTC).strftime("%Y-%m-%d")
    except OSError:
        return ""


VERSIONS = ("kdlab", "python", "torch", "pytorch-lightning", "transformers", "datasets")
_READ: dict[str, Callable[[Run], str]] = {
    "data": _data,
    "rows": _rows,
    "teacher": _teacher,
    "student": _student,
    "knowledge": _said("knowledge"),
    "steps": _said("steps"),
    "batch": _batch,
    "learning rate": _fact("optim.lr"),
    "scale": _fact("scale.name"),
    "seeds": lambda run: str(run.seed),
    "device": _device,
    "versions": _versions,
    "git": _git,
    "date": _date,
}
# Settings whose labels say the same as a line of the box
_RELATED = {
    "teacher": ("teachers", "teacher"),
    "student": ("student", "layers", "hidden"),
    "knowledge": ("knowledge",),
    "steps": ("max_steps", "max_epochs", "steps"),
    "batch": ("batch_size", "accumulate"),
    "learning rate": ("lr",),
    "rows": ("train_rows", "rows", "data"),
}
_RANGES: dict[str, Callable[[Sequence[str]], str]] = {
    "seeds": lambda values: ", ".join(sorted(values, key=int)),
    "device": " and ".join,
    "versions": " / ".join,
    "git": ", ".join,
    "date": lambda values: f"{values[0]} to {values[-1]}",
}
