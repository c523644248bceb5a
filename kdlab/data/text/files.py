"""Stream text from .txt, .jsonl and .parquet files, by `encoding` (see `lines`); a UserError names file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kdlab.data.text.lines import LONGEST, lines, whole_lines
from kdlab.errors import UserError, nearest


def chunks(path: Path, encoding: str | None = None) -> Iterator[str]:
    """A .txt file as one text, or in chunks of about `LONGEST` characters that end at a line's end."""
    parts: list[str] = []
    length = 0
    for _, line in lines(path, encoding):
        if length and length + len(line) > LONGEST:
            yield "".join(parts)
            parts, length = [], 0
        parts.append(line)
        length += len(line)
    yield "".join(parts)


def blocks(path: Path, encoding: str | None = None) -> Iterator[str]:
    """Blocks of a .txt file between blank lines; a block of over `LONGEST` characters comes in several parts."""
    parts: list[str] = []
    length = 0
    for _, line in lines(path, encoding):
        if length and (not line.strip() or length + len(line) > LONGEST):
            yield "".join(parts)
            parts, length = [], 0
        if line.strip():
            parts.append(line)
            length += len(line)
    yield "".join(parts)


def json_objects(path: Path, example: str, encoding: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each row of a .jsonl file; blank lines are skipped. `example`: of a row, for the message."""
    for number, line in whole_lines(path, encoding):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number}: {type(value).__name__}, not an object such as {example}")
        yield number, value


def jsonl_rows(path: Path, column: str, encoding: str | None = None) -> Iterator[str]:
    """Text of each row of a .jsonl file; blank lines, nulls and empty texts are skipped."""
    for number, value in json_objects(path, f'{{"{column}": "..."}}', encoding):
        if (name := matching(column, value)) is None:
            raise UserError(f"{path}, line {number}: no field {column!r}; {nearest(column, map(str, value))}")
        if not isinstance(value[name], str | None):
            raise UserError(f"{path}, line {number}: field {name!r} is {type(value[name]).__name__}, not text")
        if value[name]:
            yield value[name].encode("utf-8", "replace").decode()  # JSON may escape half a surrogate pair


def matching(name: str, columns: Iterable[str]) -> str | None:
    """The one of `columns` that is `name`, else the only one that is `name` in another case; None without one."""
    columns = list(columns)
    if name in columns:
        return name
    others = [column for column in columns if column.strip().casefold() == name.casefold()]
    return others[0] if len(others) == 1 else None


def parquet_size(path: Path, column: str) -> int:
    """Uncompressed bytes of the text column of a .parquet file; UserError if it is damaged or has no such column."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
        groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
        columns = (group.column(index) for group in groups for index in range(group.num_columns))
        sizes = [(part.path_in_schema, part.total_uncompressed_size) for part in columns]
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}") from error
    if (found := matching(column, schema.names)) is None or schema.names.count(found) > 1:
        raise UserError(f"{path}: no column {column!r}; {nearest(column, schema.names)}")
    kind = schema.field(found).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise UserError(f"{path}: column {found!r} is {kind}, not text")
    return sum(size for name, size in sizes if name == found)


def parquet_rows(path: Path, column: str) -> Iterator[str]:
    """Text of each row of a .parquet file; nulls and empty texts are skipped."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            name = matching(column, file.schema_arrow.names) or column
            for batch in file.iter_batches(batch_size=256, columns=[name]):
                yield from (text for text in batch.column(0).to_pylist() if text)
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}") from error


def grouped(pieces: Iterable[str], group: int) -> Iterator[str]:
    """Join every `group` consecutive non-blank pieces by a space; the last group may have fewer."""
    parts: list[str] = []
    for piece in pieces:
        if piece := piece.strip():
            parts.append(piece)
        if len(parts) == group:
            yield " ".join(parts)
            parts = []
    if parts:
        yield " ".join(parts)
