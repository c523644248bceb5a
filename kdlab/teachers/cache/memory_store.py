"""Teachers' answers by row in the memory of one process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdlab.teachers.cache.answer_store import CachedRow, FaultReport


class MemoryStore:
    """An `AnswerStore` in the memory of this process, lost when it ends."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], tuple[int, CachedRow]] = {}  # (epoch, row) -> checksum of its tokens, answer

    @property
    def size(self) -> int:
        """Bytes of all stored answers."""
        return sum(len(answer.payload) for _, answer in self._rows.values())

    def read(
        self, epoch: int, rows: Sequence[int], checksums: Sequence[int], report_fault: FaultReport
    ) -> list[CachedRow | None]:
        """Return the answers to `rows` (see `AnswerStore.read`); memory has no faults to report."""
        entries = [self._rows.get((epoch, row)) for row in rows]
        return [
            entry[1] if entry is not None and entry[0] == checksum else None
            for entry, checksum in zip(entries, checksums, strict=True)
        ]

    def write(
        self, epoch: int, rows: Sequence[int], checksums: Sequence[int], payloads: Sequence[bytes], run: int, step: int
    ) -> None:
        """Store answers to `rows` (see `AnswerStore.write`)."""
        for row, checksum, payload in zip(rows, checksums, payloads, strict=True):
            self._rows[epoch, row] = checksum, CachedRow(np.frombuffer(payload, np.uint8), run, step)
