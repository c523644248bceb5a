"""The classes that the first version of kdlab read from labels: where they are those of today, artifacts keep their keys.

It took labels for numbers wherever float() does ("1_1" is 11, "01" is 1) and typed booleans for 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from kdlab.data.tasks.inference import FEW, WrittenLabels, classes_of_rows
from kdlab.data.tasks.row_store import RowStore
from kdlab.data.text.lines import format_of


def first_reading(train: Sequence[tuple[Path, RowStore]], regression: bool | None) -> bool:
    """True if the labels of the training rows give the classes, or scores, that the first version read from them."""
    written = WrittenLabels(train)
    typed = any(format_of(file) in (".jsonl", ".parquet") for file, _ in train)
    if typed and all(label in ("True", "False") for label in written):
        return False
    return classes_of_rows(train, regression) == _first_classes(written, regression)


def _first_classes(values: Collection[str], regression: bool | None) -> tuple[str, ...] | None:
    if regression is None and _have_fractions(values):
        return None
    distinct = {str(int(number)) if (number := _number(value)).is_integer() else value.strip() for value in values}
    numbers = [_number(value) for value in distinct]
    if any(math.isnan(number) for number in numbers):
        return tuple(sorted(distinct))
    ordered = sorted(numbers)
    whole = all(number.is_integer() for number in ordered)
    if regression is False or (whole and (len(ordered) <= FEW or ordered == list(range(len(ordered))))):
        return tuple(sorted(distinct, key=_number))
    return None


def _have_fractions(values: Collection[str]) -> bool:
    """True for scores, told without a set of them: there may be one for each row."""
    found = False
    for number in map(_number, values):
        if math.isnan(number):
            return False
        found = found or not number.is_integer()
    return found


def _number(value: str) -> float:
    """The number that float() reads, NaN for another text and for infinity."""
    try:
        number = float(value)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
