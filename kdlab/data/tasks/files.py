"""Read labelled rows from .tsv, .csv, .jsonl and .parquet files; every UserError names the file and the line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdlab.data.text.files import LONGEST, lines, sniff
from kdlab.errors import UserError, nearest

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_MISSING = object()  # placeholder for a field that a row of a .jsonl file lacks


class FileRow(NamedTuple):
    """One row of a file: `line` from 1 (the row number in parquet), one or two `texts`, `label` as written or None."""

    line: int
    texts: tuple[str, ...]
    label: str | None


def place(path: Path, line: int) -> str:
    """Location of a row in error messages: "data/train.tsv, line 7"."""
    return f"{path}, {'row' if path.suffix.lower() == '.parquet' else 'line'} {line}"


def read_columns(path: Path) -> list[str]:
    """Column names of a file; UserError if there is no header or the file cannot be read."""
    return _open(path)[0]


def read_table(path: Path, texts: Sequence[str], label: str | None) -> Iterator[FileRow]:
    """Stream the rows of a file: its columns `texts`, and the column `label` unless that is None.

    .tsv has a header and no quoting, .csv a header and quoting, .jsonl an object on each line, .parquet typed columns.
    An empty or null label becomes None. UserError that names file and line for a missing column, a ragged row, bytes
    that are not UTF-8, invalid JSON or CSV, and a field that is no text.
    """
    columns, rows = _open(path)
    required = [*texts, *([label] if label is not None else [])]
    for name in required:
        if name not in columns:
            raise UserError(f"{place(path, 1)}: no column {name!r}; {nearest(name, columns)}")
    indices = [columns.index(name) for name in required]
    for line, fields in rows:
        values = [fields[index] for index in indices]
        for name, field in zip(required, values, strict=True):
            if field is _MISSING:
                raise UserError(f"{place(path, line)}: no field {name!r}, which the first row has")
        parts = tuple(_text(path, line, name, field) for name, field in zip(texts, values, strict=False))
        yield FileRow(line, parts, None if label is None else _label(path, line, label, values[-1]))


def _text(path: Path, line: int, name: str, field: Any) -> str:
    if not isinstance(field, str):
        raise UserError(f"{place(path, line)}: {name!r} is {_kind(field)}, not text")
    return field.encode("utf-8", "replace").decode()  # JSON may escape half a surrogate pair


def _label(path: Path, line: int, name: str, field: Any) -> str | None:
    if field is None:
        return None
    if not isinstance(field, str | int | float):
        raise UserError(f"{place(path, line)}: {name!r} is {_kind(field)}, neither text nor a number")
    return str(int(field) if isinstance(field, bool) else field).strip() or None


def _kind(field: Any) -> str:
    return "null" if field is None else f"{type(field).__name__} {str(field)[:40]!r}"


def _open(path: Path) -> tuple[list[str], Iterator[tuple[int, Sequence[Any]]]]:
    """Open a file: (column names, iterator of (line, fields in that order))."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: cannot read {suffix or 'a file without an ending'}; give {', '.join(SUFFIXES)}")
    sniff(path)
    if suffix == ".jsonl":
        return _jsonl(path)
    if suffix == ".tsv":
        return _delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    return _delimited(path)


def _delimited(path: Path, **dialect: Any) -> tuple[list[str], Iterator[tuple[int, Sequence[str]]]]:
    csv.field_size_limit(LONGEST)  # global; the default limit of 131,072 is less than a long document
    reader = csv.reader((text for _, text in lines(path)), strict=True, **dialect)

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        while True:
            line = reader.line_num + 1  # first line of the row: a quoted field may span several lines
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{place(path, line)}: {error}") from error
            if fields is None:
                return
            if fields and any(map(str.strip, fields)):
                yield line, fields

    stream = rows()
    _, columns = next(stream, (1, []))
    if not columns:
        raise UserError(f"{path} is empty; its first line names the columns, such as sentence and label")
    columns = [name.strip() for name in columns]

    def checked() -> Iterator[tuple[int, Sequence[str]]]:
        for line, fields in stream:
            if len(fields) != len(columns):
                raise UserError(
                    f"{place(path, line)}: ragged row, {len(fields)} fields where the header has {len(columns)} "
                    f"({', '.join(columns)})"
                )
            yield line, fields

    return columns, checked()


def _jsonl(path: Path) -> tuple[list[str], Iterator[tuple[int, Sequence[Any]]]]:
    def objects() -> Iterator[tuple[int, dict[str, Any]]]:
        for line, text in lines(path):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{place(path, line)}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{place(path, line)}: {type(row).__name__}, not an object with texts and a label")
            yield line, row

    first = next(objects(), None)
    if first is None:
        raise UserError(f"{path} has no rows")
    columns = list(first[1])
    return columns, ((line, [row.get(name, _MISSING) for name in columns]) for line, row in objects())


def _parquet(path: Path) -> tuple[list[str], Iterator[tuple[int, Sequence[Any]]]]:
    import pyarrow
    import pyarrow.parquet as parquet

    def damaged(error: Exception) -> UserError:
        return UserError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}")

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
    except (OSError, pyarrow.ArrowException) as error:
        raise damaged(error) from error

    def rows() -> Iterator[tuple[int, Sequence[Any]]]:
        line = 0
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1000):
                    for fields in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                        line += 1
                        yield line, fields
        except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise damaged(error) from error

    return columns, rows()


def read_label_names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(values, names) in index order of a labels.txt: tab-separated `index`, `value` as in the data files, `name`."""
    columns, rows = _delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    if columns != ["index", "value", "name"]:
        raise UserError(f"{place(path, 1)}: columns {', '.join(columns)}; a labels.txt has index, value, name")
    classes: list[tuple[str, str]] = []
    for line, (index, value, name) in rows:
        if index.strip() != str(len(classes)):
            raise UserError(f"{place(path, line)}: index {index.strip()!r}; {len(classes)} comes next")
        classes.append((value.strip(), name.strip()))
    if len(classes) < 2:
        raise UserError(f"{path} names {len(classes)} classes; at least two are needed")
    return tuple(value for value, _ in classes), tuple(name for _, name in classes)


def read_class_names(path: Path, label: str | None) -> tuple[str, ...] | None:
    """Names of the classes 0, 1, ... of the column `label`, if `datasets` wrote them into the .parquet file."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        written = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        return tuple(json.loads(written)["info"]["features"][label]["names"])
    except (ValueError, LookupError, TypeError):
        return None


def require_rows(path: Path, records: Iterable[FileRow]) -> list[FileRow]:
    """`records` as a list; UserError if there are none."""
    rows = list(records)
    if not rows:
        raise UserError(f"{path} has no rows below its header")
    return rows
