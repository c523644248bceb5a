"""Stream text from .txt, .jsonl and .parquet files; every UserError names the file and the line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdlab.errors import UserError, nearest

LONGEST = 4_000_000  # characters of a piece; longer lines and files are split into several pieces
_SNIFFED = 65_536  # bytes that `sniff` reads


def sniff(path: Path) -> None:
    """Raise UserError if `path` cannot be opened or does not begin with UTF-8 text."""
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if b"\0" in head:
        raise UserError(f"{path} is binary (byte {head.index(0)} is 0), not UTF-8 text")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < _SNIFFED)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, 1 + head.count(b"\n", 0, error.start), error) from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text with its line end) of each line; a line of over `LONGEST` bytes comes in several parts."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    number = 1
    try:
        with path.open("rb") as file:
            while raw := file.readline(LONGEST):
                yield number, decoder.decode(raw)
                number += raw.endswith(b"\n")
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number, error) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> UserError:
    byte = error.object[error.start]
    return UserError(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}); convert the file to UTF-8")


def chunks(path: Path) -> Iterator[str]:
    """A .txt file as one text, or in chunks of about `LONGEST` characters that end at a line's end."""
    parts: list[str] = []
    length = 0
    for _, line in lines(path):
        if length and length + len(line) > LONGEST:
            yield "".join(parts)
            parts, length = [], 0
        parts.append(line)
        length += len(line)
    yield "".join(parts)


def blocks(path: Path) -> Iterator[str]:
    """Blocks of a .txt file between blank lines; a block of over `LONGEST` characters comes in several parts."""
    parts: list[str] = []
    length = 0
    for _, line in lines(path):
        if length and (not line.strip() or length + len(line) > LONGEST):
            yield "".join(parts)
            parts, length = [], 0
        if line.strip():
            parts.append(line)
            length += len(line)
    yield "".join(parts)


def jsonl_rows(path: Path, column: str) -> Iterator[str]:
    """Text of each row of a .jsonl file; blank lines, nulls and empty texts are skipped."""
    for number, row in _json_lines(path):
        try:
            value = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise UserError(
                f'{path}, line {number}: {type(value).__name__}, not an object such as {{"{column}": "..."}}'
            )
        if column not in value:
            raise UserError(f"{path}, line {number}: no field {column!r}; {nearest(column, map(str, value))}")
        if not isinstance(value[column], str | None):
            raise UserError(f"{path}, line {number}: field {column!r} is {type(value[column]).__name__}, not text")
        if value[column]:
            yield value[column].encode("utf-8", "replace").decode()  # JSON may escape half a surrogate pair


def _json_lines(path: Path) -> Iterator[tuple[int, str]]:
    parts: list[str] = []  # `lines` splits a row of over LONGEST bytes, and JSON needs all of it
    for number, line in lines(path):
        parts.append(line)
        if line.endswith("\n"):
            if (row := "".join(parts)).strip():
                yield number, row
            parts = []
    if (row := "".join(parts)).strip():
        yield number, row


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
    if column not in schema.names:
        raise UserError(f"{path}: no column {column!r}; {nearest(column, schema.names)}")
    kind = schema.field(column).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise UserError(f"{path}: column {column!r} is {kind}, not text")
    return sum(size for name, size in sizes if name == column)


def parquet_rows(path: Path, column: str) -> Iterator[str]:
    """Text of each row of a .parquet file; nulls and empty texts are skipped."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=[column]):
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
