"""The interface of a store of answers by row, which `DiskStore` and `MemoryStore` implement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

FaultReport = Callable[[str], None]  # receives one line about each fault; may raise to stop the reading


class CachedRow(NamedTuple):
    """The answer to one row: its bytes, and the run and micro-step that queried it first."""

    payload: np.ndarray
    run: int
    step: int


class AnswerStore(Protocol):
    """Answers by (epoch, row); any whole number is an epoch. Tokens of a row are compared by their checksum."""

    def read(
        self, epoch: int, rows: Sequence[int], checksums: Sequence[int], report_fault: FaultReport
    ) -> list[CachedRow | None]:
        """The answers to `rows`, whose tokens have `checksums`; None for each that is missing, damaged or of other tokens.

        `report_fault` receives one line for each file or row that is damaged or of other data.
        """
        ...

    def write(
        self, epoch: int, rows: Sequence[int], checksums: Sequence[int], payloads: Sequence[bytes], run: int, step: int
    ) -> None:
        """Store the answers `payloads` to `rows`, after `read` was called for that epoch.

        OSError (a full disk, for example) leaves the stored answers as they were.
        """
        ...
