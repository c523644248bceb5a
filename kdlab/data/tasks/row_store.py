"""Rows in columns: record batches in memory up to a limit, the rest in a temporary file, read back a batch at a time.

No Python object is kept for a row: what `RowStore` and `LabelledRows` (rows.py) give out is made when it is asked for.
"""

from __future__ import annotations

import copy
import errno
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from kdlab.data.tasks.files import FileRow
from kdlab.storage.files import user_errors

IN_MEMORY = 64 * 2**20  # bytes of rows; what is beyond goes to the temporary file
RECORDS = 2_000  # rows of a record batch
CHARACTERS = 2**24  # of a record batch, but for its last row
MANY = 50_000  # different labels; for more the rows themselves are gone through


class Spool:
    """Record batches in the order in which they are put: the first `IN_MEMORY` bytes in memory, the others in a file
    without a name in the folder for temporary files (TMPDIR), which goes with this object."""

    def __init__(self) -> None:
        self._held = 0
        self._file: IO[bytes] | None = None

    def put(self, batch: pa.RecordBatch) -> Block:
        """Keep `batch`; UserError for a full disk."""
        if self._held + batch.nbytes <= IN_MEMORY:
            self._held += batch.nbytes
            return Block(batch.num_rows, batch)
        with user_errors("writing the rows to a temporary file", Path(tempfile.gettempdir())):
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # as long as this object
                weakref.finalize(self, self._file.close)
            content, start = batch.serialize(), self._file.tell()
            if self._file.write(content) < content.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Block(batch.num_rows, None, self, start, content.size, batch.schema)

    def read(self, start: int, size: int) -> bytes:
        """So many bytes of the file. A process and its forks share no place in it."""
        assert self._file is not None
        return os.pread(self._file.fileno(), size, start)


class Block:
    """One record batch of a `Spool`."""

    def __init__(
        self,
        rows: int,
        batch: pa.RecordBatch | None,
        spool: Any = None,
        start: int = 0,
        size: int = 0,
        schema: Any = None,
    ) -> None:
        self.rows, self._batch = rows, batch
        self._spool, self._start, self._size, self._schema = spool, start, size, schema

    def batch(self) -> pa.RecordBatch:
        """The record batch, read from the file if it is there."""
        if self._batch is not None:
            return self._batch
        return pa.ipc.read_record_batch(pa.py_buffer(self._spool.read(self._start, self._size)), self._schema)


class Columns:
    """The rows of several blocks, by number."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)
        self.starts = np.cumsum([0, *(block.rows for block in self.blocks)])
        self._last: tuple[int, pa.RecordBatch] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def lists(self, numbers: np.ndarray, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Stream the values of the columns `names` of the rows `numbers` (n,), of which each block is read once at most
        where they ascend."""
        of = np.searchsorted(self.starts, numbers, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(of)) + 1).tolist(), len(numbers)]
        for start, end in zip(cuts, cuts[1:], strict=False):
            if start < end:
                number = int(of[start])
                chosen = self._batch(number).take(pa.array(numbers[start:end] - self.starts[number]))
                yield from zip(*(chosen.column(name).to_pylist() for name in names), strict=True)

    def _batch(self, number: int) -> pa.RecordBatch:
        if self._last is None or self._last[0] != number:
            self._last = number, self.blocks[number].batch()
        return self._last[1]


class RowStore(Sequence[FileRow]):
    """The rows of one file, in order. `texts` in each; `codes` (N,) int32 the number of each row's label in the order in which
    different ones came (`by_label`), or None where there are more than `MANY`."""

    def __init__(self, rows: Iterable[FileRow], spool: Spool | None = None) -> None:
        spool, pending, blocks = spool or Spool(), list[FileRow](), list[Block]()
        known: dict[str | None, int] = {}
        codes, first, self.texts, held = list[np.ndarray](), list[FileRow](), 0, 0
        for row in rows:
            pending.append(row)
            held += sum(map(len, row.texts))
            if len(known) <= MANY and row.label not in known:
                known[row.label] = len(known)
                first.append(row._replace(texts=()))
            if len(pending) == RECORDS or held > CHARACTERS:
                self._flush(pending, known, codes, blocks, spool)
                held = 0
        self._flush(pending, known, codes, blocks, spool)
        few = len(known) <= MANY
        self.codes = np.concatenate(codes) if few and codes else None
        self._first = first if few else None
        self.columns = Columns(blocks)

    def _flush(
        self,
        pending: list[FileRow],
        known: dict[str | None, int],
        codes: list[np.ndarray],
        blocks: list[Block],
        spool: Spool,
    ) -> None:
        if not pending:
            return
        self.texts = len(pending[0].texts)
        lines, texts, labels = zip(*pending, strict=True)
        if len(known) <= MANY:
            codes.append(np.fromiter((known[label] for label in labels), np.int32, len(labels)))
        encoded = [None if label is None else label.encode("utf-8", "surrogatepass") for label in labels]
        columns = {"line": pa.array(lines, pa.int64()), "label": pa.array(encoded, pa.large_binary())}
        columns |= {
            f"text{i}": pa.array(column, pa.large_string()) for i, column in enumerate(zip(*texts, strict=True))
        }
        blocks.append(spool.put(pa.record_batch(columns)))
        pending.clear()

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return list(self._rows(np.arange(*number.indices(len(self)))))
        return next(self._rows(np.array([range(len(self))[number]])))

    def __iter__(self) -> Iterator[FileRow]:
        for start in range(0, len(self), RECORDS):
            yield from self._rows(np.arange(start, min(start + RECORDS, len(self))))

    def _rows(self, numbers: np.ndarray) -> Iterator[FileRow]:
        names = ["line", "label", *(f"text{i}" for i in range(self.texts))]
        for line, label, *texts in self.columns.lists(numbers, names):
            yield FileRow(line, tuple(texts), None if label is None else label.decode("utf-8", "surrogatepass"))

    def by_label(self) -> Sequence[FileRow]:
        """The first row of each label, in order; where there are more than `MANY` labels, all rows. They have no texts.

        A check of labels alone finds the same first fault in them as in all rows."""
        if self._first is not None:
            return self._first
        bare = copy.copy(self)
        bare.texts = 0
        return bare
