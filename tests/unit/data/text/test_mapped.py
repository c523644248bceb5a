"""Memory-mapped tokens: every row as it was written, and pages that were read are given back."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdlab.data.text import corpus
from kdlab.data.text.mapped import MappedTable

ROWS, LENGTH = 20_000, 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared split of 8 MB: row i is i, i + 1, ... in record batches of 900 rows."""
    kinds = {"input_ids": pa.list_(pa.int32()), "label": pa.int64()}
    (tmp_path / "train").mkdir()
    with pa.ipc.new_stream(str(tmp_path / "train" / "data.arrow"), pa.schema(kinds)) as stream:
        for start in range(0, ROWS, 900):
            index = np.arange(start, min(start + 900, ROWS), dtype=np.int32)
            values = pa.array((index[:, None] + np.arange(LENGTH, dtype=np.int32)).ravel())
            lists = pa.ListArray.from_arrays(pa.array(np.arange(len(index) + 1, dtype=np.int32) * LENGTH), values)
            stream.write_batch(pa.record_batch([lists, pa.array(index.astype(np.int64))], schema=pa.schema(kinds)))
    return tmp_path


def resident(file: Path) -> float:
    """MB of `file` that are mapped into this process and in memory, by the kernel's table."""
    maps = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"{re.escape(str(file))}\n(?:\w+: .*\n)*?Rss: +(\d+) kB", maps)
    assert found, "the file is not mapped"
    return sum(map(int, found)) / 1024


def test_reading_all_rows_holds_few_of_their_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "RELEASED", 8)
    tokens, most = corpus.TokenizedText(corpus.mapped(folder, "train")), 0.0
    for number, row in enumerate(np.random.default_rng(0).permutation(ROWS)[:6_000].tolist()):
        ids = tokens[row]
        assert len(ids) == LENGTH and ids[0] == row and ids[-1] == row + LENGTH - 1
        most = max(most, resident(folder / "train" / "data.arrow")) if number % 500 == 7 else most
    assert 0 < most < 2  # of 8


def test_looking_for_equal_rows_holds_few_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "RELEASED", 8)
    tokens = corpus.TokenizedText(corpus.mapped(folder, "train"))
    assert tokens.equal_rows(np.array([7, 19_000])).tolist() == [7, 19_000]
    tokens[0]
    assert resident(folder / "train" / "data.arrow") < 1


def test_a_column_is_copied_and_its_pages_are_given_back(folder: Path) -> None:
    table: MappedTable = pickle.loads(pickle.dumps(corpus.mapped(folder, "train")))
    assert table.column_names == ["input_ids", "label"]
    found = table.column("label", np.int32)
    assert found.dtype == np.int32 and np.array_equal(found, np.arange(ROWS))
    assert table.column("label").dtype == np.int64
    assert resident(folder / "train" / "data.arrow") < 0.5
    found[0] = 5  # no view of the file
    assert table.column("label")[0] == 0


def test_equal_rows_have_all_tokens_in_common(tmp_path: Path) -> None:
    """Against a search by hand: rows that begin alike, are as long, or shorter than what is hashed."""
    rng = np.random.default_rng(0)
    begin = rng.integers(0, 9, 40).tolist()
    rows = [
        begin[: int(rng.integers(0, 40))] + rng.integers(0, 2, int(rng.integers(0, 3))).tolist() for _ in range(900)
    ]
    (tmp_path / "train").mkdir()
    schema = pa.schema({"input_ids": pa.list_(pa.int32())})
    with pa.ipc.new_stream(str(tmp_path / "train" / "data.arrow"), schema) as stream:
        for start in range(0, 900, 70):
            stream.write_batch(
                pa.record_batch([pa.array(rows[start : start + 70], pa.list_(pa.int32()))], schema=schema)
            )
    tokens = corpus.TokenizedText(corpus.mapped(tmp_path, "train"))
    for wanted in ([0], [3, 77, 899], [*range(0, 900, 50)]):
        by_hand = [i for i, row in enumerate(rows) if row in [rows[w] for w in wanted]]
        assert tokens.equal_rows(np.array(wanted)).tolist() == by_hand
    assert tokens.equal_rows(np.array([], dtype=np.int64)).tolist() == []
