"""Lines of text files, plain or compressed (.gz, .zst), in UTF-8 or another encoding."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kdlab.errors import UserError

LONGEST = 4_000_000  # bytes or characters of a part; longer lines and files are split into several parts
UTF8 = "utf-8"
COMPRESSED = (".gz", ".zst")
_SNIFFED = 65_536  # bytes that `sniff` reads
# what a damaged or truncated compressed file raises (BadGzipFile and pyarrow's errors are OSErrors)
_DAMAGED = (OSError, EOFError, zlib.error)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def format_of(path: Path) -> str:
    """The ending that tells the format, in lower case, without that of a compression: ".jsonl" of rows.jsonl.zst.

    Parquet has a compression of its own, so a compressed .parquet keeps both endings.
    """
    if path.suffix.lower() not in COMPRESSED:
        return path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if inner != ".parquet" else inner + path.suffix.lower()


def stem_of(path: Path) -> str:
    """The name without the endings of format and compression: "train" of train.tsv.gz."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


def check_encoding(name: str) -> None:
    """UserError unless `name` is a text encoding of Python."""
    try:
        codecs.getincrementaldecoder(name)
        "\n".encode(name)  # LookupError for codecs of bytes
    except (LookupError, UnicodeError, ValueError) as error:
        raise UserError(
            f"data.encoding={name}: no such text encoding; for example utf-8, cp1252 (Windows), latin-1, utf-16, gb18030"
        ) from error


def sniff(path: Path, encoding: str | None = None) -> None:
    """Raise UserError if `path` cannot be opened or does not begin with text in `encoding` (as in `lines`)."""
    try:
        with opened(path) as file:
            head = file.read(_SNIFFED)
    except _DAMAGED as error:
        raise _unreadable(path, error) from error
    if by_bytes(encoding or UTF8):
        if head.startswith(_UTF16) and encoding is not None:
            raise UserError(f"{path} is UTF-16, not {encoding} text: give data.encoding=utf-16")
        if b"\0" in head:
            raise UserError(f"{path} is binary (byte {head.index(0)} is 0), not {(encoding or UTF8).upper()} text")
    try:
        codecs.getincrementaldecoder(encoding or UTF8)().decode(head, final=len(head) < _SNIFFED)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise _undecodable(path, 1 + head.count(b"\n", 0, start), error, encoding) from error


def lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """(number from 1, text with its line end) of each line; a line of over `LONGEST` bytes comes in several parts.

    `encoding`: that of data.encoding; None: UTF-8, for files that no key describes.
    """
    if not by_bytes(encoding or UTF8):
        yield from _decoded_first(path, encoding or UTF8)
        return
    decoder = codecs.getincrementaldecoder("utf-8-sig" if is_utf8(encoding) else str(encoding))()
    number = 1
    try:
        with opened(path) as file:
            while raw := file.readline(LONGEST):
                yield number, decoder.decode(raw)
                number += raw.endswith(b"\n")
            decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise _undecodable(path, number, error, encoding) from error
    except _DAMAGED as error:
        raise _unreadable(path, error) from error


def whole_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """`lines` with each line in one part, for formats whose rows may not be split."""
    parts: list[str] = []
    number = 1
    for number, part in lines(path, encoding):
        parts.append(part)
        if part.endswith("\n"):
            yield number, "".join(parts)
            parts = []
    if parts:
        yield number, "".join(parts)


def encoding_parts(encoding: str) -> list[str]:
    """Parts of a fingerprint for an encoding: none for UTF-8, else its name, the same for every alias."""
    return [] if is_utf8(encoding) else [f"encoding {codecs.lookup(encoding).name}"]


def is_utf8(encoding: str | None) -> bool:
    """True for UTF-8 under any of its names, with or without a byte order mark."""
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def by_bytes(encoding: str) -> bool:
    r"""True where a line ends at the byte \n: not in UTF-16, UTF-32 and EBCDIC."""
    return "x\n".encode(encoding).endswith(b"x\n")


def opened(path: Path) -> IO[bytes]:
    """Open `path` for reading, decompressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))  # pyright: ignore[reportArgumentType]
    if suffix == ".zst":
        import pyarrow

        file = pyarrow.PythonFile(path.open("rb"), mode="r")
        return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))  # pyright: ignore[reportArgumentType]
    return path.open("rb")


def _decoded_first(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """`lines` of an encoding whose line ends are several bytes."""
    number = 1
    try:
        with io.TextIOWrapper(opened(path), encoding, newline="\n") as file:
            while text := file.readline(LONGEST):
                yield number, text
                number += text.endswith("\n")
    except UnicodeError as error:
        raise _undecodable(path, number, error, encoding) from error
    except _DAMAGED as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")


def _undecodable(path: Path, line: int, error: UnicodeError, encoding: str | None) -> UserError:
    named = isinstance(error, UnicodeDecodeError)
    byte = f" (byte 0x{error.object[error.start]:02x})" if named else ""
    if not is_utf8(encoding):
        return UserError(f"{path}, line {line}: not {encoding}{byte}; data.encoding= is another one for this file")
    key = "" if encoding is None else ", or name its encoding, for example data.encoding=cp1252 (Windows) or latin-1"
    return UserError(f"{path}, line {line}: not UTF-8{byte}; convert the file to UTF-8{key}")
