"""What the labels of a data set mean: class names, their order, and how files write them.

Two sets of the same classes may number them differently: MNLI is (entailment, neutral, contradiction) in GLUE and
(contradiction, neutral, entailment) in several published checkpoints. So labels are compared by name, never by number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from kdlab.errors import UserError

FEW = 20  # whole-number labels of at most this many values are classes, not scores
_SHORT = {"neg": "negative", "pos": "positive"}  # IMDb's names on the Hub


def fold(name: str) -> str:
    """A label name without what writers differ in: case, spaces, hyphens, slashes; "neg" is "negative".

    Numbers come as `canonical` gives them.
    """
    if as_number(name) is not None:  # a minus is no hyphen
        return canonical(name)
    name = re.sub(r"[\s_/-]+", "_", name.strip().casefold()).strip("_") or name.strip()
    return _SHORT.get(name, name)


def canonical(value: str) -> str:
    """A label as written in a file, with whole numbers in one way: "1.0" and " 1" are "1"."""
    number = as_number(value)
    return str(int(number)) if number is not None and number.is_integer() else value.strip()


def as_number(value: str) -> float | None:
    """The finite number that `value` writes, or None."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def classes_of(values: Iterable[str]) -> tuple[str, ...] | None:
    """The classes that the labels of a training set show, in order; None where they are scores (regression).

    Words are classes, by alphabet. Numbers are scores if one of them has a fraction, or if they are more than `FEW`
    different whole numbers other than 0, 1, 2, ... without a gap (which is how class numbers look); otherwise classes,
    by size. Raises UserError for words that differ in more than half of the rows: that is no column of labels.
    """
    rows = [canonical(value) for value in values]
    distinct = set(rows)
    numbers = [as_number(value) for value in distinct]
    if all(number is not None for number in numbers):
        found = sorted(number for number in numbers if number is not None)
        whole = all(number.is_integer() for number in found)
        if whole and (len(found) <= FEW or found == list(range(len(found)))):
            return tuple(str(int(number)) for number in found)
        return None
    if len(distinct) > FEW and len(distinct) > len(rows) / 2:
        raise UserError(
            f"the labels have {len(distinct)} different values in {len(rows)} rows, such as {min(distinct)!r}: neither "
            "classes nor numbers; name the column that holds the labels"
        )
    return tuple(sorted(distinct))


def codes(names: Sequence[str], values: Sequence[str] | None = None) -> dict[str, int]:
    """From each way a file may write a class, to its index.

    `values` is how the files write the classes `names`, in the same order (labels.txt); without it, as a number from 0
    or as the name. Keys are `canonical`, and folded where that is unambiguous. UserError if two classes are one.
    """
    written = [canonical(value) for value in (values if values is not None else map(str, range(len(names))))]
    if len(set(written)) < len(names) or len(set(names)) < len(names):
        raise UserError(f"two classes are written alike: names {', '.join(names)}; values {', '.join(written)}")
    found = {value: index for index, value in enumerate(written)}
    folded = [fold(name) for name in names]
    for index, name in enumerate(names):
        found.setdefault(canonical(name), index)
        if folded.count(folded[index]) == 1:
            found.setdefault(folded[index], index)
    return found


def align(data: Sequence[str], teacher: Sequence[str]) -> tuple[int, ...]:
    """Where the teacher keeps each class of the data: `teacher_logits[:, align(data, teacher)]` is in the data's order.

    Names are compared as written, then folded (`fold`). Raises UserError naming both lists if they are not the same classes, and if the
    teacher's are only numbered (LABEL_0, ...), because then their order cannot be known.
    """
    lists = f"the data has {', '.join(data)}; the teacher has {', '.join(teacher)}"
    for same in (str, fold):  # as written, or else folded: "C" and "c" may be two classes
        places = {same(name): index for index, name in enumerate(teacher)}
        wanted = [same(name) for name in data]
        if sorted(places) == sorted(wanted) and len(teacher) == len(data):
            return tuple(places[name] for name in wanted)
    if teacher and all(re.fullmatch(r"label_\d+", fold(name)) for name in teacher):
        raise UserError(
            f"the teacher's labels are numbered, not named, so their order is unknown: {lists}; "
            "write the names into id2label of the teacher's config.json"
        )
    raise UserError(f"the teacher was trained on other labels: {lists}; choose a teacher of this task")
