"""Teachers' answers by row, in files that many processes read and write at once, or in memory.

A folder of answers holds `answers.json` (what they are answers of), index files of one fixed-size entry a row, and data
files. Each process appends to a data file of its own, then writes the entry that points there. An entry carries the
checksum of its data, of itself and of the row's tokens: what is half-written, damaged, or of another row's content does
not verify and counts as missing. So no reader waits, no writer locks, and a kill at any moment loses at most the rows
that were being written. Files are read through memory maps whose pages are given back again and again, so a cache of any
size is open in flat memory. They are written with `pwrite`: a full disk is an error there, and a fatal signal in a map.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdlab.storage.files import atomic_write_json, locked, replacing, still_named

FACTS = "answers.json"
HEAD = 64  # bytes before the first entry of an index, before the first answer of a data file
ENTRY = np.dtype(
    [("offset", "<u8"), *((name, "<u4") for name in ("length", "segment", "run", "step", "data", "check"))]
)
_HEAD = struct.Struct("<8s16sIIQ")
_ENTRY = struct.Struct("<QIIIIII")
_MAGIC = b"kdlabans"
_INDEX, _DATA = 1, 2
_PAGES = 512 * 1024  # about what one read may map: the kernel maps the pages around as well
_GIVE_BACK = 64 * 2**20


class CachedRow(NamedTuple):
    """The bytes of one row's answer; which run asked for it first, and at which of its steps."""

    payload: np.ndarray
    run: int
    step: int


Trouble = Callable[[str], None]


class MemoryStore:
    """Answers of this process alone, gone when it ends."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[int, CachedRow]] = {}

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(len(kept.payload) for _, kept in self._kept.values())

    def read(
        self, epoch: int, rows: Sequence[int], contents: Sequence[int], trouble: Trouble
    ) -> list[CachedRow | None]:
        """As `DiskStore.read`."""
        found = [self._kept.get((epoch, row)) for row in rows]
        return [
            one[1] if one is not None and one[0] == content else None
            for one, content in zip(found, contents, strict=True)
        ]

    def write(
        self, epoch: int, rows: Sequence[int], contents: Sequence[int], payloads: Sequence[bytes], run: int, step: int
    ) -> None:
        """As `DiskStore.write`."""
        for row, content, payload in zip(rows, contents, payloads, strict=True):
            self._kept[epoch, row] = content, CachedRow(np.frombuffer(payload, np.uint8), run, step)


class DiskStore:
    """Answers about a data set of `rows` rows in `folder`, which `key` (16 hex digits of `facts`) names.

    An epoch is any whole number; each has an index of its own. `about`: whose answers to what, in words for people.
    """

    def __init__(
        self, folder: Path, key: str, rows: int, facts: Mapping[str, Any], about: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.key, self.rows, self.facts = folder, key.encode(), rows, facts
        self.about = dict(about or {})
        self._held: int | None = None  # descriptor of the facts, with a shared lock: the answers are in use
        self._index: dict[int, tuple[mmap.mmap, np.ndarray, int]] = {}
        self._maps: dict[int, tuple[mmap.mmap, np.ndarray]] = {}
        self._bad: set[int] = set()
        self._own: tuple[int, int, int] | None = None  # descriptor, number and length of this process's data file
        self._touched = 0

    @property
    def size(self) -> int:
        """Bytes of the folder's files."""
        total = 0
        with suppress(OSError):
            for path in os.scandir(self.folder):
                with suppress(OSError):
                    total += path.stat().st_size
        return total

    def open(self, trouble: Trouble) -> None:
        """Make the folder, or see that it is what it should be: `trouble` is told one line of what is not. OSError.

        Until `close`, or the end of the process, it is `in_use`.
        """
        while self._held is None:  # again, where it was removed in between
            self._settle(trouble)
            self._hold()

    def _hold(self) -> None:
        path = self.folder / FACTS
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            with suppress(OSError):  # no locks there: then its age alone protects it
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for who removes it
            if not still_named(descriptor, path):
                os.close(descriptor)
                return
            self._held = descriptor
            with suppress(OSError):  # a shared store may be read-only
                os.utime(path)

    def _settle(self, trouble: Trouble) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / FACTS
        try:
            found = json.loads(path.read_bytes())
            if found["key"].encode() == self.key and found["rows"] == self.rows:
                return
            trouble(f"{path} belongs to other answers (key {found['key']}, {found['rows']} rows)")
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            trouble(f"{path} is not what was written")
        facts = {"key": self.key.decode(), "rows": self.rows, "facts": dict(self.facts), "about": self.about}
        atomic_write_json(path, facts)

    # ---- reading

    def read(
        self, epoch: int, rows: Sequence[int], contents: Sequence[int], trouble: Trouble
    ) -> list[CachedRow | None]:
        """What is kept of `rows`, whose tokens have the checksums `contents`; None where nothing (whole) is.

        `trouble` is told one line about each file or row that is damaged or of other data; it may raise.
        """
        index = self._opened(epoch, trouble)
        picked = index[np.asarray(rows, dtype=np.int64)]
        raw = picked.tobytes()
        found: list[CachedRow | None] = []
        for i, (offset, length, segment, run, step, data, check) in enumerate(picked.tolist()):
            kept = None
            if segment:
                start = i * ENTRY.itemsize
                if zlib.crc32(raw[start : start + ENTRY.itemsize - 4], contents[i]) != check:
                    trouble(f"the entry of row {rows[i]} in {self.folder} is damaged, or of other data")
                elif (payload := self._payload(segment, offset, length, trouble)) is not None:
                    if zlib.crc32(payload.data) == data:
                        kept = CachedRow(payload, run, step)
                    else:
                        trouble(f"the answer to row {rows[i]} in {self.folder} is damaged: its checksum differs")
            found.append(kept)
        return found

    def _opened(self, epoch: int, trouble: Trouble) -> np.ndarray:
        if epoch in self._index:
            return self._index[epoch][1]
        path = self.folder / ("rows.index" if epoch < 0 else f"epoch-{epoch}.index")
        size = HEAD + self.rows * ENTRY.itemsize
        while True:
            if not path.exists():
                self._new_index(path, size)
            descriptor = os.open(path, os.O_RDWR)
            fault = self._fault(descriptor, _INDEX, size)
            if fault is None:
                break
            os.close(descriptor)
            trouble(f"{path} {fault}")
            self._new_index(path, size, anew=True)
        mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        entries = np.frombuffer(mapped, ENTRY, offset=HEAD)
        self._index[epoch] = mapped, entries, descriptor
        return entries

    def _new_index(self, path: Path, size: int, anew: bool = False) -> None:
        """An index without entries under `path`, whole or not at all; one that another process has just made stays."""
        with locked(path.with_name(f".{path.name}.lock")):
            if path.exists() and not anew:
                return
            with replacing(path) as (writer, _):
                # all of it now: a hole would be filled when it is read, and a full disk is fatal there
                _reserve(writer.fileno(), size)
                writer.write(self._head(_INDEX))

    def _head(self, kind: int) -> bytes:
        return _HEAD.pack(_MAGIC, self.key, 1, kind, self.rows).ljust(HEAD, b"\0")

    def _fault(self, descriptor: int, kind: int, least: int) -> str | None:
        size, head = os.fstat(descriptor).st_size, os.pread(descriptor, HEAD, 0)
        if head != self._head(kind):
            return "belongs to other answers" if head[:8] == _MAGIC else "is no file of answers"
        return None if size >= least else f"is truncated: {size} of {least} bytes"

    def _payload(self, segment: int, offset: int, length: int, trouble: Trouble) -> np.ndarray | None:
        """The bytes that an entry points to; None where they are not there."""
        if segment in self._bad:
            return None
        known = self._maps.get(segment)
        if known is None or offset + length > len(known[1]):
            known = self._mapped(segment, offset + length, trouble)
            if known is None:
                return None
        self._touched += max(length, _PAGES)
        if self._touched > _GIVE_BACK:
            self._touched = 0
            for mapped, *_ in (*self._index.values(), *self._maps.values()):
                mapped.madvise(mmap.MADV_DONTNEED)  # of a file: they come back when they are read
        return known[1][offset : offset + length]

    def _mapped(self, segment: int, least: int, trouble: Trouble) -> tuple[mmap.mmap, np.ndarray] | None:
        path = self._data_file(segment)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            fault = "is missing"
        else:
            try:
                fault = self._fault(descriptor, _DATA, least)
                if fault is None:
                    mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
                    mapped.madvise(mmap.MADV_RANDOM)
                    self._maps[segment] = mapped, np.frombuffer(mapped, np.uint8)
                    return self._maps[segment]
            finally:
                os.close(descriptor)
        if fault.startswith("is truncated"):  # what is left of it may be good
            fault = f"{fault} that an entry counts on"
        else:
            self._bad.add(segment)
        trouble(f"{path} {fault}")
        return None

    def _data_file(self, segment: int) -> Path:
        return self.folder / f"{segment:06}.data"

    # ---- writing

    def write(
        self, epoch: int, rows: Sequence[int], contents: Sequence[int], payloads: Sequence[bytes], run: int, step: int
    ) -> None:
        """Keep answers to rows that `read` was asked about. OSError (a full disk, say) leaves what was there as it was."""
        descriptor, segment, start = self._own or self._new_data()
        self._own = descriptor, segment, start
        data = b"".join(payloads)
        try:
            _write_all(descriptor, data, start)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, start)
            raise
        self._own = descriptor, segment, start + len(data)
        index, offset = self._index[epoch][2], start
        for row, content, payload in zip(rows, contents, payloads, strict=True):
            fields = (offset, len(payload), segment, run, step, zlib.crc32(payload))
            check = zlib.crc32(_ENTRY.pack(*fields, 0)[:-4], content)
            _write_all(index, _ENTRY.pack(*fields, check), HEAD + row * ENTRY.itemsize)
            offset += len(payload)

    def _new_data(self) -> tuple[int, int, int]:
        taken = [int(path.stem) for path in self.folder.glob("[0-9]*.data") if path.stem.isdigit()]
        segment = max(taken, default=0)
        while True:
            segment += 1
            try:
                descriptor = os.open(self._data_file(segment), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:  # another process was faster
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
        """Let go of the descriptors; maps go when nothing reads them any more."""
        own = [self._own[0]] if self._own else []
        held = [] if self._held is None else [self._held]
        for descriptor in [one[2] for one in self._index.values()] + own + held:
            os.close(descriptor)
        self._index, self._maps, self._own, self._held = {}, {}, None, None

    # ---- keeping house

    def filled(self) -> Iterator[tuple[str, np.ndarray | str]]:
        """Each index by name: the entries (n,) of the rows that are there, or what is wrong with the file."""
        size = HEAD + self.rows * ENTRY.itemsize
        for path in sorted(self.folder.glob("*.index")):
            with open(path, "rb", buffering=0) as file:
                fault = self._fault(file.fileno(), _INDEX, size)
                entries = np.fromfile(file, ENTRY, self.rows, offset=HEAD) if fault is None else None
            yield path.name, fault or entries[entries["segment"] > 0]  # pyright: ignore[reportOptionalSubscript]

    def damaged(self) -> Iterator[str]:
        """A line for each index or row that cannot be used, after every byte that an entry counts on was read.

        Whose tokens an answer is about is known to who asks alone, and checked then.
        """
        said: list[str] = []
        for name, entries in self.filled():
            if isinstance(entries, str):
                yield f"{name} {entries}"
                continue
            for entry in np.sort(entries, order=("segment", "offset")).tolist():
                offset, length, segment, _, _, data, _ = entry
                payload = self._payload(segment, offset, length, said.append)
                if payload is None:
                    yield said[-1]
                elif zlib.crc32(payload.data) != data:
                    yield f"an answer in {self._data_file(segment).name}, at byte {offset}: its checksum differs"


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        done = os.pwrite(descriptor, view, offset)
        if done == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view, offset = view[done:], offset + done


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for start in range(0, size, 2**20):
        _write_all(descriptor, bytes(min(2**20, size - start)), start)
