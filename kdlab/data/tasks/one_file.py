"""Rows of one file for a model whose task is known: scored, or answered, apart from the data it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdlab.data.tasks.class_names import ClassNames
from kdlab.data.tasks.columns import chosen_columns
from kdlab.data.tasks.files import no_rows, read_class_names, read_columns, read_label_names, read_table
from kdlab.data.tasks.labels import ClassCodes, codes, is_whole
from kdlab.data.tasks.registry import Task
from kdlab.data.tasks.row_store import RowStore
from kdlab.data.tasks.rows import LabelledRows, labelled
from kdlab.data.text.lines import format_of
from kdlab.errors import UserError
from kdlab.storage.files import user_path
from kdlab.types import TaskShape


def rows_of_file(
    path: Path,
    shape: TaskShape,
    task: Task | None,
    columns: Sequence[str] | None,
    label: str | None,
    encoding: str,
    values: Sequence[str] | None = None,
) -> LabelledRows:
    """The rows of a .tsv, .csv, .jsonl (also .gz, .zst) or .parquet file, with labels of `shape`; hidden ones are None.

    Classes go by name; by a labels.txt beside the file, or names in a .parquet file; else as the training files spelled them
    (`values`); without any, whole numbers are the places of the classes, unless the classes are called so. `columns`, `label`: as in `TaskFolder`. UserError that names
    file and line for a label that is no class, and for rows of another number of texts.
    """
    file = user_path(path)
    if not file.is_file():
        raise UserError(f"--data {path}: {'a folder; name one file of rows' if file.is_dir() else 'no such file'}")
    official = task.hub.columns if task is not None else ()
    texts, label = chosen_columns(file, read_columns(file, encoding), columns or (), label, official, True)
    if len(texts) != shape.columns:
        raise UserError(
            f"--data {path}: {len(texts)} text(s) a row ({', '.join(texts)}); the student reads {shape.columns}"
        )
    records = RowStore(read_table(file, texts, label, encoding))
    if not records:
        raise no_rows(file)
    code = None
    if shape.labels is not None:
        written = [record.label or "" for record in records.by_label()]
        code = _code(file, shape.labels, task, label, encoding, values, written)
    return labelled(file, records, code, hidden_allowed=True)


def _code(
    file: Path,
    classes: tuple[str, ...],
    task: Task | None,
    label: str | None,
    encoding: str,
    values: Sequence[str] | None,
    written: Sequence[str],
) -> ClassCodes:
    """The classes by their spelling in a file."""
    listed = file.parent / "labels.txt"
    names = read_class_names(file, label) if format_of(file) == ".parquet" and label is not None else None
    if values is not None and not listed.is_file() and not names:
        return codes(classes, values)
    if listed.is_file() or names or task is not None:
        of_list = (listed, *read_label_names(listed, encoding)) if listed.is_file() else None
        return ClassNames(of_list, {file: names} if names else {}).codes(classes, task).code(file, [])
    by_place = all(is_whole(value) for value in written if value) and not any(map(is_whole, classes))
    return codes(classes, None if by_place else classes)
