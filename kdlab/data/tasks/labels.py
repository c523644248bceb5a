"""Labels of a data set: class names, their order, and their spellings in files.

Two sets of the same classes may number them differently: MNLI is (entailment, neutral, contradiction) in GLUE and
(contradiction, neutral, entailment) in several published checkpoints. So labels are compared by name, never by number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from kdlab.errors import UserError

FEW = 20  # at most this many distinct whole numbers are classes, more are scores
_SHORT = {"neg": "negative", "pos": "positive"}  # IMDb's names on the Hub


def fold(name: str) -> str:
    """Normalize a label name: case, spaces, hyphens and slashes are ignored; "neg" is "negative".

    Numbers are normalized by `canonical`.
    """
    if as_number(name) is not None:  # keep the minus sign
        return canonical(name)
    name = re.sub(r"[\s_/-]+", "_", name.strip().casefold()).strip("_") or name.strip()
    return _SHORT.get(name, name)


def canonical(value: str) -> str:
    """Normalize the whole numbers among labels of files: "1.0" and " 1" become "1"; other labels are stripped."""
    number = as_number(value)
    return str(int(number)) if number is not None and number.is_integer() else value.strip()


def as_number(value: str) -> float | None:
    """Parse `value` as a finite number; None if it is not one."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def classes_of(values: Iterable[str]) -> tuple[str, ...] | None:
    """Infer the classes of a training set from its labels, in order; None if they are scores (regression).

    Words are classes, in alphabetical order. Numbers are scores if one of them has a fraction, or if they are more than
    `FEW` distinct whole numbers that are not 0, 1, 2, ... without a gap; otherwise they are classes, in ascending
    order. UserError for more than `FEW` distinct words that are more than half of the rows: the column holds no labels.
    """
    rows = [canonical(value) for value in values]
    distinct = set(rows)
    numbers = [as_number(value) for value in distinct]
    if all(number is not None for number in numbers):
        ordered = sorted(number for number in numbers if number is not None)
        whole = all(number.is_integer() for number in ordered)
        if whole and (len(ordered) <= FEW or ordered == list(range(len(ordered)))):
            return tuple(str(int(number)) for number in ordered)
        return None
    if len(distinct) > FEW and len(distinct) > len(rows) / 2:
        raise UserError(
            f"the labels have {len(distinct)} different values in {len(rows)} rows, such as {min(distinct)!r}: neither "
            "classes nor numbers; give the column of the labels"
        )
    return tuple(sorted(distinct))


def codes(names: Sequence[str], values: Sequence[str] | None = None) -> dict[str, int]:
    """Map each spelling of a class in files to its index.

    `values`: spelling of each of the classes `names` in the files (labels.txt); None: a number from 0. The name is
    always accepted. Keys are `canonical`, and folded where that is unambiguous. UserError if two classes share a
    spelling.
    """
    written = [canonical(value) for value in (values if values is not None else map(str, range(len(names))))]
    if len(set(written)) < len(names) or len(set(names)) < len(names):
        raise UserError(f"two classes are written alike: names {', '.join(names)}; values {', '.join(written)}")
    indices = {value: index for index, value in enumerate(written)}
    folded = [fold(name) for name in names]
    for index, name in enumerate(names):
        indices.setdefault(canonical(name), index)
        if folded.count(folded[index]) == 1:
            indices.setdefault(folded[index], index)
    return indices


def align(data: Sequence[str], teacher: Sequence[str]) -> tuple[int, ...]:
    """Index of each class of the data among the teacher's.

    `teacher_logits[:, align(data, teacher)]` is in the order of the data.

    Names are compared as written, then folded (`fold`). UserError that names both lists if the classes differ, or if
    the teacher's are only numbered (LABEL_0, ...), because their order is unknown then.
    """
    lists = f"the data has {', '.join(data)}; the teacher has {', '.join(teacher)}"
    for normalize in (str, fold):  # first as written: "C" and "c" may be two classes
        indices = {normalize(name): index for index, name in enumerate(teacher)}
        classes = [normalize(name) for name in data]
        if sorted(indices) == sorted(classes) and len(teacher) == len(data):
            return tuple(indices[name] for name in classes)
    if teacher and all(re.fullmatch(r"label_\d+", fold(name)) for name in teacher):
        raise UserError(
            f"the teacher's labels are numbered, not named, so their order is unknown: {lists}; "
            "write the names into id2label of the teacher's config.json"
        )
    raise UserError(f"the teacher was trained on other labels: {lists}; choose a teacher of this task")
