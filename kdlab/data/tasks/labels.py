"""Labels of a data set: class names, their spellings in files, and their order in a teacher.

Two sets of the same classes may number them differently: MNLI is (entailment, neutral, contradiction) in GLUE and
(contradiction, neutral, entailment) in several published checkpoints. So labels are compared by name, never by number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kdlab.errors import UserError

_SHORT = {"neg": "negative", "pos": "positive"}  # IMDb's names on the Hub
_BOOLEAN = {"false": "0", "true": "1", "0": "false", "1": "true"}  # the other spelling of a boolean
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # float() also takes 1_1 and other digits
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0*)?", re.ASCII)


def fold(name: str) -> str:
    """Normalize a label name: case, spaces, hyphens and slashes are ignored; "neg" is "negative".

    Numbers are normalized by `canonical`.
    """
    if as_number(name) is not None:  # keep the minus sign
        return canonical(name)
    name = re.sub(r"[\s_/-]+", "_", name.strip().casefold()).strip("_") or name.strip()
    return _SHORT.get(name, name)


def canonical(value: str) -> str:
    """The one spelling of a plain whole number: "1.0" and " 1" become "1". All else is stripped: "01", "+1", "1_1"."""
    value = value.strip()
    match = _WHOLE.fullmatch(value)
    return value if match is None else "0" if match[1] == "-0" else match[1]


def is_whole(value: str) -> bool:
    """True for a whole number in plain spelling, exact whatever its length: "12", "-3", "4.0"; not "01", "+1", "1e3"."""
    return _WHOLE.fullmatch(value.strip()) is not None


def as_number(value: str) -> float | None:
    """Parse `value` as a finite number; None if it is not one."""
    value = value.strip()
    number = float(value) if _NUMBER.fullmatch(value) else math.nan
    return number if math.isfinite(number) else None


def is_nonfinite(value: str) -> bool:
    """True for text that stands for NaN or infinity, or is a number too large for a float."""
    try:
        return not math.isfinite(float(value)) and "_" not in value
    except ValueError:
        return False


@dataclass(frozen=True)
class ClassCodes:
    """Index of each class of a data set by its spelling in files.

    `written`: the spellings as they are, values and names; `folded`: `fold` of each, without those that two classes share.
    """

    written: dict[str, int]
    folded: dict[str, int]

    @classmethod
    def of(cls, written: dict[str, int]) -> ClassCodes:
        """The codes of spellings and their indices."""
        folded: dict[str, set[int]] = {}
        for spelling, index in written.items():
            folded.setdefault(fold(spelling), set()).add(index)
        return cls(written, {spelling: min(indices) for spelling, indices in folded.items() if len(indices) == 1})

    def index(self, value: str) -> int | None:
        """Index of the class that is written `value`: as it is, else folded, else as a boolean; None if unknown."""
        exact = self.written.get(value.strip())
        if exact is not None:
            return exact
        folded = fold(value)
        return self.folded.get(folded, self.folded.get(_BOOLEAN.get(folded, folded)))


def codes(names: Sequence[str], values: Sequence[str] | None = None) -> ClassCodes:
    """The codes of the classes `names`, in index order.

    `values`: spelling of each of the classes in the files (labels.txt); None: a number from 0. The name is always
    accepted too; a value counts before a name. UserError if two classes share a spelling.
    """
    spelled = [value.strip() for value in (values if values is not None else map(str, range(len(names))))]
    if len(set(spelled)) < len(names) or len(set(names)) < len(names):
        raise UserError(f"two classes are written alike: names {', '.join(names)}; values {', '.join(spelled)}")
    written = {value: index for index, value in enumerate(spelled)}
    for index, name in enumerate(names):
        written.setdefault(name.strip(), index)
    return ClassCodes.of(written)


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
