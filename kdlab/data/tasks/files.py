"""Read labelled rows from .tsv, .csv, .jsonl (also as .gz or .zst) and .parquet files; a UserError names file and line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from kdlab.data.text.files import matching
from kdlab.data.text.lines import LONGEST, format_of, sniff, whole_lines
from kdlab.errors import UserError, nearest

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_TSV: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
_MISSING = object()  # placeholder for a field that a row of a .jsonl file lacks


class FileRow(NamedTuple):
    """One row of a file: `line` from 1 (the row number in parquet), one or two `texts`, `label` as written or None."""

    line: int
    texts: tuple[str, ...]
    label: str | None


def place(path: Path, line: int) -> str:
    """Location of a row in error messages: "data/train.tsv, line 7"."""
    return f"{path}, {'row' if path.suffix.lower() == '.parquet' else 'line'} {line}"


def read_columns(path: Path, encoding: str | None = None) -> list[str]:
    """Column names of a file; UserError if there is no header or the file cannot be read."""
    return _open(path, encoding)[0]


def read_table(path: Path, texts: Sequence[str], label: str | None, encoding: str | None = None) -> Iterator[FileRow]:
    """Stream the rows of a file: its columns `texts`, and the column `label` unless that is None.

    .tsv has a header and no quoting, .csv a header and quoting, .jsonl an object on each line, .parquet typed columns.
    Names of columns match in any case if only one does. An empty or null label and the number NaN become None.
    UserError that names file and line for a missing column, a ragged row, a repeated header, bytes that are not of the
    `encoding` (see `kdlab.data.text.lines`), invalid JSON or CSV, a field that is no text, and an infinite label.
    """
    columns, rows = _open(path, encoding)
    required = [*texts, *([label] if label is not None else [])]
    indices = [columns.index(column_of(path, name, columns)) for name in required]
    for line, fields in rows:
        values = [fields[index] for index in indices]
        for name, field in zip(required, values, strict=True):
            if field is _MISSING:
                raise UserError(f"{place(path, line)}: no field {name!r}, which the first row has")
        if label is not None and [*map(str, values)] == [columns[index] for index in indices]:
            raise UserError(f"{place(path, line)}: the names of the columns again; remove this row")
        parts = tuple(_text(path, line, name, field) for name, field in zip(texts, values, strict=False))
        yield FileRow(line, parts, None if label is None else _label(path, line, label, values[-1]))


def column_of(path: Path, name: str, columns: Sequence[str]) -> str:
    """The column of a file that `name` means; UserError if there is none, or more than one."""
    found = matching(name, columns)
    if found is None:
        raise UserError(f"{place(path, 1)}: no column {name!r}; {nearest(name, columns)}")
    if columns.count(found) > 1:
        raise UserError(f"{place(path, 1)}: {columns.count(found)} columns are called {found!r}; rename all but one")
    return found


def _text(path: Path, line: int, name: str, field: Any) -> str:
    if not isinstance(field, str):
        raise UserError(f"{place(path, line)}: {name!r} is {_kind(field)}, not text")
    return field.encode("utf-8", "replace").decode()  # JSON may escape half a surrogate pair


def _label(path: Path, line: int, name: str, field: Any) -> str | None:
    """The label as it is written; of a typed column as CSV writes it: True, 3, 0.5."""
    if field is None:
        return None
    if not isinstance(field, str | int | float | Decimal):
        raise UserError(f"{place(path, line)}: {name!r} is {_kind(field)}, neither text nor a number")
    if isinstance(field, float | Decimal) and not math.isfinite(field):
        if math.isnan(field):
            return None
        raise UserError(f"{place(path, line)}: the label is {field}, not a finite number")
    return str(field).strip() or None


def _kind(field: Any) -> str:
    return "null" if field is None else f"{type(field).__name__} {str(field)[:40]!r}"


def _open(path: Path, encoding: str | None) -> tuple[list[str], Iterator[tuple[int, Sequence[Any]]]]:
    """Open a file: (column names, iterator of (line, fields in that order))."""
    suffix = format_of(path)
    if suffix == ".parquet":
        return _parquet(path)
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: cannot read {suffix or 'a file without an ending'}; give {', '.join(SUFFIXES)}")
    sniff(path, encoding)
    if suffix == ".jsonl":
        return _jsonl(path, encoding)
    if suffix == ".tsv":
        return _delimited(path, encoding, **_TSV)
    return _delimited(path, encoding)


def _delimited(
    path: Path, encoding: str | None, **dialect: Any
) -> tuple[list[str], Iterator[tuple[int, Sequence[str]]]]:
    csv.field_size_limit(LONGEST)  # global; the default limit of 131,072 is less than a long document
    reader = csv.reader((text for _, text in whole_lines(path, encoding)), strict=True, **dialect)

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
        header, longest = _plain(columns), sum(map(len, columns)) + 9  # 9: marks and spaces
        for line, fields in stream:
            if len(fields) != len(columns):
                raise UserError(f"{place(path, line)}: {_ragged(fields, columns)}")
            if len(header) > 1 and sum(map(len, fields)) <= longest and _plain(fields) == header:
                raise UserError(
                    f"{place(path, line)}: the header again ({', '.join(map(str.strip, fields))}), as where files were "
                    "joined; remove this line"
                )
            yield line, fields

    return columns, checked()


def _plain(fields: Sequence[str]) -> list[str]:
    """Fields to compare with those of a header: in any order and case, without the mark at the beginning of a file."""
    return sorted(field.strip().removeprefix("\ufeff").casefold() for field in fields)


def _ragged(fields: Sequence[str], columns: Sequence[str]) -> str:
    counts = f"{len(fields)} fields where the header has {len(columns)} ({', '.join(columns)})"
    if len(fields) == len(columns) + 1 and not fields[-1].strip():
        return (
            f"the row ends in a trailing separator, which makes an empty extra field: {counts}; remove it from the rows"
        )
    if len(fields) == len(columns) - 1 and not columns[-1]:
        return f"the header ends in a trailing separator, and this row does not: {counts}; remove it from the header"
    return f"ragged row, {counts}"


def _jsonl(path: Path, encoding: str | None) -> tuple[list[str], Iterator[tuple[int, Sequence[Any]]]]:
    def objects() -> Iterator[tuple[int, dict[str, Any]]]:
        for line, text in whole_lines(path, encoding):
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


def read_label_names(path: Path, encoding: str | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(values, names) in index order of a labels.txt: tab-separated `index`, `value` as in the data files, `name`."""
    columns, rows = _delimited(path, encoding, **_TSV)
    if [column.casefold() for column in columns] != ["index", "value", "name"]:
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
        return tuple(map(str, json.loads(written)["info"]["features"][label]["names"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def no_rows(path: Path) -> UserError:
    """Error for a file without rows."""
    if format_of(path) in (".tsv", ".csv"):
        return UserError(f"{place(path, 1)}: a header, and no rows below it")
    return UserError(f"{path} has no rows")
