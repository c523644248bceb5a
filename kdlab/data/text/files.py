"""Reading text out of .txt, .jsonl and .parquet files, piece by piece; every fault names the file and the line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdlab.errors import UserError, nearest

LONGEST = 4_000_000  # characters of a piece; longer lines and files are read as several pieces
_SNIFFED = 65_536  # bytes looked at by `sniff`


def sniff(path: Path) -> None:
    """Raise UserError if `path` cannot be opened or does not begin as UTF-8 text."""
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
    """(number from 1, text with its line end) of each line; one of over `LONGEST` bytes comes in several parts."""
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


def stretches(path: Path) -> Iterator[str]:
    """A whole .txt file, or its stretches of about `LONGEST` characters, cut at a line's end."""
    parts: list[str] = []
    held = 0
    for _, line in lines(path):
        if held and held + len(line) > LONGEST:
            yield "".join(parts)
            parts, held = [], 0
        parts.append(line)
        held += len(line)
    yield "".join(parts)


def blocks(path: Path) -> Iterator[str]:
    """The blocks of a .txt file that blank lines separate; one of over `LONGEST` characters comes in several parts."""
    parts: list[str] = []
    held = 0
    for _, line in lines(path):
        if held and (not line.strip() or held + len(line) > LONGEST):
            yield "".join(parts)
            parts, held = [], 0
        if line.strip():
            parts.append(line)
            held += len(line)
    yield "".join(parts)


def jsonl_rows(path: Path, column: str) -> Iterator[str]:
    """The text of each row of a .jsonl file; blank lines and nulls are left out."""
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
    parts: list[str] = []  # a row longer than LONGEST comes in several, and JSON needs it whole
    for number, line in lines(path):
        parts.append(line)
        if line.endswith("\n"):
            if (row := "".join(parts)).strip():
                yield number, row
            parts = []
    if (row := "".join(parts)).strip():
        yield number, row


def parquet_size(path: Path, column: str) -> int:
    """Bytes of the text column of a .parquet file, uncompressed; UserError if it is damaged or has no such column."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
        groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
        chunks = (group.column(index) for group in groups for index in range(group.num_columns))
        sizes = [(chunk.path_in_schema, chunk.total_uncompressed_size) for chunk in chunks]
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}") from error
    if column not in schema.names:
        raise UserError(f"{path}: no column {column!r}; {nearest(column, schema.names)}")
    kind = schema.field(column).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise UserError(f"{path}: column {column!r} is {kind}, not text")
    return sum(size for name, size in sizes if name == column)


def parquet_rows(path: Path, column: str) -> Iterator[str]:
    """The text of each row of a .parquet file; nulls are left out."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                yield from (text for text in batch.column(0).to_pylist() if text)
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}") from error


def grouped(pieces: Iterable[str], group: int) -> Iterator[str]:
    """Every `group` consecutive pieces that are not blank joined by a space; the last may be of fewer."""
    held: list[str] = []
    for piece in pieces:
        if piece := piece.strip():
            held.append(piece)
        if len(held) == group:
            yield " ".join(held)
            held = []
    if held:
        yield " ".join(held)
