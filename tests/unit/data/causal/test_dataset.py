"""Prepared rows of causal language models: their labels beside transformers' loss, the split, what is dropped."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlab.data.causal import dataset
from kdlab.data.causal.datamodule import CausalDataModule
from kdlab.data.causal.dataset import TokenizedDocuments
from kdlab.data.causal.example import Example
from kdlab.errors import UserError
from kdlab.types import IGNORE
from tests.support.causal import END, characters, decoder


@dataclass
class Texts:
    texts: list[str]

    def documents(self) -> Iterator[str]:
        return iter(self.texts)

    def size(self) -> int:
        return sum(map(len, self.texts))


@dataclass
class Examples:
    rows: list[Example]

    def examples(self) -> Iterator[Example]:
        return iter(self.rows)

    def size(self) -> None:
        return None


TEXTS = ["".join(chr(97 + (i * 7 + j) % 26) for j in range(5 + i % 17)) for i in range(60)]


def prepared(folder: Path, source: Any = None, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    options = {"max_length": 32, "seed": 0, "heldout": 0.2, **options}
    dataset.prepare(source or Texts(TEXTS), characters(), folder, **options)
    return folder


def documents(folder: Path, split: str) -> list[tuple[int, ...]]:
    """The documents of all rows of a split, each with its tokens, by the numbers that the rows give them."""
    rows = TokenizedDocuments(folder, split)
    found = []
    for row in range(len(rows)):
        ids, labels, numbers = rows[row]
        for number in np.unique(numbers):
            own, targets = ids[numbers == number], labels[numbers == number]
            assert targets[-1] == IGNORE  # nothing is predicted across documents
            assert all(target in (IGNORE, after) for target, after in zip(targets[:-1], own[1:], strict=True))
            found.append(tuple(own.tolist()))
    return found


@pytest.mark.parametrize("pack", [True, False])
def test_every_document_is_in_one_row_of_one_split(tmp_path, pack):
    folder = prepared(tmp_path / "rows", pack=pack)
    expected = sorted((*characters()(text)["input_ids"], END) for text in TEXTS)
    assert sorted(documents(folder, "train") + documents(folder, "heldout")) == expected
    stats = dataset.read_stats(folder)
    assert stats.tokens == sum(map(len, expected)) and stats.pieces == stats.documents == len(TEXTS)
    assert stats.labels == stats.tokens - len(TEXTS) and stats.dropped == stats.cut == 0
    assert (stats.sequences < len(TEXTS)) is pack
    assert 0 < stats.heldout_sequences < stats.sequences


def test_labels_counted_by_token_are_those_of_the_training_rows(tmp_path):
    folder = prepared(tmp_path / "rows")
    rows, counts = TokenizedDocuments(folder, "train"), np.load(folder / "token_counts.npy")
    labels = np.concatenate([rows[row][1] for row in range(len(rows))])
    assert np.array_equal(np.bincount(labels[labels != IGNORE], minlength=len(counts)), counts)
    assert rows.labels.sum() == counts.sum() and rows.lengths.max() <= 32


def test_the_loss_of_packed_rows_is_transformers_of_each_document_alone(tmp_path):
    folder, model = prepared(tmp_path / "rows"), decoder()
    data = CausalDataModule(folder, pad=0, batch_size=4, seed=0, epochs=1)
    batch = next(iter(data.train_dataloader()))
    assert batch.documents is not None
    ours = theirs = 0.0
    for row in range(len(batch)):
        for number in range(int(batch.documents[row].max()) + 1):
            own = (batch.documents[row] == number) & batch.attention_mask[row].bool()
            ids, labels = batch.input_ids[row][own].unsqueeze(0), batch.labels[row][own]
            with torch.no_grad():
                out = model(input_ids=ids, labels=ids)  # transformers shifts by itself
            theirs += float(out.loss) * (ids.shape[1] - 1)
            ours += float(F.cross_entropy(out.logits[0], labels, reduction="sum"))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert int((batch.labels != IGNORE).sum()) > 40


def test_long_texts_become_several_documents_and_short_ends_are_dropped(tmp_path):
    texts = [chr(97 + i) * 40 for i in range(25)]  # 41 tokens with the end: 16 + 16 + 9, or 20 + 20 + 1
    folder = prepared(tmp_path / "a", Texts(texts), max_length=16)
    assert sorted({len(tokens) for tokens in documents(folder, "train")}) == [9, 16]
    folder = prepared(tmp_path / "b", Texts(texts), max_length=20)
    assert {len(tokens) for tokens in documents(folder, "train")} == {20}
    assert dataset.read_stats(folder).dropped == 25


def test_equal_texts_and_equal_prompts_are_on_one_side_whatever_their_order(tmp_path):
    rows = [Example("", f"question {i % 30:02}", f"{i}") for i in range(90)]
    folders = [prepared(tmp_path / str(i), Examples(order)) for i, order in enumerate((rows, rows[::-1]))]

    def prompts(folder: Path, split: str) -> set[str]:
        return {characters().decode(ids)[:11] for ids in documents(folder, split)}

    for folder in folders:
        assert not prompts(folder, "train") & prompts(folder, "heldout")
        assert len(documents(folder, "train")) + len(documents(folder, "heldout")) == 90
    assert prompts(folders[0], "heldout") == prompts(folders[1], "heldout")


def test_examples_that_say_where_they_belong_stay_there(tmp_path):
    rows = [Example("", f"p{i}", "c", heldout=i >= 7) for i in range(10)]
    folder = prepared(tmp_path / "rows", Examples(rows))
    assert len(documents(folder, "heldout")) == 3


def test_a_text_of_few_documents_is_split_within_them(tmp_path):
    folder = prepared(tmp_path / "rows", Texts(["abcdefghij" * 40]), max_length=16, heldout=0.25, pack=False)
    stats = dataset.read_stats(folder)
    assert stats.heldout_sequences == 6 and stats.sequences == 25
    numbers = np.load(folder / "heldout" / "documents.npy")
    assert np.array_equal(numbers, np.arange(numbers[0], numbers[0] + 6))


def test_long_prompts_are_dropped_or_refused_and_counted(tmp_path):
    rows = [Example(f"line {i}", "p" * (40 if i == 3 else 4) + str(i), "c") for i in range(40)]
    with pytest.raises(UserError, match="line 3: the prompt has 41 tokens"):
        prepared(tmp_path / "a", Examples(rows))
    folder = prepared(tmp_path / "b", Examples(rows), long_prompts="drop")
    assert dataset.read_stats(folder).dropped == 1 and dataset.read_stats(folder).pieces == 39


def test_too_little_text_and_lengths_out_of_range_are_one_line(tmp_path):
    with pytest.raises(UserError, match="the text is too short: 1 documents with 3 characters"):
        prepared(tmp_path / "a", Texts(["abc"]))
    with pytest.raises(UserError, match="the text is too short: 0 documents"):
        prepared(tmp_path / "b", Texts([]))
    with pytest.raises(UserError, match="min_length 9, max_length 8"):
        prepared(tmp_path / "c", max_length=8, min_length=9)


def test_equal_rows_hold_a_document_of_the_same_tokens(tmp_path):
    folder = prepared(tmp_path / "rows", Texts([*TEXTS, *TEXTS[:3]]), pack=False, heldout=0.01)
    rows = TokenizedDocuments(folder, "train")
    texts = [tuple(rows[row][0].tolist()) for row in range(len(rows))]
    for row in range(len(rows)):
        same = [other for other, text in enumerate(texts) if text == texts[row]]
        assert rows.equal_rows(np.array([row])).tolist() == same


def test_a_pickled_split_maps_its_files_again(tmp_path):
    rows = TokenizedDocuments(prepared(tmp_path / "rows"), "train")
    state = pickle.dumps(rows)
    assert len(state) < 1000
    again = pickle.loads(state)
    assert all(np.array_equal(a, b) for a, b in zip(again[1], rows[1], strict=True))
