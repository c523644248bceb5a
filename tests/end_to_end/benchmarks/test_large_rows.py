"""The benchmark of many rows at a tiny size: the parts that one process can measure, for each format of files."""

from __future__ import annotations

import json

import pytest

from benchmarks import large_rows
from kdlab.data.tasks import dataset
from kdlab.testing.tiny import write_teacher


@pytest.mark.parametrize(("kind", "held_out"), [("tsv", False), ("csv", True), ("jsonl", False)])
def test_rows_are_made_prepared_and_opened(tmp_path, capsys, monkeypatch, kind, held_out):
    monkeypatch.setattr(large_rows, "CHUNK", 70)  # so that there are several
    (tmp_path / "rows").mkdir()
    large_rows.make_rows(tmp_path / "rows", 200, kind, held_out)
    write_teacher(tmp_path / "teacher")
    large_rows.prepare(tmp_path)
    large_rows.open_prepared(tmp_path)
    stats = dataset.read_stats(tmp_path / "prepared")
    assert {split: one["rows"] for split, one in stats.items()} == (
        {"train": 180, "dev": 20} if held_out else {"train": 200, "dev": 60}
    )
    lines = [json.loads(line.removeprefix("measured ")) for line in capsys.readouterr().out.splitlines()]
    assert [one["part"] for one in lines][:3] == ["check and fingerprint", "read", "tokenise"] and len(lines) == 8
    assert all(0 < one["before"] < 1.1 * one["peak"] and one["cpu"] >= 0 for one in lines)  # the kernel counts in steps
