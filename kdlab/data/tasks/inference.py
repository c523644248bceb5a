"""Infer from the labels of a training set whether they are classes or scores, and which classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from kdlab.data.tasks.files import FileRow, place
from kdlab.data.tasks.labels import as_number, canonical, is_nonfinite, is_whole
from kdlab.data.tasks.row_store import RowStore
from kdlab.data.tasks.rows import hidden_label_error
from kdlab.errors import UserError
from kdlab.ranges import shown

FEW = 20  # at most this many distinct whole numbers are classes
DENSE = 0.9  # more are classes too if at least this share of the numbers from the lowest to the highest occurs
SCORES = "taken for scores (regression)"  # of whole numbers, in a note for the user
_EXACT = 2**53  # whole numbers above are no floats, so they are names and no scores
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_PLACEHOLDERS = frozenset(["na", "n/a", "#n/a", "<na>", "null", "none", "nil", "?", "-", "--"])  # of a missing number
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)


Labels = Sequence[tuple[Path, Sequence[FileRow]]]  # rows of each file, of which at least the first of each label


def check_train_labels(train: Labels, regression: bool | None) -> None:
    """UserError with file and line for a label that is hidden, not finite, a placeholder among numbers, or has a decimal
    comma."""
    for file, records in train:
        for record in records:
            if record.label is None:
                raise hidden_label_error(file, record.line)
            if is_nonfinite(record.label):
                raise _no_label(file, record, "is no finite number")
    _check_placeholders(train)
    if regression is not False:
        _check_commas(train)


def _no_label(file: Path, record: FileRow, why: str) -> UserError:
    return UserError(
        f"{place(file, record.line)}: the label {shown(repr(record.label))} {why}; give the row a label or "
        "remove it (if it is the name of a class, list the classes in a labels.txt)"
    )


def _check_placeholders(train: Labels) -> None:
    """UserError where all labels are numbers but for words that stand for a missing one: N/A, null."""
    first, numbers = None, False
    for file, records in train:
        for record in records:
            if as_number(record.label or "") is not None:
                numbers = True
            elif (record.label or "").casefold() not in _PLACEHOLDERS:
                return
            else:
                first = first or (file, record)
    if first is not None and numbers:
        raise _no_label(*first, "stands among numbers and is none")


def _check_commas(train: Labels) -> None:
    """UserError where the labels are numbers, some of them with a decimal comma."""
    first = None
    for file, records in train:
        for record in records:
            if as_number((record.label or "").replace(",", ".")) is None:
                return
            if first is None and _COMMA.fullmatch(record.label or ""):
                first = file, record
    if first is not None:
        file, record = first
        label = str(record.label)
        raise UserError(
            f"{place(file, record.line)}: the label {label!r} has a decimal comma; write {label.replace(',', '.')} "
            "(data.regression=false if it is the name of a class)"
        )


class WrittenLabels(Collection[str]):
    """The labels of rows by file as they are written, "" for none, of each at least once."""

    def __init__(self, train: Sequence[tuple[Path, RowStore]]) -> None:
        self._train = [(file, records.by_label()) for file, records in train]

    def __iter__(self) -> Iterator[str]:
        return (record.label or "" for _, records in self._train for record in records)

    def __len__(self) -> int:
        return sum(len(records) for _, records in self._train)

    def __contains__(self, label: object) -> bool:
        return any(label == one for one in self)


def classes_of(
    values: Collection[str], regression: bool | None = None, rows: int | None = None
) -> tuple[str, ...] | None:
    """The classes of a training set from its labels, in order; None if they are scores (regression).

    `values`: the label of each row, or each label once, of so many `rows`.

    Words are classes as they are written, in alphabetical order; numbers with leading zeros, and those beyond 2**53,
    are words. Numbers are scores if one of them has a fraction; whole numbers are classes, in ascending order, if they are
    at most `FEW` different ones, or if they begin at -1, 0 or 1 and have few gaps (`DENSE`): the numbers in the gaps are
    classes then too, without a training row. `regression`: False where they are classes in any case, True where they
    are scores. UserError for more than `FEW` distinct words that are more than half of the rows: no labels.
    """
    if regression or (regression is None and _have_fractions(values)):
        return None
    written = {value.strip() for value in values}
    whole = all(map(is_whole, written))
    distinct = {canonical(value) for value in written} if whole else written
    rows = len(values) if rows is None else rows
    if _are_scores(distinct):
        if whole and (filled := _without_gaps(distinct)) is not None:
            return filled
        return tuple(sorted(distinct, key=_by_number)) if regression is False else None
    if len(distinct) > FEW and len(distinct) > rows / 2:
        raise UserError(
            f"the labels have {len(distinct)} different values in {rows} rows, such as {min(distinct)!r}: neither "
            "classes nor numbers; give the column of the labels"
        )
    return tuple(sorted(distinct, key=int if whole else None))


def classes_of_rows(train: Sequence[tuple[Path, RowStore]], regression: bool | None) -> tuple[str, ...] | None:
    """`classes_of` the labels of training rows by file. UserError that names the file, as `check_train_labels` too."""
    check_train_labels([(file, records.by_label()) for file, records in train], regression)
    try:
        return classes_of(WrittenLabels(train), regression, sum(len(records) for _, records in train))
    except UserError as error:
        raise UserError(f"{train[0][0]}: {error}") from error


def note_of(values: Collection[str], classes: tuple[str, ...] | None) -> str | None:
    """A line for the user where whole numbers were taken for scores, or more than `FEW` for classes; None elsewhere."""
    if not all((number := as_number(value)) is not None and number.is_integer() for value in values):
        return None
    numbers = {canonical(value): as_number(value) or 0.0 for value in values}
    known = sorted((number, name) for name, number in numbers.items())
    if len(numbers) <= FEW:
        return None
    whole = f"the labels are {len(numbers)} different whole numbers from {known[0][1]} to {known[-1][1]}"
    if classes is None:
        return f"{whole}: {SCORES}; data.regression=false takes them for classes"
    missing = [name for name in classes if name not in numbers]
    gaps = f", {', '.join(missing[:6])} without a training row" if missing else ""
    return f"{whole}: taken for {len(classes)} classes{gaps}; data.regression=true takes them for scores"


def _by_number(value: str) -> tuple[Decimal, str]:
    return Decimal(value), value  # 1.1 and 1.10 are two classes of one number


def _are_scores(distinct: Collection[str]) -> bool:
    """True for numbers that would be scores but for a few, or dense, whole ones."""
    numbers = [as_number(value) for value in distinct]
    if any(number is None for number in numbers) or any(_LEADING_ZERO.match(value) for value in distinct):
        return False
    if any(not number.is_integer() for number in numbers if number is not None):
        return True
    return len(distinct) > FEW and all(abs(number) <= _EXACT for number in numbers if number is not None)


def _have_fractions(values: Iterable[str]) -> bool:
    """True for scores with fractions, told without a set of them: there may be one for each row."""
    found = False
    for value in map(str.strip, values):
        if (number := as_number(value)) is None or _LEADING_ZERO.match(value):
            return False
        found = found or not number.is_integer()
    return found


def _without_gaps(distinct: Collection[str]) -> tuple[str, ...] | None:
    """All numbers from the lowest to the highest of whole numbers that are class numbers with few gaps; else None."""
    numbers = sorted(map(int, distinct))
    low, high = numbers[0], numbers[-1]
    if low not in (-1, 0, 1) or len(numbers) < DENSE * (high - low + 1):
        return None
    return tuple(map(str, range(low, high + 1)))
