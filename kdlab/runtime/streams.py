"""Standard output and error that outlive their reader: printing nowhere is no reason to stop a run.

`kdlab.run ... | head -3` closes the pipe after three lines, a terminal disappears with its connection, the disk of a log
fills up. What cannot be printed then is lost, and nothing else: results are files.
"""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import Any


class _Outliving(io.FileIO):
    """A raw stream to a descriptor that drops what cannot be written."""

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Make this process's own standard output and error drop what cannot be written. Streams put in their place stay."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        own = isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__")
        if own and isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
            setattr(sys, name, _outliving(stream))


def _outliving(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    with suppress(OSError):
        stream.flush()
    raw = _Outliving(stream.fileno(), "wb", closefd=False)
    unbuffered = isinstance(stream.buffer, io.FileIO)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # pyright: ignore[reportArgumentType]
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
