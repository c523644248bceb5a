"""Teachers that a column of the data names, for adoption rules that read the ids of rows (`adopt=by_column`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab.errors import UserError, nearest
from kdlab.methods.marks import marks_of
from kdlab.stages.inputs import Inputs
from kdlab.teachers.specs import TeacherSpec


def check(inputs: Inputs, members: Sequence[TeacherSpec], arms: dict[str, Any]) -> None:
    """UserError for a column that no rule reads, or that is missing, and for values that are no teacher; may read all rows."""
    data, adopt = inputs.config.data, inputs.config.adopt
    column, reading = data.teacher_column, [name for name, rule in arms.items() if "rows" in marks_of(rule).needs]
    if reading and column is None:
        raise UserError(
            f"adopt={adopt.name}: {reading[0]} goes by a column of the data that names each row's teacher: data.teacher_column=NAME"
        )
    if column is None:
        return
    if not reading:
        raise UserError(f"data.teacher_column={column}: adopt={adopt.name} does not read it; adopt=by_column")
    if data.augment is not None:
        raise UserError(
            f"data.teacher_column={column}: augmented rows (data.augment) have no column; data.augment=null"
        )
    for value in dict.fromkeys(inputs.named_teachers()):
        number_of(value, members, column)


def number_of(value: str, members: Sequence[TeacherSpec], column: str) -> int:
    """The number of the teacher that a value names, by its name or its number from 0, the smallest. UserError for none."""
    names = [member.name for member in members]
    if value in names:
        return names.index(value)
    if value.isdecimal() and int(value) < len(names):
        return int(value)
    raise UserError(
        f"data.teacher_column={column}: no teacher is called {value!r}, and it is no number from 0 (the smallest) to "
        f"{len(names) - 1}; {nearest(value, names)}"
    )


def bound(arms: dict[str, Any], inputs: Inputs, members: Sequence[TeacherSpec]) -> dict[str, Any]:
    """`arms` whose rules that read ids of rows have the function from these to the numbers of the teachers."""
    numbers = _numbers(inputs, members)
    return {
        name: functools.partial(rule, numbers=numbers) if "rows" in marks_of(rule).needs else rule
        for name, rule in arms.items()
    }


def _numbers(inputs: Inputs, members: Sequence[TeacherSpec]) -> Callable[[Tensor], Tensor]:
    @functools.cache
    def table() -> Tensor:
        column = str(inputs.config.data.teacher_column)
        known = functools.cache(lambda value: number_of(value, members, column))
        return torch.from_numpy(np.fromiter(map(known, inputs.row_teachers()), np.int64))

    return lambda rows: table()[rows.cpu()].to(rows.device)
