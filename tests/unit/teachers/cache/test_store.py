"""The stores of answers by row: each row is whole or missing, after concurrent writes, kills and damage."""

from __future__ import annotations

import os
import resource
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdlab.errors import UserError
from kdlab.teachers.cache.disk_store import ENTRY, HEAD, DiskStore
from kdlab.teachers.cache.memory_store import MemoryStore
from tests.support.forks import forked

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
KEY, ROWS = "0123456789abcdef", 64


def payload(row: int, epoch: int = -1) -> bytes:
    return np.random.default_rng([row, epoch + 1]).bytes(20 + 7 * row)


def content(row: int) -> int:
    return zlib.crc32(b"tokens of %d" % row)


def put(store: DiskStore | MemoryStore, rows: list[int], epoch: int = -1, run: int = 1, step: int = 0) -> None:
    store.read(epoch, rows, [content(row) for row in rows], ignored)
    payloads = [payload(row, epoch) for row in rows]
    store.write(epoch, rows, [content(row) for row in rows], payloads, run, step)


def ignored(line: str) -> None:
    pass


def whole(store: DiskStore | MemoryStore, epoch: int = -1, report_fault: Callable[[str], None] = ignored) -> list[int]:
    """The rows that are there, each with its own bytes."""
    found = store.read(epoch, range(ROWS), [content(row) for row in range(ROWS)], report_fault)
    rows = [row for row, one in enumerate(found) if one is not None]
    for row in rows:
        one = found[row]
        assert one is not None and one.payload.tobytes() == payload(row, epoch), row
    return rows


def made(folder: Path, key: str = KEY, rows: int = ROWS) -> DiskStore:
    store = DiskStore(folder / "answers", key, rows, {"teacher": "t"})
    store.open(ignored)
    return store


def test_rows_carry_the_first_run_and_step_and_epochs_are_separate(tmp_path):
    for store in (made(tmp_path), MemoryStore()):
        assert whole(store) == []
        put(store, [3, 0, 63], run=7, step=5)
        put(store, [2], epoch=4)
        assert whole(store) == [0, 3, 63] and whole(store, 4) == [2]
        (kept,) = store.read(-1, [3], [content(3)], pytest.fail)
        assert kept is not None and (kept.run, kept.step) == (7, 5)
    assert whole(made(tmp_path)) == [0, 3, 63]


def test_a_row_of_other_tokens_is_not_answered(tmp_path):
    store, said = made(tmp_path), []
    put(store, [3])
    assert store.read(-1, [3], [content(4)], said.append) == [None]
    assert len(said) == 1 and "row 3" in said[0] and "other data" in said[0]


def test_a_reader_sees_what_others_write_meanwhile(tmp_path):
    reader, writer = made(tmp_path), made(tmp_path)
    assert whole(reader) == []
    for row in range(5):
        put(writer, [row])
        assert whole(reader) == list(range(row + 1))


def test_several_writers_at_once(tmp_path):
    """Each of four processes writes most rows, in an order of its own, while all read."""

    def write(number: int) -> None:
        store = made(tmp_path)
        for row in np.random.default_rng(number).permutation(ROWS)[:50].tolist():
            whole(store)
            put(store, [row], run=number)

    children = [forked(lambda number=number: write(number)) for number in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    expected = set().union(*(np.random.default_rng(n).permutation(ROWS)[:50].tolist() for n in range(4)))
    assert whole(made(tmp_path), report_fault=pytest.fail) == sorted(expected)
    assert len(list((tmp_path / "answers").glob("*.data"))) == 4


def test_a_writer_killed_at_every_write(tmp_path):
    """Half of the bytes of that write are there; no row is ever other than whole or missing."""
    point, counts = 0, []
    while True:
        folder = tmp_path / str(point)
        put(made(folder), [60])

        def killed(folder: Path = folder, point: int = point) -> None:
            real, calls = os.pwrite, 0

            def pwrite(descriptor: int, data: bytes, offset: int) -> int:
                nonlocal calls
                if calls == point:
                    real(descriptor, data[: len(data) // 2], offset)
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
                return real(descriptor, data, offset)

            os.pwrite = pwrite
            put(made(folder), [1, 2, 3], epoch=-1)

        status = os.waitpid(forked(killed), 0)[1]
        rows = whole(made(folder))
        counts.append(len(rows))
        assert 60 in rows and set(rows) <= {1, 2, 3, 60}
        put(made(folder), [1, 2, 3])
        assert whole(made(folder)) == [1, 2, 3, 60]
        if not os.WIFSIGNALED(status):
            break
        point += 1
    assert counts == [1, 1, 1, 2, 3, 4]  # the file's head, the answers, then an entry a row


def test_writers_killed_at_any_time(tmp_path):
    def write() -> None:
        store = made(tmp_path)
        for row in list(range(ROWS)) * 50:
            put(store, [row, (row + 1) % ROWS])

    for attempt in range(8):
        child = forked(write)
        until = time.monotonic() + 10
        while not list((tmp_path / "answers").glob(f"{attempt + 1:06}.data")) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.003 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole(made(tmp_path))
    assert whole(made(tmp_path))


@pytest.mark.parametrize("where", ["rows.index", "000001.data"])
def test_a_damaged_byte_is_never_read(tmp_path, where):
    put(made(tmp_path), [5, 6])
    path = tmp_path / "answers" / where
    good = path.read_bytes()
    used = range(HEAD + 5 * ENTRY.itemsize, HEAD + 7 * ENTRY.itemsize) if where == "rows.index" else range(len(good))
    for place in [*range(HEAD), *used][::3]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        said: list[str] = []
        rows = whole(made(tmp_path), report_fault=said.append)
        assert len(rows) < 2 or place < HEAD and where == "rows.index"
        assert said, f"byte {place} of {where}"
        path.write_bytes(good)


@pytest.mark.parametrize("where", ["rows.index", "000001.data"])
def test_a_truncated_file_is_named_and_filled_again(tmp_path, where):
    put(made(tmp_path), [5, 6])
    path = tmp_path / "answers" / where
    os.truncate(path, path.stat().st_size - 5)
    said: list[str] = []
    store = made(tmp_path)
    rows = whole(store, report_fault=said.append)
    assert rows == ([5] if where == "000001.data" else []) and str(path) in said[0] and "truncated" in said[0]
    put(store, [5, 6])
    assert whole(store) == whole(made(tmp_path)) == [5, 6]


def test_files_of_other_answers_are_named_and_not_used(tmp_path):
    put(made(tmp_path), [5, 6])
    said: list[str] = []
    other = DiskStore(tmp_path / "answers", KEY[::-1], ROWS, {})
    other.open(said.append)
    assert "belongs to other answers" in said[0] and KEY in said[0]
    assert whole(other, report_fault=said.append) == [] and "rows.index belongs to other answers" in said[1]
    (tmp_path / "answers" / "000001.data").unlink()
    (tmp_path / "answers" / "answers.json").write_text("{")
    store = DiskStore(tmp_path / "answers", KEY[::-1], ROWS, {})
    store.open(said.append)
    assert "is not what was written" in said[-1]


def test_a_data_file_that_is_gone_is_named(tmp_path):
    put(made(tmp_path), [5])
    (tmp_path / "answers" / "000001.data").unlink()
    said: list[str] = []
    assert whole(made(tmp_path), report_fault=said.append) == [] and "000001.data is missing" in said[0]


def full(folder: Path, first: list[int], second: list[int], limit: int) -> str:
    """The errno of a write in a process limited to files of `limit` bytes, which fails as on a full disk."""
    out = folder / "said"

    def work() -> None:
        store = made(folder)
        whole(store)
        put(store, first)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            put(store, second)
        except OSError as error:
            out.write_text(str(error.errno))
        assert whole(store) == first

    assert os.waitpid(forked(work), 0)[1] == 0
    return out.read_text()


def test_a_full_disk_is_an_error_and_what_was_there_stays(tmp_path):
    first = [1, 2]
    size = HEAD + sum(len(payload(row)) for row in first)
    assert full(tmp_path, first, [3, 4, 5], size + 30)
    assert whole(made(tmp_path), report_fault=pytest.fail) == first
    assert (tmp_path / "answers" / "000001.data").stat().st_size == size


def test_an_index_is_allocated_before_it_is_used(tmp_path):
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with pytest.raises(OSError):
            made(tmp_path, rows=1000).read(-1, [0], [0], ignored)

    assert os.waitpid(forked(work), 0)[1] == 0
    assert sorted(os.listdir(tmp_path / "answers")) == ["answers.json"]


def test_an_exception_of_the_fault_report_stops_the_reading(tmp_path):
    put(made(tmp_path), [5])
    path = tmp_path / "answers" / "000001.data"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    def refuse(line: str) -> None:
        raise UserError(line)

    with pytest.raises(UserError, match="row 5"):
        whole(made(tmp_path), report_fault=refuse)
