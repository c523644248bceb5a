"""An Arrow file of a prepared folder, memory-mapped, whose pages this process can let go of."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

T = TypeVar("T")
PASSED = 100  # chunks that are gone through before their pages are given back: 20 MB of short rows


class MappedTable:
    """The table of an Arrow stream `file`, without a copy of it: `data`, with columns in chunks.

    Pages that were read count as memory of the process, though the system may take them back at any time. `release` gives them back, so
    that reading all rows in turn holds as little as reading some.
    """

    def __init__(self, file: Path) -> None:
        self._path = Path(file)
        with open(file, "rb") as opened:
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        stream = pa.ipc.open_stream(pa.py_buffer(self._map))
        self.data = pa.Table.from_batches(self.passing(stream), stream.schema)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path}  # a loader process maps the file again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_path"])

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return self.data.column_names

    def column(self, name: str, kind: type[np.generic] | None = None) -> np.ndarray:
        """A copy (rows,) of a column of numbers, as `kind` (None: as it is)."""
        column = self.data.column(name)
        found = np.empty(len(column), kind or column.type.to_pandas_dtype())
        start = 0
        for chunk in self.passing(column.chunks):
            found[start : start + len(chunk)] = chunk.to_numpy()
            start += len(chunk)
        return found

    def passing(self, chunks: Iterable[T]) -> Iterator[T]:
        """Stream the chunks of a column, or the record batches; the pages of those that have passed are given back."""
        for number, chunk in enumerate(chunks, 1):
            yield chunk
            if number % PASSED == 0:
                self.release()
        self.release()

    def release(self) -> None:
        """Give back the pages that were read; they are read again from the file, or the system's cache of it, when needed."""
        self._map.madvise(mmap.MADV_DONTNEED)
