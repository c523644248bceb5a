"""Caveats on held-out splits: rows that are in train too, and rows without labels; counted by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path

from kdlab.data.tasks import dataset, split_faults
from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.testing.tiny import tiny_tokenizer
from kdlab.types import TaskShape

STATS = {"train": {"rows": 400}, "dev": {"rows": 200}, "test": {"rows": 100, "hidden": 0}}


def test_more_than_a_hundredth_of_a_split_in_train_is_a_caveat():
    assert split_faults.found(STATS, {"dev": 2, "test": 1}) == []
    (caveat,) = split_faults.found(STATS, {"dev": 3, "test": 1})
    assert caveat.kind == "rows_in_train"
    assert caveat.text.startswith("3 of 200 rows of dev have the same text as a training row")
    (both,) = split_faults.found(STATS, {"dev": 3, "test": 2})
    assert both.text.startswith("3 of 200 rows of dev and 2 of 100 rows of test have the same text")


def test_a_test_set_with_some_labels_is_not_scored_and_one_without_any_is_no_fault():
    found = {
        hidden: split_faults.found({**STATS, "test": {"rows": 100, "hidden": hidden}}, {}) for hidden in (0, 40, 100)
    }
    assert found[0] == found[100] == []
    (caveat,) = found[40]
    assert (caveat.kind, caveat.text) == ("labels_missing", "test is not scored: 40 of its 100 rows have no label")


def test_rows_in_train_are_counted_by_their_texts(tmp_path: Path):
    rows = {"train": ["ba ke", "lo mi", "nu ra"], "dev": ["Lo  mi", "se ti", "ba ke"], "test": ["nu ra se"]}
    splits = {name: [LabelledRow((text,), i % 2) for i, text in enumerate(texts)] for name, texts in rows.items()}
    data = TaskData(TaskShape(1, ("no", "yes"), ("accuracy",)), splits, [])
    dataset.prepare(data, tiny_tokenizer(), tmp_path, max_length=16)
    counts = dataset.rows_in_train(tmp_path)
    assert counts == {"dev": 2, "test": 0}  # by their words, whatever their case and spaces
    (caveat,) = split_faults.found(dataset.read_stats(tmp_path), counts)
    assert caveat.text.startswith("2 of 3 rows of dev have")


def test_rows_in_train_of_many_rows_are_those_of_a_set(tmp_path: Path):
    rng = random.Random(0)
    texts = {name: [f"ba{rng.randrange(900)}" for _ in range(count)] for name, count in (("train", 700), ("dev", 300))}
    splits = {name: [LabelledRow((text,), i % 2) for i, text in enumerate(rows)] for name, rows in texts.items()}
    dataset.prepare(
        TaskData(TaskShape(1, ("no", "yes"), ("accuracy",)), splits, []), tiny_tokenizer(), tmp_path, max_length=16
    )
    wanted = sum(text in set(texts["train"]) for text in texts["dev"])
    assert 0 < wanted < 300 and dataset.rows_in_train(tmp_path) == {"dev": wanted}
    stats = dataset.read_stats(tmp_path)
    assert stats["dev"].pop("in_train") == wanted and "in_train" not in stats["train"]
    (tmp_path / "stats.json").write_text(json.dumps(stats))  # as an older kdlab wrote them
    assert dataset.rows_in_train(tmp_path) == {"dev": wanted}
