"""Reading labelled rows out of .tsv, .csv, .jsonl and .parquet files; every fault names the file and the line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdlab.data.text.files import LONGEST, lines, sniff
from kdlab.errors import UserError, nearest

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_ABSENT = object()  # a field that a row of a .jsonl file does not have


class FileRow(NamedTuple):
    """One row as a file has it: `line` from 1 (in parquet the row), `texts` one or two, `label` as written or None."""

    line: int
    texts: tuple[str, ...]
    label: str | None


def place(path: Path, line: int) -> str:
    """How an error names a row: "data/train.tsv, line 7"."""
    return f"{path}, {'row' if path.suffix.lower() == '.parquet' else 'line'} {line}"


def read_columns(path: Path) -> list[str]:
    """The names of a file's columns; UserError if there is no header or the file cannot be read."""
    return _open(path)[0]


def read_table(path: Path, texts: Sequence[str], label: str | None) -> Iterator[FileRow]:
    """The rows of a file: its columns `texts`, and the column `label` unless that is None.

    .tsv has a header and no quoting, .csv a header and quoting, .jsonl an object a line, .parquet typed columns.
    A label that is empty or null is None. Raises UserError, naming file and line, for a missing column, a ragged row,
    bytes that are not UTF-8, JSON or CSV that cannot be parsed, and a field that is no text.
    """
    columns, rows = _open(path)
    wanted = [*texts, *([label] if label is not None else [])]
    for name in wanted:
        if name not in columns:
            raise UserError(f"{place(path, 1)}: no column {name!r}; {nearest(name, columns)}")
    at = [columns.index(name) for name in wanted]
    for line, fields in rows:
        found = [fields[index] for index in at]
        for name, field in zip(wanted, found, strict=True):
            if field is _ABSENT:
                raise UserError(f"{place(path, line)}: no field {name!r}, which the first row has")
        parts = tuple(_text(path, line, name, field) for name, field in zip(texts, found, strict=False))
        yield FileRow(line, parts, None if label is None else _label(path, line, label, found[-1]))


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
    """(column names, (line, fields in that order) of each row)."""
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
    csv.field_size_limit(LONGEST)  # of the process; Python's own limit of 131,072 is less than a long document
    reader = csv.reader((text for _, text in lines(path)), strict=True, **dialect)

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        while True:
            line = reader.line_num + 1  # where the row begins: a quoted field may go on over several lines
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{place(path, line)}: {error}") from error
            if fields is None:
                return
            if fields and any(map(str.strip, fields)):
                yield line, fields

    found = rows()
    _, columns = next(found, (1, []))
    if not columns:
        raise UserError(f"{path} is empty; its first line names the columns, such as sentence and label")
    columns = [name.strip() for name in columns]

    def checked() -> Iterator[tuple[int, Sequence[str]]]:
        for line, fields in found:
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
    return columns, ((line, [row.get(name, _ABSENT) for name in columns]) for line, row in objects())


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
    """A labels.txt (`index`, `value` as in the files, `name`; tab-separated): values and names in index order."""
    columns, rows = _delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    if columns != ["index", "value", "name"]:
        raise UserError(f"{place(path, 1)}: columns {', '.join(columns)}; a labels.txt has index, value, name")
    found: list[tuple[str, str]] = []
    for line, (index, value, name) in rows:
        if index.strip() != str(len(found)):
            raise UserError(f"{place(path, line)}: index {index.strip()!r}; {len(found)} comes next")
        found.append((value.strip(), name.strip()))
    if len(found) < 2:
        raise UserError(f"{path} names {len(found)} classes; two are the least")
    return tuple(value for value, _ in found), tuple(name for _, name in found)


def read_class_names(path: Path, label: str | None) -> tuple[str, ...] | None:
    """The names of the classes 0, 1, ... of a column, if the .parquet file was written by `datasets` with them."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        written = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        return tuple(json.loads(written)["info"]["features"][label]["names"])
    except (ValueError, LookupError, TypeError):
        return None


def require_rows(path: Path, records: Iterable[FileRow]) -> list[FileRow]:
    """`records` as a list; UserError if there are none."""
    held = list(records)
    if not held:
        raise UserError(f"{path} has no rows below its header")
    return held
