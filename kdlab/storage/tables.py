"""CSV tables that grow while other tools read them, and that survive a kill at any moment."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.errors import UserError, nearest
from kdlab.storage.files import atomic_write_text, replacing, user_errors


class Table:
    """An append-only CSV file with fixed `columns`; an existing file of the same columns is continued.

    Every row is one line, written by one system call and visible to other processes when `write` returns. No file
    handle is kept between calls. A last line torn by a kill is dropped when the table is opened. `UserError` if the
    file has other columns or cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = Path(path)
        self.columns = tuple(columns)
        if len(set(self.columns)) != len(self.columns) or not self.columns:
            raise ValueError(f"columns must be given and differ: {self.columns}")
        self._header = _line(self.columns)
        with user_errors(f"opening {self.path.name}", self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._continue_or_begin()

    def _continue_or_begin(self) -> None:
        if not self.path.exists():
            return atomic_write_text(self.path, self._header)
        with open(self.path, "rb+") as file:
            first = file.readline()
            if not first.endswith(b"\n") and self._header.encode().startswith(first):
                return atomic_write_text(self.path, self._header)
            if first != self._header.encode():
                found = first.decode("utf-8", "replace").strip()[:200]
                raise UserError(
                    f"{self.path} has other columns: found {found!r}, expected {self._header.strip()!r}; "
                    "move it away or choose another run folder"
                )
            file.truncate(_end_of_last_line(file))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. Missing columns stay empty, floats keep all their digits; ValueError for an unknown column.

        Values: None (empty), bool, int, float, str without line breaks, and 0-d tensors or NumPy scalars.
        """
        for name in row:
            if name not in self.columns:
                raise ValueError(f"{self.path.name} has no column {name!r}: {nearest(name, self.columns)}")
        data = _line([_cell(row.get(name)) for name in self.columns]).encode("utf-8")
        with user_errors(f"writing {self.path.name}", self.path.parent):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)  # no O_CREAT: a table that vanished is an error
            try:
                before = os.fstat(descriptor).st_size
                try:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(descriptor, view) :]
                except OSError:
                    os.ftruncate(descriptor, before)  # a full disk took half a line
                    raise
            finally:
                os.close(descriptor)

    def sync(self) -> None:
        """Flush the rows so far to the device: called before a checkpoint that relies on them."""
        with user_errors(f"writing {self.path.name}", self.path.parent):
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rewind(self, step: int) -> None:
        """Keep the rows of steps before `step`, byte for byte: a run that resumes at `step` writes the others again.

        Lines that are no rows of this table (a power failure may leave such a tail) are dropped too. Atomic.
        """
        index = self.columns.index("step")
        with (
            user_errors(f"rewinding {self.path.name}", self.path.parent),
            open(self.path, "rb") as old,
            replacing(self.path) as (writer, _),
        ):
            writer.write(old.readline())
            for line in old:
                if line.endswith(b"\n") and _step(line, index, len(self.columns)) < step:
                    writer.write(line)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table as text, without an unfinished last line. `UserError` if it is no table."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            text = file.read(_end_of_last_line(file)).decode("utf-8")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; a table like metrics.csv of a run folder was expected") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a readable CSV table: {error}") from error
    if not rows:
        raise UserError(f"{path} is not a CSV table: it has no header line")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise UserError(f"{path} line {number} has {len(row)} cells, its header has {len(rows[0])}")
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def _end_of_last_line(file: io.BufferedIOBase) -> int:
    """Offset behind the last newline; the stream is left at 0."""
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - 4096)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            position = start + found + 1
            break
        position = start
    file.seek(0)
    return position


def _line(cells: Sequence[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if hasattr(value, "item"):
        value = value.item()  # 0-d tensor or NumPy scalar, whose repr is not a number
    text = repr(value) if isinstance(value, float) else str(value)
    if "\n" in text or "\r" in text:
        raise ValueError(f"a table's cell is one line, got {text!r}")
    return text


def _step(line: bytes, index: int, width: int) -> float:
    """The step of a line, or infinity if the line is no row."""
    try:
        (cells,) = csv.reader([line.decode("utf-8")], strict=True)
        return float(cells[index]) if len(cells) == width else float("inf")
    except (ValueError, csv.Error):
        return float("inf")
