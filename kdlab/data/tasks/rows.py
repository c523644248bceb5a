"""Labelled rows: parse labels, hold out a dev split, limit the training rows. Those of files are kept in columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdlab.data.tasks.files import place
from kdlab.data.tasks.labels import ClassCodes, as_number, canonical
from kdlab.data.tasks.row_store import RECORDS, Columns, RowStore
from kdlab.errors import UserError, nearest
from kdlab.runtime.seeding import stable
from kdlab.types import IGNORE, TaskShape

PART = 1_000_000  # numbers that are looked up at once


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


class LabelledRows(Sequence[LabelledRow]):
    """Labelled rows in columns: each `LabelledRow` is made when it is asked for.

    `columns` with `texts` texts a row; `labels` of all their rows: int32 class indices (IGNORE: hidden) or float64 scores
    (NaN: hidden); `teachers`: the names that a column has, and the index among them of each row. `chosen` (n,): the rows of
    the columns that these are, ascending (None: all); `numbered`: these indices are their `LabelledRow.number`.
    """

    def __init__(
        self,
        columns: Columns,
        texts: int,
        labels: np.ndarray,
        teachers: tuple[list[str], np.ndarray] | None = None,
        chosen: np.ndarray | None = None,
        numbered: bool = False,
    ) -> None:
        self.columns, self.texts, self.labels, self.teachers = columns, texts, labels, teachers
        self._chosen, self._numbered = chosen, numbered

    @classmethod
    def joined(cls, parts: Sequence[LabelledRows]) -> LabelledRows:
        """The rows of several files after each other."""
        names = list(dict.fromkeys(name for part in parts for name in (part.teachers or ([], None))[0]))
        places = {name: index for index, name in enumerate(names)}
        codes = [np.array([places[name] for name in found], np.int32)[code] for found, code in _teachers(parts)]
        return cls(
            Columns([block for part in parts for block in part.columns.blocks]),
            parts[0].texts,
            np.concatenate([part.labels for part in parts]),
            (names, np.concatenate(codes)) if codes else None,
        )

    def take(self, rows: np.ndarray, numbered: bool = False) -> LabelledRows:
        """Those of the rows with the ascending indices `rows` (n,); `numbered`: with their indices in the columns as
        `LabelledRow.number`."""
        chosen = rows if self._chosen is None else self._chosen[rows]
        chosen = chosen.astype(np.int32 if len(self.columns) < 2**31 else np.int64)
        return LabelledRows(self.columns, self.texts, self.labels, self.teachers, chosen, numbered or self._numbered)

    @property
    def own_labels(self) -> np.ndarray:
        """The labels (N,) of these rows, as in `labels`."""
        return self.labels if self._chosen is None else self.labels[self._chosen]

    def relabelled(self, classes: Mapping[int, int]) -> LabelledRows:
        """The rows with class `classes[c]` in place of c, and a hidden label where `classes` has none."""
        labels = np.full(len(self.labels), IGNORE, np.int32)
        for former, label in classes.items():
            labels[self.labels == former] = label
        return LabelledRows(self.columns, self.texts, labels, self.teachers, self._chosen, self._numbered)

    def __len__(self) -> int:
        return len(self.columns) if self._chosen is None else len(self._chosen)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return list(self._rows(np.arange(*number.indices(len(self)))))
        return next(self._rows(np.array([range(len(self))[number]])))

    def __iter__(self) -> Iterator[LabelledRow]:
        for start in range(0, len(self), RECORDS):
            yield from self._rows(np.arange(start, min(start + RECORDS, len(self))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(LabelledRow.__eq__, self, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as a list has none

    def _rows(self, rows: np.ndarray) -> Iterator[LabelledRow]:
        numbers = rows if self._chosen is None else self._chosen[rows]
        labels, hidden = self.labels[numbers], _hidden(self.labels[numbers])
        texts = self.columns.lists(numbers, [f"text{i}" for i in range(self.texts)])
        codes = numbers if self.teachers is None else self.teachers[1][numbers]
        for parts, label, none, number, code in zip(
            texts, labels.tolist(), hidden.tolist(), numbers.tolist(), codes.tolist(), strict=True
        ):
            teacher = None if self.teachers is None else self.teachers[0][code]
            yield LabelledRow(parts, None if none else label, None, number if self._numbered else None, teacher)


def _teachers(parts: Sequence[LabelledRows]) -> list[tuple[list[str], np.ndarray]]:
    return [part.teachers for part in parts if part.teachers is not None]


def _hidden(labels: np.ndarray) -> np.ndarray:
    return np.isnan(labels) if labels.dtype.kind == "f" else labels == IGNORE


def text_key(texts: Sequence[str]) -> int:
    """A 63-bit hash of a row's texts that ignores letter case, the amount of white space, and Unicode's variants (NFKC)."""
    return stable("text", *(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts))


@dataclass
class TaskData:
    """Rows of a task by split ("train", "dev", optionally "test"; for MNLI also "dev_mismatched", "test_mismatched").

    `shape`: of the task; `notes`: inferences and changes to the data, for the user to check. A split is a list, or a
    `LabelledRows`.
    """

    shape: TaskShape
    splits: Mapping[str, Sequence[LabelledRow]]
    notes: list[str] = field(default_factory=list)


def labelled(file: Path, records: RowStore, code: ClassCodes | None, *, hidden_allowed: bool) -> LabelledRows:
    """Parse the labels of a file: to class indices by `code`, or to numbers if `code` is None.

    Hidden labels (no label; -1 or NaN if that is no class; in regression NaN, and -1 in every row) become None if
    `hidden_allowed`. UserError that names file and line for other hidden labels, unknown classes and labels that are no
    finite numbers.
    """
    different = records.by_label()
    all_hidden = code is None and all(record.label is None or as_number(record.label) == -1.0 for record in different)
    parse = _class_parser(code) if code is not None else _number

    def values() -> Iterator[float]:
        for record in different:
            value = None if all_hidden else record.label
            if value is not None and canonical(value).casefold() in (("-1", "nan") if code is not None else ("nan",)):
                value = value if code is not None and code.index(value) is not None else None
            if value is None and not hidden_allowed:
                raise hidden_label_error(file, record.line)
            yield missing if value is None else parse(value, file, record.line)

    kind, missing = (np.float64, np.nan) if code is None else (np.int32, IGNORE)
    labels = np.fromiter(values(), kind, len(different))
    labels = labels if records.codes is None else labels[records.codes]
    return LabelledRows(records.columns, records.texts, labels)


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


def with_dev(shape: TaskShape, splits: dict[str, LabelledRows], notes: list[str], share: float) -> TaskData:
    """The rows if there is a dev split; else hold out that `share` of train as dev, and add a note of it."""
    if "dev" in splits:
        return TaskData(shape, dict(splits), notes)
    rows = splits["train"]
    held = _held_out(rows, share)
    train, dev = rows.take(np.flatnonzero(~held)), rows.take(np.flatnonzero(held), numbered=True)
    note = f"no dev split: {len(dev)} of {len(rows)} training rows are held out as dev"
    others = {split: found for split, found in splits.items() if split != "train"}
    return TaskData(shape, {"train": train, "dev": dev, **others}, [*notes, note])


def hold_out(rows: Sequence[LabelledRow], share: float) -> tuple[Sequence[LabelledRow], Sequence[LabelledRow]]:
    """(kept, held out): hold out about `share` of the rows by a stable hash of their texts; equal rows stay together.

    Rows are equal if their texts have the same `text_key`. The choice does not depend on the order of rows, and no part
    is empty. UserError for fewer than two distinct rows.
    """
    held = _held_out(rows, share)
    return _those(rows, np.flatnonzero(~held)), _those(rows, np.flatnonzero(held))


def _held_out(rows: Sequence[LabelledRow], share: float) -> np.ndarray:
    """Mask (N,) of the rows that `hold_out` holds out."""
    keys, ranks = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for index, row in enumerate(rows):
        keys[index], ranks[index] = text_key(row.texts), stable("held out", *row.texts)
    order = np.lexsort((ranks, keys))
    ascending = keys[order]
    first = (
        order[np.append(True, ascending[1:] != ascending[:-1])] if len(rows) else order
    )  # of each key the least rank
    del order, ascending
    if len(first) < 2:
        raise UserError(f"{len(first)} different row(s) cannot be split into train and dev; give more, or a dev file")
    count, least = max(1, round(share * len(first))), ranks[first]
    first = first[least <= np.partition(least, count - 1)[count - 1]]
    return isin(keys, keys[first[np.lexsort((keys[first], ranks[first]))[:count]]])


def limited(data: TaskData, rows: int | None) -> TaskData:
    """`data` with at most `rows` training rows, chosen by a stable hash of their texts, and a note of it."""
    train = data.splits["train"]
    if rows is None or rows >= len(train):
        return data
    ranks = np.fromiter((stable("train rows", *row.texts) for row in train), np.int64, len(train))
    chosen = _those(train, np.sort(np.argsort(ranks, kind="stable")[:rows]))
    note = f"{rows} of {len(train)} training rows are used (data.train_rows)"
    return TaskData(data.shape, {**data.splits, "train": chosen}, [*data.notes, note])


def _those(rows: Sequence[LabelledRow], chosen: np.ndarray) -> Sequence[LabelledRow]:
    return rows.take(chosen) if isinstance(rows, LabelledRows) else [rows[index] for index in chosen.tolist()]


def relabelled(rows: Sequence[LabelledRow], classes: Mapping[int, int], hidden: bool) -> Sequence[LabelledRow]:
    """The rows with class `classes[c]` in place of c; those of other classes are left out, and without `hidden` those whose
    label is hidden too."""
    if isinstance(rows, LabelledRows):
        own = rows.own_labels
        kept = np.isin(own, [*classes, IGNORE] if hidden else [*classes])
        return rows.relabelled(classes).take(np.flatnonzero(kept))
    known = (row for row in rows if row.label in classes or (hidden and row.label is None))
    return [row if row.label is None else row._replace(label=classes[int(row.label)]) for row in known]


def isin(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mask (N,) of the `values` that are among `wanted`, as `numpy.isin`, in parts: it needs no memory but for `wanted`."""
    wanted, found = np.unique(wanted), np.zeros(len(values), dtype=bool)
    for start in range(0, len(values) if len(wanted) else 0, PART):
        part = values[start : start + PART]
        found[start : start + PART] = wanted[np.minimum(np.searchsorted(wanted, part), len(wanted) - 1)] == part
    return found
