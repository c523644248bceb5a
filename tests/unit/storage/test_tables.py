"""kdlab.storage.tables: rows that other programs read while the table grows."""

from __future__ import annotations

import csv
import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdlab.errors import UserError
from kdlab.storage.tables import Table, read

COLUMNS = ["step", "arm", "reward"]


def test_header_at_once_and_each_row_readable_after_write(tmp_path: Path) -> None:
    table = Table(tmp_path / "run" / "selector.csv", COLUMNS)
    assert table.path.read_bytes() == b"step,arm,reward\n"
    table.write({"step": 0, "arm": "entropy", "reward": 0.1})
    assert table.path.read_bytes() == b"step,arm,reward\n0,entropy,0.1\n"
    table.write({"reward": None, "step": 1})
    assert table.path.read_bytes().endswith(b"\n1,,\n")
    with open(table.path, newline="") as file:
        assert list(csv.DictReader(file)) == read(table.path)


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-310, -0.0, 1 / 3, 12345678901234567.0, math.inf, -math.inf, math.nan])
def test_floats_round_trip(tmp_path: Path, value: float) -> None:
    table = Table(tmp_path / "a.csv", ["x"])
    for cell in (value, np.float64(value), torch.tensor(value, dtype=torch.float64)):
        table.write({"x": cell})
    for row in read(table.path):
        assert np.float64(row["x"]).tobytes() == np.float64(value).tobytes()
    np.testing.assert_array_equal(np.loadtxt(table.path, skiprows=1), [value] * 3)


def test_awkward_text_round_trips_and_line_breaks_are_refused(tmp_path: Path) -> None:
    table = Table(tmp_path / "a.csv", ["a, b", "c"])
    table.write({"a, b": 'say "x", y', "c": "ü"})
    assert read(table.path) == [{"a, b": 'say "x", y', "c": "ü"}]
    with pytest.raises(ValueError, match="one line"):
        table.write({"c": "x\ny"})
    assert len(read(table.path)) == 1


def test_unknown_columns_are_refused_with_the_nearest(tmp_path: Path) -> None:
    table = Table(tmp_path / "a.csv", COLUMNS)
    with pytest.raises(ValueError, match="no column 'rewards'.*reward"):
        table.write({"step": 1, "rewards": 2})
    assert read(table.path) == []


def test_an_existing_table_is_continued_and_a_torn_line_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    Table(path, COLUMNS).write({"step": 0, "arm": "margin", "reward": 1.0})
    whole = path.read_bytes()
    for torn in (b"1", b"1,mar", b"1,margin,0.12345"):
        path.write_bytes(whole + torn)
        assert [row["step"] for row in read(path)] == ["0"]
        Table(path, COLUMNS).write({"step": 1, "arm": "x", "reward": 2.0})
        assert path.read_bytes() == whole + b"1,x,2.0\n"


@pytest.mark.parametrize("begun", [b"", b"step,a", b"step,arm,reward"])
def test_a_torn_header_is_written_anew(tmp_path: Path, begun: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(begun)
    Table(path, COLUMNS)
    assert path.read_bytes() == b"step,arm,reward\n"


@pytest.mark.parametrize("other", [b"step,arm\n1,2\n", b"arm,step,reward\n", b"\x00\xff\x00", b"step,arm,reward,x\n"])
def test_other_columns_are_refused_and_kept(tmp_path: Path, other: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(other)
    with pytest.raises(UserError, match="expected 'step,arm,reward'"):
        Table(path, COLUMNS)
    assert path.read_bytes() == other


def test_rewind_keeps_earlier_rows_byte_for_byte(tmp_path: Path) -> None:
    table = Table(tmp_path / "a.csv", COLUMNS)
    for step in range(12):
        table.write({"step": step, "arm": "a,b", "reward": step / 7})
    lines = table.path.read_bytes().splitlines(keepends=True)
    with open(table.path, "ab") as file:
        file.write(b"\x00\x00\x00\n7,torn")
    table.rewind(5)
    assert table.path.read_bytes() == b"".join(lines[:6])
    table.write({"step": 5, "arm": "a,b", "reward": 5 / 7})
    assert table.path.read_bytes() == b"".join(lines[:7])
    table.rewind(0)
    assert table.path.read_bytes() == lines[0]
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path / "a.csv", COLUMNS)
    table.write({"step": 0, "arm": "a", "reward": 1.5})
    before, real, calls = table.path.read_bytes(), os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:3])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match="no space left"):
        table.write({"step": 1, "arm": "b", "reward": 2.5})
    assert table.path.read_bytes() == before


def test_a_table_that_vanished_is_an_error_not_a_headless_file(tmp_path: Path) -> None:
    table = Table(tmp_path / "a.csv", COLUMNS)
    table.path.unlink()
    for use in (lambda: table.write({"step": 1}), table.sync, lambda: table.rewind(1)):
        with pytest.raises(UserError, match=r"a\.csv"):
            use()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"no newline", b"\xff\xfe\n1\n", b"a,b\n1\n", b'a,b\n"1,2\n3\n'])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.csv"):
        read(path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "metrics.csv")


def test_long_last_lines_are_found(tmp_path: Path) -> None:
    table = Table(tmp_path / "a.csv", ["x"])
    table.write({"x": "y" * 10000})
    with open(table.path, "ab") as file:
        file.write(b"z" * 9000)
    assert [len(row["x"]) for row in read(table.path)] == [10000]
