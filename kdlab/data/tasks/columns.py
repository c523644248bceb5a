"""Columns of users' files: the names that are given, or else the usual ones, in any case where only one column matches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdlab.data.tasks.files import column_of, place
from kdlab.data.text.files import matching
from kdlab.errors import UserError, as_typed

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
)
SINGLES = ("sentence", "text")
LABELS = ("label", "labels", "gold_label", "score", "is_duplicate", "Quality")  # the last three: original files of GLUE
TEXT_KEY, LABEL_KEY = "data.columns", "data.label_column"


def chosen_columns(
    file: Path, available: Sequence[str], texts: Sequence[str], label: str | None, official: Sequence[str], test: bool
) -> tuple[tuple[str, ...], str | None]:
    """Names of the text columns (one or two) and of the label column among the `available` ones of a file.

    `texts`, `label`: as given by the user (empty, None: the `official` ones of the task, or the usual ones). `test`: of a
    split that may lack labels (None then). UserError for columns that do not exist, and without a usual name.
    """
    usual = [*([tuple(official)] if official else []), *PAIRS, *((name,) for name in SINGLES)]
    found = tuple(column_of(file, name, available) for name in texts) or _usual(file, usual, available, TEXT_KEY)
    if found is None:
        raise UserError(
            f"{place(file, 1)}: the columns are {', '.join(available)}, none with a usual name of a text column; "
            f"give {as_typed('data.columns=[sentence]')} or {as_typed('data.columns=[sentence1,sentence2]')} with the right "
            "names"
        )
    if label is not None:
        return found, None if test and matching(label, available) is None else column_of(file, label, available)
    named = _usual(file, [(name,) for name in LABELS], available, LABEL_KEY)
    if named is None and not test:
        raise UserError(
            f"{place(file, 1)}: no column 'label'; the columns are {', '.join(available)}: give data.label_column=NAME"
        )
    return found, None if named is None else column_of(file, named[0], available)


def _usual(file: Path, names: Sequence[tuple[str, ...]], available: Sequence[str], key: str) -> tuple[str, ...] | None:
    """The first of `names` whose columns are all there; UserError where another one is the first in any case."""
    exact = next((some for some in names if set(some) <= set(available)), None)
    matched = ([matching(name, available) for name in some] for some in names)
    found = next((tuple(map(str, some)) for some in matched if None not in some), None)
    if exact is not None and found != exact:
        choices = (",".join(found or ()), ",".join(exact))
        given = " or ".join(f"{key}=[{one}]" if key == TEXT_KEY else f"{key}={one}" for one in choices)
        raise UserError(f"{place(file, 1)}: the columns are {', '.join(available)}; give {given}")
    return found
