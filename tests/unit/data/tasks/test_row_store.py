"""Rows in columns: what goes in comes out, from memory and from the temporary file, and prepares to the same bytes."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kdlab.data.tasks import row_store
from kdlab.data.tasks.dataset import prepare
from kdlab.data.tasks.files import FileRow
from kdlab.data.tasks.row_store import RowStore, Spool
from kdlab.data.tasks.rows import LabelledRow, LabelledRows, TaskData, hold_out, isin, labelled, limited, relabelled
from kdlab.data.tasks.sources import TaskFolder
from kdlab.errors import UserError
from kdlab.testing.tiny import tiny_tokenizer
from kdlab.types import TaskShape

SHAPE = TaskShape(1, ("0", "1", "2"), ("accuracy",))
RNG = np.random.default_rng(0)


def words(rows: int, pair: bool = False) -> list[tuple[str, ...]]:
    texts = [
        " ".join(RNG.choice(["ba", "Ke", "löss", "ﬁ", "[SEP]", "zuzu."], RNG.integers(1, 9))) for _ in range(2 * rows)
    ]
    return list(zip(texts[:rows], texts[rows:], strict=True)) if pair else [(text,) for text in texts[:rows]]


@pytest.fixture(params=["memory", "file", "many labels"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(row_store, "RECORDS", 7)
    if request.param != "memory":
        monkeypatch.setattr(row_store, "IN_MEMORY", 400)  # the first batch or two; the others are in the file
    if request.param == "many labels":
        monkeypatch.setattr(row_store, "MANY", 2)
    return request.param


def test_rows_of_a_file_come_back(way: str) -> None:
    labels = ["a", None, "b ", "\ud800", "1"]
    rows = [FileRow(2 * i, texts, labels[i % 5]) for i, texts in enumerate(words(40, pair=True))]
    store = RowStore(iter(rows))
    assert len(store) == 40 and store.texts == 2 and list(store) == rows
    assert [store[i] for i in (0, 39, -1, 13)] == [rows[i] for i in (0, 39, -1, 13)] and store[5:20:3] == rows[5:20:3]
    assert list(store) == rows  # again, as nothing is used up
    first = [row._replace(texts=()) for row in rows]
    assert list(store.by_label()) == (first if way == "many labels" else first[:5])
    assert not RowStore([]) and list(RowStore([])) == []


def test_files_share_one_limit_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_store, "IN_MEMORY", 2_000)
    spool = Spool()
    stores = [RowStore([FileRow(i, ("x" * 1_500,), "a")], spool) for i in range(3)]
    assert [store.columns.blocks[0]._batch is None for store in stores] == [False, True, True]
    assert [row.line for store in stores for row in store] == [0, 1, 2]


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Full:
        def tell(self) -> int:
            return 0

        def write(self, content: Any) -> int:
            return 1

        def close(self) -> None:
            pass

    monkeypatch.setattr(row_store, "IN_MEMORY", 0)
    monkeypatch.setattr(row_store.tempfile, "TemporaryFile", lambda **_: Full())
    monkeypatch.setattr(row_store.tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=f"writing the rows to a temporary file failed in {tmp_path}: no space left"):
        RowStore([FileRow(1, ("a",), "b")])


def columns_of(rows: list[LabelledRow]) -> LabelledRows:
    store = RowStore(FileRow(i, row.texts, "x") for i, row in enumerate(rows))
    return LabelledRows(store.columns, store.texts, np.array([int(row.label or 0) for row in rows], np.int32))


def test_chosen_rows_are_those_of_a_list(way: str) -> None:
    rows = [LabelledRow(texts, i % 3) for i, texts in enumerate(words(60))]
    found = columns_of(rows)
    assert found == rows and rows == found and found != rows[1:] and found[3:9] == rows[3:9]
    for given, held in zip(hold_out(found, 0.3), hold_out(rows, 0.3), strict=True):
        assert given == held and isinstance(given, LabelledRows)
    data, of_list = (limited(TaskData(SHAPE, {"train": one}), 17) for one in (found, rows))
    assert data.splits["train"] == of_list.splits["train"] and data.notes == of_list.notes
    twice, numbered = found.take(np.arange(0, 60, 2)).take(np.array([1, 4, 29])), found.take(np.array([5, 6]), True)
    assert twice == [rows[2], rows[8], rows[58]]
    assert numbered == [rows[i]._replace(number=i) for i in (5, 6)] == list(numbered.take(np.arange(2)))
    for classes, hidden in (({2: 0, 0: 1}, False), ({0: 2, 1: 1, 2: 0}, True)):
        assert relabelled(found, classes, hidden) == relabelled(rows, classes, hidden)
    hidden = found.relabelled({1: 0, 2: 1})
    assert hidden == [row._replace(label={1: 0, 2: 1}.get(int(row.label or 0))) for row in rows]
    assert relabelled(hidden, {0: 5}, True) == [
        row._replace(label=None if row.label is None else 5) for row in hidden if row.label in (0, None)
    ]


def test_held_out_rows_are_those_with_the_smallest_hashes() -> None:
    """By the definition: of each text the smallest hash of its spellings, of these the smallest share."""

    def stable(*parts: str) -> int:
        text = "\x1f".join(f"str:{part}" for part in parts)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1

    def key(text: str) -> str:
        return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

    rows = [LabelledRow((f"{'TEXT' if i % 3 else 'text'}  {i % 25}",), 0) for i in range(90)]
    ranks = dict[str, int]()
    for row in rows:
        rank = stable("held out", *row.texts)
        ranks[key(row.texts[0])] = min(rank, ranks.get(key(row.texts[0]), rank))
    chosen = sorted(ranks, key=lambda text: ranks[text])[:5]
    assert hold_out(rows, 0.2)[1] == [row for row in rows if key(row.texts[0]) in chosen]


def test_isin_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdlab.data.tasks.rows.PART", 7)
    values = RNG.integers(-9, 9, 40)
    for wanted in (values[:5], np.zeros(0, np.int64), np.array([8, 8, -9])):
        assert np.array_equal(isin(values, wanted), np.isin(values, wanted))


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("regression", [False, True])
def test_a_folder_from_columns_is_that_of_a_list(tmp_path: Path, way: str, kind: str, regression: bool) -> None:
    """Every byte of a prepared folder, without dev rows, with teachers, over several record batches."""
    texts = words(50, pair=True)
    labels = [f"{RNG.random():.4f}" if regression else str(i % 3) for i in range(50)]
    (tmp_path / "rows").mkdir()
    file = tmp_path / "rows" / f"train.{kind}"
    if kind == "jsonl":
        found = ({"text1": a, "text2": b, "label": c, "by": "tim"} for (a, b), c in zip(texts, labels, strict=True))
        file.write_text("".join(json.dumps(row) + "\n" for row in found))
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [mark.join((*pair, label, "tim")) for pair, label in zip(texts, labels, strict=True)]
        file.write_text("\n".join([mark.join(("text1", "text2", "label", "by")), *lines]) + "\n")
    data = TaskFolder(str(tmp_path / "rows"), teacher="by").read()
    rows = [
        LabelledRow(pair, float(label) if regression else int(label), None, i, "tim")
        for i, (pair, label) in enumerate(zip(texts, labels, strict=True))
    ]
    train, dev = hold_out(rows, 0.1)
    train = [row._replace(number=None) for row in train]
    assert data.splits == {"train": train, "dev": dev} and isinstance(data.splits["train"], LabelledRows)
    for name, splits in (("columns", data.splits), ("lists", {"train": train, "dev": dev})):
        (tmp_path / name).mkdir()
        prepare(TaskData(data.shape, splits, data.notes), tiny_tokenizer(), tmp_path / name, max_length=16)
    files = [path.relative_to(tmp_path / "lists") for path in (tmp_path / "lists").rglob("*.*")]
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "columns" / name).read_bytes() == (tmp_path / "lists" / name).read_bytes(), name


def test_a_prepared_file_has_the_bytes_of_the_first_version(tmp_path: Path) -> None:
    """The Arrow file, written here by its definition: artifacts of earlier versions are used by their keys."""
    rows = [LabelledRow((text,), label) for text, label in (("ba ke", 1), ("zu", 0), ("ba.", None))]
    prepare(TaskData(TaskShape(1, ("a", "b"), ("accuracy",)), {"test": rows}), tiny_tokenizer(), tmp_path, max_length=8)
    kinds = {"input_ids": pa.list_(pa.int32()), "first": pa.int32()}
    kinds |= dict.fromkeys(("label", "row", "origin", "text", "number"), pa.int64())
    ids = [[2, *tiny_tokenizer().encode(row.texts[0], add_special_tokens=False), 3] for row in rows]
    keys = [hashlib.blake2b(f"str:text\x1fstr:{row.texts[0]}".encode(), digest_size=8).digest() for row in rows]
    columns = [ids, [len(row) for row in ids], [1, 0, -100], range(3), range(3)]
    columns += [[int.from_bytes(key, "little") >> 1 for key in keys], range(3)]
    schema = pa.schema(kinds)
    with pa.OSFile(str(tmp_path / "expected"), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)]
        stream.write_batch(pa.record_batch(arrays, schema=schema))
    assert (tmp_path / "test" / "data.arrow").read_bytes() == (tmp_path / "expected").read_bytes()
    stats = json.loads((tmp_path / "stats.json").read_text())["test"]
    assert (stats["rows"], stats["hidden"], stats["classes"]) == (3, 1, {"a": 1, "b": 1})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0.5", "1.5", "", "0.25"], "line 4: the label is hidden"),
        (["0.5", "inf", "1.25", ""], "line 3: the label 'inf' is no finite number"),
        (["0.5", "1.5", "1,25", "2"], "line 4: the label '1,25' has a decimal comma"),
        (["0.5", "1.5", "n/a", "2"], "line 4: the label 'n/a' stands among numbers"),
    ],
)
def test_the_first_fault_of_the_labels_is_named_however_many_there_are(tmp_path, way, labels, message) -> None:
    lines = [f"a{i}\t{label}" for i, label in enumerate(labels)]
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    with pytest.raises(UserError, match=f"train.tsv, {message}"):
        TaskFolder(str(tmp_path)).read()


def test_scores_are_parsed_for_each_row(way: str) -> None:
    rows = RowStore(FileRow(i, ("a",), label) for i, label in enumerate(["0.5", "nan", "2", "0.5", None]))
    found = labelled(Path("t.tsv"), rows, None, hidden_allowed=True)
    assert [row.label for row in found] == [0.5, None, 2.0, 0.5, None]
