"""Prepared task data: sequences of the tokenizer as oracle, hidden labels, batches of texts and pairs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DistilBertTokenizer, RobertaTokenizer

from kdlab.data.tasks.dataset import TokenizedRows, load, prepare, read_shape, read_stats
from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.errors import UserError
from kdlab.types import IGNORE, Batch, TaskShape
from tests.conftest import WORDS, tiny_tokenizer

PAIRS = TaskShape(2, ("no", "yes"), ("accuracy",))
SINGLE = TaskShape(1, None, ("pearson", "spearman"))
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as in BERT's tokenizer
    return tokenizer


def words(count: int, start: int = 0) -> str:
    return " ".join(WORDS[start : start + count])


def ids(count: int, start: int = 0) -> list[int]:
    return [26 + start + i for i in range(count)]  # 6 special and signs, 20 syllables, then the words


def pair_data() -> TaskData:
    train = [
        LabelledRow((words(3), words(2, 10)), 1),
        LabelledRow((words(9), words(2, 10)), 0),
        LabelledRow((words(2), words(9, 20)), 1),
        LabelledRow(("", words(1)), 0),
    ]
    return TaskData(
        PAIRS, {"train": train, "dev": train[:1], "test": [LabelledRow(("[SEP] ba", "[MASK]"), None)]}, ["a note"]
    )


def test_pairs_by_hand(tmp_path: Path, tokenizer) -> None:
    prepare(pair_data(), tokenizer, tmp_path, max_length=10)
    rows = load(tmp_path, "train")
    assert [rows[0, i].ids.tolist() for i in range(4)] == [  # 10 tokens, 3 of them special: the longer text is cut
        [CLS, *ids(3), SEP, *ids(2, 10), SEP],
        [CLS, *ids(5), SEP, *ids(2, 10), SEP],
        [CLS, *ids(2), SEP, *ids(5, 20), SEP],
        [CLS, SEP, *ids(1), SEP],
    ]
    assert [rows[0, i].first for i in range(4)] == [5, 7, 4, 2]
    assert [rows[0, i].label for i in range(4)] == [1, 0, 1, 0]
    assert rows.lengths.tolist() == [8, 10, 10, 4]
    assert not rows.hidden
    stats = read_stats(tmp_path)
    assert stats["train"] == {
        "rows": 4, "tokens": 32, "longest": 10, "cut": 2, "fits": {"16": 4}, "hidden": 0, "classes": {"no": 2, "yes": 2},
    }  # fmt: skip
    assert stats["test"]["hidden"] == 1
    assert read_shape(tmp_path) == PAIRS
    test = load(tmp_path, "test")
    assert test.hidden
    assert test[0, 0].label == IGNORE
    assert not set(test[0, 0].ids[1:-1].tolist()) & {4}  # "[MASK]" in a text is no mask token
    assert test[0, 0].ids.tolist().count(SEP) == 2


def test_the_tokenizer_is_left_as_it_was(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    prepare(pair_data(), tokenizer, tmp_path, max_length=10)
    assert tokenizer.backend_tokenizer.truncation is None
    assert len(tokenizer(words(40))["input_ids"]) == 42


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_the_tokenizers_own_sequences(tmp_path: Path, family: str) -> None:
    """The format differs between families: RoBERTa has <s> A </s></s> B </s>, not [CLS] A [SEP] B [SEP]."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    if family == "roberta":
        vocabulary = {t: i for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *letters])}
        tokenizer = RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=64)
    else:
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        pieces = [*specials, *letters, *("##" + letter for letter in letters)]
        tokenizer = DistilBertTokenizer(vocab={t: i for i, t in enumerate(pieces)}, model_max_length=64)
    data = pair_data()
    prepare(data, tokenizer, tmp_path, max_length=20)
    rows = load(tmp_path, "train")
    for i, row in enumerate(data.splits["train"]):
        expected = tokenizer(*row.texts, truncation=True, max_length=20)
        assert rows[0, i].ids.tolist() == expected["input_ids"]
        types = expected.get("token_type_ids", [0] * len(expected["input_ids"]))
        assert [int(place >= rows[0, i].first) for place in range(len(types))] == list(types)


def test_batches_of_pairs(tmp_path: Path, tokenizer) -> None:
    prepare(pair_data(), tokenizer, tmp_path, max_length=10)
    rows = load(tmp_path, "train")
    batch = rows.collate(pad=0)([rows[3, 0], rows[3, 3], rows[3, -1 - 2]])
    assert isinstance(batch, Batch)
    assert batch.epoch == 3
    assert batch.rows.tolist() == [0, 3, 2]
    assert batch.real.tolist() == [True, True, False]
    assert batch.labels.tolist() == [1, 0, 1]
    assert batch.labels.dtype == torch.int64
    texts = [(words(3), words(2, 10)), ("", words(1)), (words(2), words(9, 20))]
    expected = tokenizer(
        [a for a, _ in texts], [b for _, b in texts], padding=True, truncation=True, max_length=10, return_tensors="pt"
    )
    assert batch.input_ids.equal(expected["input_ids"])
    assert batch.attention_mask.equal(expected["attention_mask"])
    assert batch.token_types.equal(expected["token_type_ids"])


def test_batches_of_single_texts_and_scores(tmp_path: Path, tokenizer) -> None:
    train = [LabelledRow((words(2),), 3.25), LabelledRow((words(1),), -1.0)]
    prepare(
        TaskData(SINGLE, {"train": train, "test": [LabelledRow((words(1),), None)]}), tokenizer, tmp_path, max_length=8
    )
    rows = load(tmp_path, "train")
    assert not rows.hidden
    batch = rows.collate(pad=0)([rows[0, 0], rows[0, 1]])
    assert batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == [3.25, -1.0]
    assert batch.token_types is None
    assert batch.input_ids.tolist() == [[CLS, *ids(2), SEP], [CLS, *ids(1), SEP, 0]]
    test = load(tmp_path, "test")
    assert test.hidden
    assert np.isnan(test[0, 0].label)
    assert read_shape(tmp_path) == SINGLE
    assert "classes" not in read_stats(tmp_path)["train"]


def test_many_rows_keep_their_order_over_record_batches(tmp_path: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr("kdlab.data.tasks.dataset.RECORDS", 7)
    train = [LabelledRow((words(1 + i % 5, i % 50),), i % 3) for i in range(100)]
    prepare(
        TaskData(TaskShape(1, ("a", "b", "c"), ("accuracy",)), {"train": train}), tokenizer, tmp_path, max_length=64
    )
    rows: TokenizedRows = pickle.loads(pickle.dumps(load(tmp_path, "train")))
    assert len(rows) == 100
    assert rows.labels.tolist() == [i % 3 for i in range(100)]
    assert rows[0, 93].ids.tolist() == [CLS, *ids(1 + 93 % 5, 43), SEP]


@pytest.mark.parametrize(
    ("data", "length", "words_"),
    [
        (pair_data(), 4, "max_length 4; a row has 3 special tokens and 2 text"),
        (pair_data(), 65, "longest sequence is 64"),
        (TaskData(PAIRS, {"train": []}), 16, "the split train has no rows"),
        (TaskData(PAIRS, {"train": [LabelledRow(("a",), 1)]}), 16, "a row of 1 text.s., the task 2"),
    ],
)
def test_data_that_cannot_be_prepared(tmp_path: Path, tokenizer, data: TaskData, length: int, words_: str) -> None:
    with pytest.raises(UserError, match=words_):
        prepare(data, tokenizer, tmp_path, max_length=length)
    assert not list(tmp_path.iterdir())


def test_an_open_split_is_shared_until_its_file_is_another_one(tmp_path: Path, tokenizer) -> None:
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        train = [LabelledRow((words(2),), number), LabelledRow((words(3),), 1)]
        prepare(TaskData(SINGLE, {"train": train}), tokenizer, folder, max_length=8)
    rows = load(tmp_path / "0", "train")
    assert load(tmp_path / "0", "train").lengths is rows.lengths is not load(tmp_path / "1", "train").lengths
    (tmp_path / "1").rename(tmp_path / "2")
    (tmp_path / "0").rename(tmp_path / "1")
    (tmp_path / "2").rename(tmp_path / "0")
    assert load(tmp_path / "0", "train").labels.tolist() == [1, 1] and load(
        tmp_path / "1", "train"
    ).labels.tolist() == [0, 1]
