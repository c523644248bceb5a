"""Read the records of an offline W&B run with wandb's own message format from its log (LevelDB's framing)."""

from __future__ import annotations

import contextlib
import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def whole(folder: Path, seconds: float = 120) -> list[Any]:
    """The records of the one run below `folder`, up to its end: W&B's service writes them after `finish` returned."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(AssertionError):
            found = list(records(folder))
            if found and found[-1].WhichOneof("record_type") in ("exit", "footer", "final"):
                return found
        time.sleep(0.05)
    raise AssertionError(f"the run in {folder} was not ended within {seconds} s")


def records(folder: Path) -> Iterator[Any]:
    """The records of the one run below `folder`, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, at, parts = file.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        crc, size, kind = struct.unpack("<IHB", data[at : at + HEADER])
        piece = data[at + HEADER : at + HEADER + size]
        assert crc == zlib.crc32(piece, zlib.crc32(bytes([kind]))), "the log is damaged"
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record
        at += HEADER + size


class Told:
    """`run` (its name, group, id), `config`, `history` (rows), `summary`, `axes` (series to its x axis)."""

    def __init__(self, folder: Path) -> None:
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.axes: dict[str, str] = {}
        self.run: Any = None
        for record in whole(folder):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                items = record.history.item
                self.history.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items})
            elif kind == "summary":
                for item in record.summary.update:
                    self.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            elif kind == "metric":
                self.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric

    def series(self, name: str) -> list[Any]:
        """The values of a series, in order."""
        return [row[name] for row in self.history if name in row]
