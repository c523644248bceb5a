"""Teachers' answers by row, in files that many processes read and write at once.

A folder of answers holds `answers.json` (the facts that name the answers), index files of one fixed-size entry per row,
and data files. Each process appends to a data file of its own, then writes the entry that points there. An entry carries
the checksum of its data, of itself and of the row's tokens: an entry that is half-written, damaged or of another row's
tokens does not verify and counts as missing. So no reader waits, no writer locks, and a kill at any moment loses at most
the rows that were being written. Files are read through memory maps whose pages are released regularly, so a cache of any
size needs constant memory. They are written with `pwrite`: a full disk raises OSError there, but is a fatal signal in a
map.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kdlab.storage.files import atomic_write_json, locked, replacing, still_named
from kdlab.teachers.cache.answer_store import CachedRow, FaultReport

FACTS = "answers.json"
HEAD = 64  # bytes before the first entry of an index, before the first answer of a data file
ENTRY = np.dtype(
    [("offset", "<u8"), *((name, "<u4") for name in ("length", "segment", "run", "step", "data", "check"))]
)
_HEAD = struct.Struct("<8s16sIIQ")
_ENTRY = struct.Struct("<QIIIIII")
_MAGIC = b"kdlabans"
_INDEX, _DATA = 1, 2
_PAGES = 512 * 1024  # bytes that one read may map: the kernel maps the surrounding pages as well
_RELEASE_AFTER = 64 * 2**20  # bytes read through maps after which their pages are released


class DiskStore:
    """An `AnswerStore` of a data set of `rows` rows in `folder`, named by `key` (16 hex digits of the hash of `facts`).

    Each epoch has its own index. `about`: names of the teacher and the data set, for messages.
    """

    def __init__(
        self, folder: Path, key: str, rows: int, facts: Mapping[str, Any], about: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.key, self.rows, self.facts = folder, key.encode(), rows, facts
        self.about = dict(about or {})
        self._facts_lock: int | None = None  # descriptor of the facts, with a shared lock while the answers are in use
        self._index: dict[int, tuple[mmap.mmap, np.ndarray, int]] = {}  # epoch -> map, entries (rows,), descriptor
        self._maps: dict[int, tuple[mmap.mmap, np.ndarray]] = {}  # data file's number -> map, bytes
        self._unusable: set[int] = set()  # numbers of data files that are missing or of other answers
        self._output: tuple[int, int, int] | None = None  # descriptor, number and length of this process's data file
        self._bytes_read = 0  # through maps, since their pages were last released

    @property
    def size(self) -> int:
        """Bytes of the folder's files."""
        total = 0
        with suppress(OSError):
            for path in os.scandir(self.folder):
                with suppress(OSError):
                    total += path.stat().st_size
        return total

    def open(self, report_fault: FaultReport) -> None:
        """Create the folder or verify its facts, and lock it until `close` or the end of the process; OSError.

        Facts of other answers are reported and replaced. A locked folder is never pruned.
        """
        while self._facts_lock is None:  # repeat if the folder was removed before the lock was taken
            self._verify_facts(report_fault)
            self._lock_facts()

    def _lock_facts(self) -> None:
        path = self.folder / FACTS
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: the folder's age alone protects it from pruning
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a process that removes the folder
            if not still_named(descriptor, path):
                os.close(descriptor)
                return
            self._facts_lock = descriptor
            with suppress(OSError):  # a shared store may be read-only
                os.utime(path)

    def _verify_facts(self, report_fault: FaultReport) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / FACTS
        try:
            stored = json.loads(path.read_bytes())
            if stored["key"].encode() == self.key and stored["rows"] == self.rows:
                return
            report_fault(f"{path} belongs to other answers (key {stored['key']}, {stored['rows']} rows)")
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            report_fault(f"{path} is not what was written")
        facts = {"key": self.key.decode(), "rows": self.rows, "facts": dict(self.facts), "about": self.about}
        atomic_write_json(path, facts)

    # ---- reading

    def read(
        self, epoch: int, rows: Sequence[int], checksums: Sequence[int], report_fault: FaultReport
    ) -> list[CachedRow | None]:
        """Return the answers to `rows` (see `AnswerStore.read`). OSError if an index cannot be opened or created."""
        entries = self._open_index(epoch, report_fault)[np.asarray(rows, dtype=np.int64)]
        raw = entries.tobytes()
        answers: list[CachedRow | None] = []
        for i, (offset, length, segment, run, step, data, check) in enumerate(entries.tolist()):
            answer = None
            if segment:
                start = i * ENTRY.itemsize
                if zlib.crc32(raw[start : start + ENTRY.itemsize - 4], checksums[i]) != check:
                    report_fault(f"the entry of row {rows[i]} in {self.folder} is damaged, or of other data")
                elif (payload := self._payload(segment, offset, length, report_fault)) is not None:
                    if zlib.crc32(payload.data) == data:
                        answer = CachedRow(payload, run, step)
                    else:
                        report_fault(f"the answer to row {rows[i]} in {self.folder} is damaged: its checksum differs")
            answers.append(answer)
        return answers

    def _open_index(self, epoch: int, report_fault: FaultReport) -> np.ndarray:
        """The mapped entries (rows,) of an epoch's index, which is created if it is missing, replaced if it is damaged."""
        if epoch in self._index:
            return self._index[epoch][1]
        path = self.folder / ("rows.index" if epoch < 0 else f"epoch-{epoch}.index")
        size = HEAD + self.rows * ENTRY.itemsize
        while True:
            if not path.exists():
                self._new_index(path, size)
            descriptor = os.open(path, os.O_RDWR)
            fault = self._file_fault(descriptor, _INDEX, size)
            if fault is None:
                break
            os.close(descriptor)
            report_fault(f"{path} {fault}")
            self._new_index(path, size, replace=True)
        mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        entries = np.frombuffer(mapped, ENTRY, offset=HEAD)
        self._index[epoch] = mapped, entries, descriptor
        return entries

    def _new_index(self, path: Path, size: int, replace: bool = False) -> None:
        """Create an empty index at `path` atomically; one that another process has just made stays, unless `replace`."""
        with locked(path.with_name(f".{path.name}.lock")):
            if path.exists() and not replace:
                return
            with replacing(path) as (writer, _):
                # allocate all blocks now: a hole is allocated when a map reads it, and a full disk is fatal there
                _reserve(writer.fileno(), size)
                writer.write(self._head(_INDEX))

    def _head(self, kind: int) -> bytes:
        return _HEAD.pack(_MAGIC, self.key, 1, kind, self.rows).ljust(HEAD, b"\0")

    def _file_fault(self, descriptor: int, kind: int, least: int) -> str | None:
        """The fault of an index or data file of at least `least` bytes; None if its head and length are right."""
        size, head = os.fstat(descriptor).st_size, os.pread(descriptor, HEAD, 0)
        if head != self._head(kind):
            return "belongs to other answers" if head[:8] == _MAGIC else "is no file of answers"
        return None if size >= least else f"is truncated: {size} of {least} bytes"

    def _payload(self, segment: int, offset: int, length: int, report_fault: FaultReport) -> np.ndarray | None:
        """The bytes that an entry points to; None if they are missing."""
        if segment in self._unusable:
            return None
        data = self._maps.get(segment)
        if data is None or offset + length > len(data[1]):
            data = self._map_data(segment, offset + length, report_fault)
            if data is None:
                return None
        self._bytes_read += max(length, _PAGES)
        if self._bytes_read > _RELEASE_AFTER:
            self._bytes_read = 0
            for mapped, *_ in (*self._index.values(), *self._maps.values()):
                mapped.madvise(mmap.MADV_DONTNEED)  # pages of a file are read again when needed
        return data[1][offset : offset + length]

    def _map_data(self, segment: int, least: int, report_fault: FaultReport) -> tuple[mmap.mmap, np.ndarray] | None:
        """Map a data file of at least `least` bytes; None, with a report, if it is missing, too short or of other answers."""
        path = self._data_file(segment)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            fault = "is missing"
        else:
            try:
                fault = self._file_fault(descriptor, _DATA, least)
                if fault is None:
                    mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
                    mapped.madvise(mmap.MADV_RANDOM)
                    self._maps[segment] = mapped, np.frombuffer(mapped, np.uint8)
                    return self._maps[segment]
            finally:
                os.close(descriptor)
        if fault.startswith("is truncated"):  # its first rows may be whole
            fault = f"{fault} that an entry refers to"
        else:
            self._unusable.add(segment)
        report_fault(f"{path} {fault}")
        return None

    def _data_file(self, segment: int) -> Path:
        return self.folder / f"{segment:06}.data"

    # ---- writing

    def write(
        self, epoch: int, rows: Sequence[int], checksums: Sequence[int], payloads: Sequence[bytes], run: int, step: int
    ) -> None:
        """Append answers to this process's data file, then write their entries (see `AnswerStore.write`)."""
        descriptor, segment, start = self._output or self._new_data()
        self._output = descriptor, segment, start
        data = b"".join(payloads)
        try:
            _write_all(descriptor, data, start)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, start)
            raise
        self._output = descriptor, segment, start + len(data)
        index, offset = self._index[epoch][2], start
        for row, checksum, payload in zip(rows, checksums, payloads, strict=True):
            fields = (offset, len(payload), segment, run, step, zlib.crc32(payload))
            check = zlib.crc32(_ENTRY.pack(*fields, 0)[:-4], checksum)
            _write_all(index, _ENTRY.pack(*fields, check), HEAD + row * ENTRY.itemsize)
            offset += len(payload)

    def _new_data(self) -> tuple[int, int, int]:
        """Create this process's data file; returns its descriptor, number and length."""
        taken = [int(path.stem) for path in self.folder.glob("[0-9]*.data") if path.stem.isdigit()]
        segment = max(taken, default=0)
        while True:
            segment += 1
            try:
                descriptor = os.open(self._data_file(segment), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:  # another process took that number
                continue
            try:
                _write_all(descriptor, self._head(_DATA), 0)
            except OSError:
                os.close(descriptor)
                with suppress(OSError):
                    os.unlink(self._data_file(segment))
                raise
            return descriptor, segment, HEAD

    def close(self) -> None:
        """Close the descriptors and release the lock; a map is freed when no array refers to it."""
        output = [self._output[0]] if self._output else []
        lock = [] if self._facts_lock is None else [self._facts_lock]
        for descriptor in [descriptor for *_, descriptor in self._index.values()] + output + lock:
            os.close(descriptor)
        self._index, self._maps, self._output, self._facts_lock = {}, {}, None, None

    # ---- inspection

    def indexes(self) -> Iterator[tuple[str, np.ndarray | str]]:
        """Each index file's name with the entries (n,) of its stored rows, or with the fault of the file."""
        size = HEAD + self.rows * ENTRY.itemsize
        for path in sorted(self.folder.glob("*.index")):
            with open(path, "rb", buffering=0) as file:
                fault = self._file_fault(file.fileno(), _INDEX, size)
                entries = np.fromfile(file, ENTRY, self.rows, offset=HEAD) if fault is None else None
            yield path.name, fault or entries[entries["segment"] > 0]  # pyright: ignore[reportOptionalSubscript]

    def faults(self) -> Iterator[str]:
        """Read every byte that an entry refers to; a line for each index or row that cannot be used.

        Tokens are not compared: their checksums are known to a query only.
        """
        reports: list[str] = []
        for name, entries in self.indexes():
            if isinstance(entries, str):
                yield f"{name} {entries}"
                continue
            for entry in np.sort(entries, order=("segment", "offset")).tolist():
                offset, length, segment, _, _, data, _ = entry
                payload = self._payload(segment, offset, length, reports.append)
                if payload is None:
                    yield reports[-1]
                elif zlib.crc32(payload.data) != data:
                    yield f"an answer in {self._data_file(segment).name}, at byte {offset}: its checksum differs"


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view, offset = view[written:], offset + written


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for start in range(0, size, 2**20):
        _write_all(descriptor, bytes(min(2**20, size - start)), start)
