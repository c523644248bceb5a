"""A prepared corpus against sequences written by hand, and properties of its split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from kdlab.data.text import corpus, tokenization
from kdlab.data.text.corpus import load, prepare, read_stats
from kdlab.errors import UserError

WORDS = [f"w{number}" for number in range(50)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "mask", *WORDS]
CLS, SEP = 2, 3


@dataclass(frozen=True)
class Texts:
    """A source held in memory."""

    texts: Sequence[str]
    bytes: int | None = None

    def check(self) -> None: ...

    def fingerprint(self) -> str:
        return ""

    def documents(self) -> Iterator[str]:
        return iter(self.texts)

    def size(self) -> int | None:
        return self.bytes


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={token: number for number, token in enumerate(VOCABULARY)})


def words(count: int, start: int = 0) -> str:
    return " ".join(WORDS[(start + number) % 50] for number in range(count))


def ids(count: int, start: int = 0) -> list[int]:
    return [8 + (start + number) % 50 for number in range(count)]


def rows(folder: Path, split: str) -> list[tuple[int, list[int]]]:
    data = load(folder, split)
    assert data.column_names == ["input_ids", "doc"]
    return list(zip(data["doc"], data["input_ids"], strict=True))


def test_documents_are_cut_and_short_rests_dropped(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    texts = Texts([words(11), words(2), words(3, start=20), ""])
    prepare(texts, tokenizer, tmp_path, min_length=5, max_length=6, heldout=0.3, seed=0)
    made = sorted(rows(tmp_path, "train") + rows(tmp_path, "heldout"))
    assert made == [  # document 0 in pieces of 4, 4 and 3 tokens; document 1 too short
        (0, [CLS, *ids(4), SEP]),
        (0, [CLS, *ids(4, 4), SEP]),
        (0, [CLS, *ids(3, 8), SEP]),
        (2, [CLS, *ids(3, 20), SEP]),
    ]
    characters = [len(text) for text in texts.texts]
    assert json.loads((tmp_path / "stats.json").read_text()) == {
        "documents": 4,
        "characters": sum(characters),
        "sequences": 4,
        "tokens": 6 + 6 + 5 + 5,
        "dropped": 1,
        "unknown": 0,
        "heldout_sequences": 1,
        "heldout_tokens": sum(len(row) for _, row in rows(tmp_path, "heldout")),
    }


def test_token_counts_are_those_of_the_training_split(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    prepare(Texts([words(40 + i, i) for i in range(30)]), tokenizer, tmp_path, max_length=16, heldout=0.2, seed=1)
    flat = np.concatenate([row for _, row in rows(tmp_path, "train")])
    counts = np.load(tmp_path / "token_counts.npy")
    assert counts.dtype == np.int64
    assert len(counts) == len(tokenizer)
    np.testing.assert_array_equal(counts, np.bincount(flat, minlength=len(tokenizer)))


def test_split_is_by_document_and_by_seed(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    texts = Texts([words(30, i) for i in range(200)])
    heldout = {}
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        (tmp_path / name).mkdir()
        prepare(texts, tokenizer, tmp_path / name, max_length=16, heldout=0.2, seed=seed)
        train, held = ({doc for doc, _ in rows(tmp_path / name, split)} for split in ("train", "heldout"))
        assert train | held == set(range(200))
        assert not train & held
        assert 20 <= len(held) <= 65  # 40 expected, four standard deviations
        heldout[name] = held
    assert heldout["a"] == heldout["b"] != heldout["c"]


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_sides_have_a_document(tmp_path: Path, tokenizer: BertTokenizer, share: float) -> None:
    prepare(Texts([words(12, i) for i in range(25)]), tokenizer, tmp_path, heldout=share, seed=0)
    train, held = rows(tmp_path, "train"), rows(tmp_path, "heldout")
    assert min(len(train), len(held)) == 1
    assert len(train) + len(held) == 25


def test_few_documents_are_split_into_chunks(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    prepare(
        Texts([words(800), words(400), words(8)]),
        tokenizer,
        tmp_path,
        min_length=10,
        max_length=10,
        heldout=0.1,
        seed=3,
    )
    held = rows(tmp_path, "heldout")
    assert [(doc, len(list(group))) for doc, group in groupby(doc for doc, _ in held)] == [(0, 10), (1, 5)]
    starts = [row[1] for doc, row in held if doc == 0]
    assert starts == [8 + (starts[0] - 8 + 8 * place) % 50 for place in range(10)]  # each begins where the last ended
    assert len(rows(tmp_path, "train")) == 90 + 45 + 1


def test_a_single_book_of_two_sequences(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    prepare(Texts([words(20)]), tokenizer, tmp_path, max_length=12, seed=0)
    assert len(rows(tmp_path, "train")) == len(rows(tmp_path, "heldout")) == 1


@pytest.mark.parametrize("texts", [[], [""], ["w1 w2"], [words(10)]], ids=["none", "empty", "short", "one"])
def test_too_short_a_text(tmp_path: Path, tokenizer: BertTokenizer, texts: list[str]) -> None:
    with pytest.raises(UserError, match=rf"too short: {len(texts)} documents .* give [01] sequences of 12 to 512"):
        prepare(Texts(texts), tokenizer, tmp_path, seed=0)


def test_special_tokens_in_the_text_are_text(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    before = tokenizer("[MASK]")["input_ids"]
    prepare(Texts(["[MASK] w0 " * 4] * 2), tokenizer, tmp_path, seed=0)
    assert rows(tmp_path, "train")[0][1] == [CLS, *[5, 7, 6, 8] * 4, SEP]
    assert tokenizer("[MASK]")["input_ids"] == before == [CLS, 4, SEP]


def plain(**special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "w": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def test_tokenizers_with_begin_and_end(tmp_path: Path) -> None:
    prepare(Texts(["w " * 10] * 2), plain(bos_token="<s>", eos_token="</s>"), tmp_path, seed=0)
    assert rows(tmp_path, "train")[0][1] == [0, *[3] * 10, 1]
    with pytest.raises(UserError, match=r"neither \[CLS\] and \[SEP\] nor begin and end"):
        prepare(Texts(["w " * 10] * 2), plain(eos_token="</s>"), tmp_path, seed=0)


def test_a_tokenizer_in_plain_python(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    class Slow:
        is_fast, cls_token_id, sep_token_id = False, CLS, SEP

        def __len__(self) -> int:
            return len(tokenizer)

        def __call__(self, texts: list[str], add_special_tokens: bool, verbose: bool) -> dict[str, list[list[int]]]:
            return {"input_ids": [tokenizer.convert_tokens_to_ids(text.split()) for text in texts]}

    prepare(Texts([words(20)]), Slow(), tmp_path, max_length=12, seed=0)  # type: ignore[arg-type]
    assert sorted(row for _, row in rows(tmp_path, "train") + rows(tmp_path, "heldout")) == [
        [CLS, *ids(10), SEP],
        [CLS, *ids(10, 10), SEP],
    ]


def test_batches_change_nothing(tmp_path: Path, tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Texts([words(length) for length in (1, 500, 0, 30, 90)] + [words(20)] * 40)
    (tmp_path / "a").mkdir()
    prepare(texts, tokenizer, tmp_path / "a", max_length=16, seed=0)
    monkeypatch.setattr(tokenization, "BATCH", 150)
    monkeypatch.setattr(tokenization, "PIECE", 37)
    monkeypatch.setattr(corpus, "RECORDS", 40)
    (tmp_path / "b").mkdir()
    prepare(texts, tokenizer, tmp_path / "b", max_length=16, seed=0)
    for split in ("train", "heldout"):
        assert rows(tmp_path / "a", split) == rows(tmp_path / "b", split)
    assert read_stats(tmp_path / "a") == read_stats(tmp_path / "b")


def test_text_without_white_space_is_cut_anywhere() -> None:
    pieces = list(tokenization._pieces("x" * 120_000))
    assert [(last, len(piece)) for last, piece in pieces] == [(False, 50_000), (False, 50_000), (True, 20_000)]


def test_too_little_disk_space_is_reported_before_writing(
    tmp_path: Path, tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(UserError, match="no space for the tokenised text: it needs 12 KB"):
        prepare(Texts([words(200)], bytes=6_000), tokenizer, tmp_path, seed=0)
    assert list(tmp_path.iterdir()) == []
    prepare(Texts([words(200)], bytes=4_000), tokenizer, tmp_path, max_length=16, seed=0)
    assert read_stats(tmp_path).sequences == 14  # of 14 words each, and four words too few


def test_a_disk_that_fills_up_while_writing(
    tmp_path: Path, tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full takes no byte: every write ends as on a full disk."""
    opened = Path.open

    def full(path: Path, mode: str = "r", **how):
        return opened(Path("/dev/full") if path.suffix == ".arrow" else path, mode, **how)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="writing the tokenised text failed in .*: no space left"):
        prepare(Texts([words(200)] * 30), tokenizer, tmp_path, max_length=16, seed=0)


@pytest.mark.parametrize(
    "wrong", [{"min_length": 2}, {"min_length": 20, "max_length": 16}, {"heldout": 0.0}, {"heldout": 1.0}]
)
def test_wrong_settings(tmp_path: Path, tokenizer: BertTokenizer, wrong: dict) -> None:
    with pytest.raises(UserError, match="2 < min_length <= max_length"):
        prepare(Texts([words(200)]), tokenizer, tmp_path, seed=0, **wrong)


def test_loading_maps_memory(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    prepare(Texts([words(200)] * 30), tokenizer, tmp_path, max_length=16, seed=0)
    data = load(tmp_path, "train")
    assert data.cache_files == [{"filename": str(tmp_path / "train" / "data.arrow")}]
    assert data.features["input_ids"].feature.dtype == "int32"
    assert data.features["doc"].dtype == "int32"


def test_tokens_are_the_rows_of_the_arrow_file_over_all_its_chunks(tmp_path):
    import pickle

    import datasets
    from datasets.arrow_writer import ArrowWriter

    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 99, rng.integers(0, 9)).tolist() for _ in range(25)]
    with ArrowWriter(path=str(tmp_path / "data.arrow"), writer_batch_size=7) as writer:
        for row in rows:
            writer.write({"input_ids": np.array(row, dtype=np.int32)})
        writer.finalize()
    found = corpus.TokenizedText(datasets.Dataset.from_file(str(tmp_path / "data.arrow")))
    again = pickle.loads(pickle.dumps(found))
    assert len(found) == 25 and found.lengths.tolist() == [len(r) for r in rows]
    assert [found[i].tolist() for i in range(25)] == rows == [again[i].tolist() for i in range(25)]


def test_sequences_of_half_unknown_tokens_are_dropped_where_that_is_asked(tokenizer, tmp_path):
    """DistilBERT's script keeps a sequence if fewer than half of its tokens, [CLS] and [SEP] included, are [UNK]."""
    known, half, less = words(6), " ".join(["zz"] * 4 + WORDS[:2]), " ".join(["zz"] * 3 + WORDS[:3])  # 8 tokens each
    source = Texts([known, half, less, half, *[words(6, start) for start in range(30)]])
    for name, share in (("all", None), ("known", 0.5)):
        (tmp_path / name).mkdir()
        prepare(source, tokenizer, tmp_path / name, min_length=3, max_length=16, seed=0, max_unknown=share)
    kept = {
        name: sorted(sum((rows(tmp_path / name, split) for split in corpus.SPLITS), [])) for name in ("all", "known")
    }
    assert len(kept["all"]) == 34 and [number for number, _ in kept["all"]] == list(range(34))
    assert kept["known"] == [(number, row) for number, row in kept["all"] if number not in (1, 3)]
    assert read_stats(tmp_path / "known").unknown == 2 and read_stats(tmp_path / "all").unknown == 0
