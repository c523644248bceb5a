"""Labelled rows in memory: parse labels, hold out a dev split, limit the training rows."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kdlab.data.tasks.files import FileRow, place
from kdlab.data.tasks.labels import ClassCodes, as_number, canonical
from kdlab.errors import UserError, nearest
from kdlab.runtime.seeding import stable
from kdlab.types import TaskShape


class LabelledRow(NamedTuple):
    """A labelled row: `texts`, one or two, and `label`, a class index or a score (None: hidden).

    `origin`: of an augmented copy, the index of its original in the split; None for an original. `number`: of a row held
    out of train, its index in the file of train; None for a row in its own file, where that is the index in the split.
    `teacher`: the teacher that a column names, as it is written.
    """

    texts: tuple[str, ...]
    label: float | None
    origin: int | None = None
    number: int | None = None
    teacher: str | None = None


def text_key(texts: Sequence[str]) -> int:
    """A 63-bit hash of a row's texts that ignores letter case, the amount of white space, and Unicode's variants (NFKC)."""
    return stable("text", *(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts))


@dataclass
class TaskData:
    """Rows of a task by split ("train", "dev", optionally "test"; for MNLI also "dev_mismatched", "test_mismatched").

    `shape`: of the task; `notes`: inferences and changes to the data, for the user to check.
    """

    shape: TaskShape
    splits: dict[str, list[LabelledRow]]
    notes: list[str] = field(default_factory=list)


def labelled(
    file: Path, records: Sequence[FileRow], code: ClassCodes | None, *, hidden_allowed: bool
) -> list[LabelledRow]:
    """Parse the labels of records: to class indices by `code`, or to numbers if `code` is None.

    Hidden labels (no label; -1 or NaN if that is no class; in regression NaN, and -1 in every row) become None if
    `hidden_allowed`. UserError that names file and line for other hidden labels, unknown classes and labels that are no
    finite numbers.
    """
    all_hidden = code is None and all(record.label is None or as_number(record.label) == -1.0 for record in records)
    parse = _class_parser(code) if code is not None else _number
    rows = []
    for record in records:
        value = None if all_hidden else record.label
        if value is not None and canonical(value).casefold() in (("-1", "nan") if code is not None else ("nan",)):
            value = value if code is not None and code.index(value) is not None else None
        if value is None and not hidden_allowed:
            raise hidden_label_error(file, record.line)
        rows.append(LabelledRow(record.texts, None if value is None else parse(value, file, record.line)))
    return rows


def hidden_label_error(file: Path, line: int) -> UserError:
    """Error for a row without a label in a split that needs labels."""
    return UserError(
        f"{place(file, line)}: the label is hidden (empty, NaN or -1), and this split needs labels; "
        "GLUE's test sets have none: use its train and dev files"
    )


def _class_parser(code: ClassCodes) -> Callable[[str, Path, int], int]:
    def parse(value: str, file: Path, line: int) -> int:
        index = code.index(value)
        if index is None:
            raise UserError(f"{place(file, line)}: unknown label {value!r}; {nearest(value, code.written)}")
        return index

    return parse


def _number(value: str, file: Path, line: int) -> float:
    number = as_number(value)
    if number is None:
        comma = "; write a decimal point, not a comma" if as_number(value.replace(",", ".", 1)) is not None else ""
        raise UserError(
            f"{place(file, line)}: label {value!r} is not a finite number, and the task is regression{comma}"
        )
    return number


def with_dev(data: TaskData, share: float) -> TaskData:
    """`data` if it has a dev split; else hold out that `share` of train as dev, and add a note of it."""
    if "dev" in data.splits:
        return data
    numbered = [row._replace(number=number) for number, row in enumerate(data.splits["train"])]
    kept, dev = hold_out(numbered, share)
    train = [row._replace(number=None) for row in kept]
    note = f"no dev split: {len(dev)} of {len(train) + len(dev)} training rows are held out as dev"
    others = {split: rows for split, rows in data.splits.items() if split != "train"}
    return TaskData(data.shape, {"train": train, "dev": dev, **others}, [*data.notes, note])


def hold_out(rows: Sequence[LabelledRow], share: float) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """(kept, held out): hold out about `share` of the rows by a stable hash of their texts; equal rows stay together.

    Rows are equal if their texts have the same `text_key`. The choice does not depend on the order of rows, and no part
    is empty. UserError for fewer than two distinct rows.
    """
    keys = {texts: text_key(texts) for texts in {row.texts for row in rows}}
    rank: dict[int, int] = {}
    for texts, key in keys.items():
        mine = stable("held out", *texts)
        rank[key] = min(mine, rank.get(key, mine))
    if len(rank) < 2:
        raise UserError(f"{len(rank)} different row(s) cannot be split into train and dev; give more, or a dev file")
    chosen = set(sorted(rank, key=lambda key: (rank[key], key))[: max(1, round(share * len(rank)))])
    kept = [row for row in rows if keys[row.texts] not in chosen]
    return kept, [row for row in rows if keys[row.texts] in chosen]


def limited(data: TaskData, rows: int | None) -> TaskData:
    """`data` with at most `rows` training rows, chosen by a stable hash of their texts, and a note of it."""
    train = data.splits["train"]
    if rows is None or rows >= len(train):
        return data
    chosen = sorted(sorted(range(len(train)), key=lambda i: (stable("train rows", *train[i].texts), i))[:rows])
    note = f"{rows} of {len(train)} training rows are used (data.train_rows)"
    return TaskData(data.shape, {**data.splits, "train": [train[i] for i in chosen]}, [*data.notes, note])
