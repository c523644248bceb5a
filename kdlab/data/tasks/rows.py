"""Labelled rows in memory: what a source of a task gives, labels understood, splits complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kdlab.data.tasks.files import FileRow, place
from kdlab.data.tasks.labels import as_number, canonical, fold
from kdlab.errors import UserError, nearest
from kdlab.runtime.seeding import stable
from kdlab.types import TaskShape

HELD_OUT = 0.1  # of train, where a set has no dev split


class LabelledRow(NamedTuple):
    """One labelled row: one or two texts, and the class index or the number (None: hidden)."""

    texts: tuple[str, ...]
    label: float | None


@dataclass
class TaskData:
    """A task's rows by split ("train", "dev", perhaps "test"; for MNLI also "dev_mismatched", "test_mismatched").

    `notes` describe what was inferred or done, for the user to check."""

    shape: TaskShape
    splits: dict[str, list[LabelledRow]]
    notes: list[str] = field(default_factory=list)


def labelled(
    file: Path, records: Sequence[FileRow], code: dict[str, int] | None, *, hidden_allowed: bool
) -> list[LabelledRow]:
    """Records with their labels understood: by `code` to class indices, or as numbers where that is None.

    Hidden labels (no label; -1 that is no class; in regression -1 in every row) become None, or UserError naming file
    and line where they are not allowed. So do labels that are no known class or no number.
    """
    all_hidden = code is None and all(record.label is None or as_number(record.label) == -1.0 for record in records)
    understood = _class(code) if code is not None else _number
    rows = []
    for record in records:
        value = None if all_hidden else record.label
        if value is not None and code is not None and canonical(value) == "-1" and "-1" not in code:
            value = None
        if value is None and not hidden_allowed:
            raise hidden(file, record.line)
        rows.append(LabelledRow(record.texts, None if value is None else understood(value, file, record.line)))
    return rows


def hidden(file: Path, line: int) -> UserError:
    """The error for a row without a label in a split that needs them."""
    return UserError(
        f"{place(file, line)}: the label is hidden (empty or -1), and this split needs labels; "
        "GLUE's test sets have none: use its train and dev files"
    )


def _class(code: dict[str, int]) -> Callable[[str, Path, int], int]:
    def understood(value: str, file: Path, line: int) -> int:
        index = code.get(canonical(value), code.get(fold(value)))
        if index is None:
            raise UserError(f"{place(file, line)}: unknown label {value!r}; {nearest(value, code)}")
        return index

    return understood


def _number(value: str, file: Path, line: int) -> float:
    number = as_number(value)
    if number is None:
        raise UserError(f"{place(file, line)}: label {value!r} is not a finite number, and the task is regression")
    return number


def with_dev(data: TaskData) -> TaskData:
    """`data` itself, or where it has no dev split, with a tenth of train held out as dev and a note that says so."""
    if "dev" in data.splits:
        return data
    train, dev = hold_out(data.splits["train"], HELD_OUT)
    note = f"no dev split: {len(dev)} of {len(train) + len(dev)} training rows are held out as dev"
    others = {split: rows for split, rows in data.splits.items() if split != "train"}
    return TaskData(data.shape, {"train": train, "dev": dev, **others}, [*data.notes, note])


def hold_out(rows: Sequence[LabelledRow], share: float) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """(kept, held out): about `share` of the rows, by a stable hash of their texts, so that equal rows stay together.

    The order of rows does not matter, and no side is empty. UserError if there are not two different rows.
    """
    rank = {texts: stable("held out", *texts) for texts in {row.texts for row in rows}}
    if len(rank) < 2:
        raise UserError(f"{len(rank)} different row(s) cannot be split into train and dev; give more, or a dev file")
    first = sorted(rank, key=lambda texts: (rank[texts], texts))[: max(1, round(share * len(rank)))]
    held = set(first)
    return [row for row in rows if row.texts not in held], [row for row in rows if row.texts in held]


def limited(data: TaskData, rows: int | None) -> TaskData:
    """`data` with at most `rows` training rows, chosen by a stable hash of their texts; a note says so."""
    train = data.splits["train"]
    if rows is None or rows >= len(train):
        return data
    chosen = sorted(sorted(range(len(train)), key=lambda i: (stable("train rows", *train[i].texts), i))[:rows])
    note = f"{rows} of {len(train)} training rows are used (data.train_rows)"
    return TaskData(data.shape, {**data.splits, "train": [train[i] for i in chosen]}, [*data.notes, note])
