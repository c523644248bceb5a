"""Augmentation: candidates against transformers' plain call on each masked text, draws, pairs, resumption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import kdlab.data.augmentation.tinybert as augment
from kdlab.data.augmentation.candidates import CandidateFinder, Word, whole_words
from kdlab.data.augmentation.tinybert import AugmentationRecipe, augmented, copies
from kdlab.data.augmentation.word_vectors import WordTable
from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.errors import UserError
from kdlab.models.loading import load_masked_lm, load_tokenizer
from kdlab.storage.artifacts import MANIFEST, ArtifactStore
from kdlab.types import TaskShape
from tests.conftest import SYLLABLES, WORDS, generated_text, tiny_tokenizer, write_teacher

SINGLE = TaskShape(1, ("no", "yes"), ("accuracy",))
PAIR = TaskShape(2, ("no", "yes"), ("accuracy",))
PARTS = {"model": "tiny", "table": None}
TEXT = 'bake lomi, "nura" 12 bakelo\tthe  seti.'  # bakelo is bake ##lo; the is a function word


@pytest.fixture(scope="module", params=["bert", "electra"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp(request.param), request.param, layers=2)


@pytest.fixture(scope="module")
def model() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    blocks = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=126, initializer_range=0.5, max_position_embeddings=64, **blocks)
    return transformers.BertForMaskedLM(config)


def recipe_of(**settings) -> AugmentationRecipe:
    return AugmentationRecipe(**{"max_length": 64, **settings})  # the tiny tokenizer's longest


def single_data(count: int, words: int = 8) -> TaskData:
    texts = [" ".join(text.split()[:words]) + "." for text in generated_text(count)]
    return TaskData(
        SINGLE,
        {"train": [LabelledRow((text,), i % 2) for i, text in enumerate(texts)], "dev": [LabelledRow(("ba",), 0)]},
    )


def pair_data() -> TaskData:
    texts = [" ".join(text.split()[:6]) for text in generated_text(8)]
    return TaskData(PAIR, {"train": [LabelledRow((texts[2 * i], texts[2 * i + 1]), 1) for i in range(4)]})


def augmenting(data: TaskData, model, store: ArtifactStore, recipe: AugmentationRecipe) -> TaskData:
    return augmented(data, model, tiny_tokenizer(), recipe, None, store, PARTS)


@pytest.fixture
def forwards(model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of masked texts in each call of the encoder."""
    seen: list[int] = []
    forward = model.bert.forward

    def counted(*args, **kwargs):
        seen.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.bert, "forward", counted)
    return seen


def test_candidates_are_those_of_a_plain_call(folder: Path) -> None:
    tokenizer, plain = load_tokenizer(folder), transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    model = load_masked_lm(folder).train()
    texts = [TEXT, "", "12 .", *(" ".join(text.split()[:9]) for text in generated_text(6))]
    found = CandidateFinder(model, tokenizer, None, 5, 32, 4).find(texts)
    assert model.training and all(module.training for module in model.modules())
    checked = 0
    for text, words in zip(texts, found, strict=True):
        for start, end, candidates in words:
            word = text[start:end]
            if word not in tokenizer.get_vocab():
                continue
            masked = f"{text[:start]}[MASK]{text[end:]}"
            row = tokenizer(masked, return_tensors="pt")
            at = row["input_ids"][0].tolist().index(tokenizer.mask_token_id)
            with torch.no_grad():
                order = plain(**row).logits[0, at].argsort(descending=True).tolist()
            names = [tokenizer.convert_ids_to_tokens(i) for i in order]
            assert candidates == tuple(name for name in names if name in WORDS + SYLLABLES and name != word)[:5]
            checked += 1
    assert checked == 3 + 1 + 6 * 9  # bake, lomi, nura, seti: four of TEXT
    assert found[1] == found[2] == []
    assert [TEXT[word.start : word.end] for word in found[0]] == ["bake", "lomi", "nura", "bakelo", "seti"]


def test_a_split_word_gets_the_neighbours_of_its_pieces_mean(model) -> None:
    found = CandidateFinder(model, tiny_tokenizer(), None, 4, 32, 8).find(["bakelo ba"])[0][0]
    table = model.get_input_embeddings().weight.detach().numpy().astype(np.float64)
    vocabulary = tiny_tokenizer().get_vocab()
    query = (table[vocabulary["bake"]] + table[vocabulary["##lo"]]) / 2
    whole = {name: table[vocabulary[name]] for name in [*SYLLABLES, *WORDS]}
    cosine = {name: row @ query / np.linalg.norm(row) / np.linalg.norm(query) for name, row in whole.items()}
    assert found == (0, 6, tuple(sorted(cosine, key=lambda name: -cosine[name])[:4]))


def test_a_given_table_is_used_for_split_words_only(model) -> None:
    table = WordTable(["bakelo", "near", "far", "Other"], torch.tensor([[1.0, 0], [2, 1], [-1, 0], [0, 1]]))
    found = CandidateFinder(model, tiny_tokenizer(), table, 2, 32, 8).find(["bakelo Bakelo bakemi bake"])[0]
    assert [word[:2] for word in found] == [(0, 6), (7, 13), (21, 25)]  # bakemi is not in the table
    assert [word.candidates for word in found[:2]] == [("near", "Other"), ("Near", "Other")]
    assert set(found[2].candidates) < {*WORDS, *SYLLABLES}


def test_fewer_words_than_candidates(model) -> None:
    found = CandidateFinder(model, tiny_tokenizer(), None, 500, 32, 8).find(["bake bakelo"])[0]
    assert sorted(found[0].candidates) == sorted({*WORDS, *SYLLABLES} - {"bake"})
    assert sorted(found[1].candidates) == sorted({*WORDS, *SYLLABLES})


def test_only_words_within_max_length(model) -> None:
    texts = ["bake lomi bakelo nura", "bake lomi nura seti"]
    for length, ends in {
        7: ([4, 9, 16], [4, 9, 14, 19]),
        6: ([4, 9, 16], [4, 9, 14, 19]),
        5: ([4, 9], [4, 9, 14]),
    }.items():
        found = CandidateFinder(model, tiny_tokenizer(), None, 3, length, 8).find(
            texts
        )  # two of them are [CLS] and [SEP]
        expected = [*ends[0], *([21] if length == 7 else [])], ends[1]
        assert tuple([word.end for word in words] for words in found) == expected


def trained(pre_tokenizer, decoder, **settings) -> transformers.PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizer, decoder
    trainer = trainers.BpeTrainer(vocab_size=190, special_tokens=["<pad>", "<mask>"], show_progress=False, **settings)
    inner.train_from_iterator(['the cat saw "a dog", naïve dogs; cats saw 12 dogs. 3 cats\' dog saw'] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", mask_token="<mask>", model_max_length=64
    )


@pytest.mark.parametrize(
    ("pre_tokenizer", "decoder"),
    [(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()), (pre_tokenizers.Metaspace(), decoders.Metaspace())],
)  # fmt: skip
def test_words_of_other_tokenizers(pre_tokenizer, decoder) -> None:
    tokenizer = trained(pre_tokenizer, decoder)
    words = whole_words(tokenizer, len(tokenizer))
    assert {"cat", "dog", "saw", "cats"} <= set(words.values())
    tokens = tokenizer.convert_ids_to_tokens(list(words))
    ascii_tokens = [token for token, word in zip(tokens, words.values(), strict=True) if word.isascii()]
    assert [token[1:] for token in ascii_tokens] == [word for word in words.values() if word.isascii()]
    assert {token[0] for token in tokens} <= {"Ġ", "▁"}  # how either writes the space before
    config = transformers.DistilBertConfig(vocab_size=len(tokenizer), dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    model = transformers.DistilBertForMaskedLM(config)
    text = 'a dog, the "cats" saw naïve 12 catdog.'
    found = CandidateFinder(model, tokenizer, None, 3, 64, 8).find([text])[0]
    spans = [text[word.start : word.end] for word in found]
    assert set(spans) <= {"dog", "cats", "saw", "naïve", "catdog"} and {"saw", "naïve"} <= set(spans)
    assert all(set(word.candidates) <= set(words.values()) for word in found)


def test_the_replacement_rate_and_the_choice_of_candidates() -> None:
    text = " ".join(["bake"] * 50)
    words = [Word(5 * i, 5 * i + 4, ("one", "two", "three")) for i in range(50)]
    made = list(copies(LabelledRow((text,), 1), [words], recipe_of(copies=200, replace=0.3)))
    counts = {name: sum(row.texts[0].split().count(name) for row in made) for name in ("bake", "one", "two", "three")}
    assert len(made) == 200 and sum(counts.values()) == 200 * 50
    for name, chance in {"bake": 0.7, "one": 0.1, "two": 0.1, "three": 0.1}.items():  # four standard deviations
        assert abs(counts[name] - 10_000 * chance) < 4 * (10_000 * chance * (1 - chance)) ** 0.5


def test_text_around_the_words_is_unchanged() -> None:
    words = [Word(0, 4, ("X",)), Word(11, 15, ("Yy",))]
    (made,) = copies(LabelledRow(('bake\tthe  "lomi" ', "seti"), 0.5), [words, []], recipe_of(copies=2, replace=1.0))
    assert made == LabelledRow(('X\tthe  "Yy" ', "seti"), None)


def test_a_prefix_of_the_copies_and_other_seeds() -> None:
    words = [[Word(5 * i, 5 * i + 4, tuple(SYLLABLES)) for i in range(30)]]
    row = LabelledRow((" ".join(WORDS[:30]),), 0)
    long, short, other = (
        list(copies(row, words, recipe)) for recipe in (recipe_of(), recipe_of(copies=7), recipe_of(seed=1))
    )
    assert len(long) == 20 and long[:7] == short and not set(long) & set(other)


def test_copies_of_single_texts(model, tmp_path: Path) -> None:
    data = single_data(5, words=25)
    made = augmenting(data, model, ArtifactStore(tmp_path), recipe_of())
    train, given = made.splits["train"], data.splits["train"]
    assert train[:5] == given and made.splits["dev"] == data.splits["dev"] and made.shape == data.shape
    assert len(train) == 5 + 5 * 20 and len(data.splits["train"]) == 5
    for i, row in enumerate(train[5:]):
        assert row.origin == i // 20
        words, before = row.texts[0].rstrip(".").split(), given[i // 20].texts[0].rstrip(".").split()
        assert row.label is None and len(words) == len(before) and words != before
        assert set(words) <= {*WORDS, *SYLLABLES}
    assert made.notes == [
        "augmented: 100 copies of 5 training rows (20 each, less 0 that changed nothing or came twice)"
    ]


def test_copies_that_change_nothing_are_dropped(model, tmp_path: Path) -> None:
    data = TaskData(SINGLE, {"train": [LabelledRow(("12 the .",), 0), LabelledRow(("bake",), 1)]})
    made = augmenting(data, model, ArtifactStore(tmp_path), recipe_of(candidates=3))
    new = [row.texts[0] for row in made.splits["train"][2:]]
    assert 1 <= len(new) == len(set(new)) <= 3 and "bake" not in new
    assert made.notes[0].startswith(f"augmented: {len(new)} copies of 2 training rows (20 each, less {40 - len(new)} ")


def test_pairs_change_one_text_in_each_copy(model, tmp_path: Path) -> None:
    data = pair_data()
    train = augmenting(data, model, ArtifactStore(tmp_path), recipe_of(copies=5, replace=0.9)).splits["train"]
    assert train[:4] == data.splits["train"] and len(train) == 4 + 4 * 5
    for i, row in enumerate(train[4:]):
        first, second = data.splits["train"][i // 5].texts
        assert (row.texts[0] != first, row.texts[1] != second) == [(True, False), (False, True)][i % 5 % 2]


def test_neither_batches_nor_shards_matter(model, forwards, tmp_path: Path, monkeypatch) -> None:
    data = single_data(12, words=12)
    data.splits["train"] += [
        LabelledRow(("bakelo seti",), 0),
        LabelledRow(("ba",), 1),
        LabelledRow(data.splits["train"][0].texts, 1),
    ]
    made = []
    for number, (batch_size, shard) in enumerate([(64, 250), (1, 250), (7, 4)]):
        monkeypatch.setattr(augment, "SHARD", shard)
        forwards.clear()
        made.append(
            augmenting(data, model, ArtifactStore(tmp_path / str(number)), recipe_of(copies=6, batch_size=batch_size))
        )
        assert max(forwards) == min(batch_size, sum(forwards))
    assert made[0].splits == made[1].splits == made[2].splits


def test_a_killed_job_resumes_and_a_second_run_only_reads(model, forwards, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(augment, "SHARD", 2)
    data, recipe = single_data(6), recipe_of(copies=3)
    whole = augmenting(data, model, ArtifactStore(tmp_path / "whole"), recipe)
    all_texts = sum(forwards)
    store = ArtifactStore(tmp_path / "killed", notify=str)
    find = CandidateFinder.find

    def killed(self: CandidateFinder, texts, report):
        if data.splits["train"][4].texts[0] in texts:
            raise KeyboardInterrupt
        return find(self, texts, report)

    monkeypatch.setattr(CandidateFinder, "find", killed)
    with pytest.raises(KeyboardInterrupt):
        augmenting(data, model, store, recipe)
    monkeypatch.setattr(CandidateFinder, "find", find)
    forwards.clear()
    assert augmenting(data, model, store, recipe) == whole
    assert 0 < sum(forwards) < all_texts / 2  # one shard of three
    forwards.clear()
    assert augmenting(data, model, store, recipe) == whole
    other = augmenting(data, model, store, recipe_of(copies=8, replace=0.9, seed=3, batch_size=5))
    assert forwards == [] and len(other.splits["train"]) == 6 + 6 * 8


def test_other_texts_candidates_and_models_are_built_anew(model, forwards, tmp_path: Path) -> None:
    store, tokenizer = ArtifactStore(tmp_path, notify=str), tiny_tokenizer()
    for data, recipe, parts in [
        (single_data(2), recipe_of(), PARTS),
        (single_data(3), recipe_of(), PARTS),
        (single_data(2), recipe_of(candidates=4), PARTS),
        (single_data(2), recipe_of(max_length=5), PARTS),
        (single_data(2), recipe_of(), {**PARTS, "model": "other"}),
    ]:
        forwards.clear()
        augmented(data, model, tokenizer, recipe, None, store, parts)
        assert forwards
    assert len(list((tmp_path / "augmented").glob("[0-9a-f]*"))) == 5


def test_a_damaged_shard_is_named_and_rebuilt(model, forwards, tmp_path: Path) -> None:
    lines: list[str] = []
    store = ArtifactStore(tmp_path, notify=lines.append)
    first = augmenting(single_data(3), model, store, recipe_of())
    (shard,) = (tmp_path / "augmented").glob("[0-9a-f]*")
    content = (shard / "candidates.jsonl").read_text()
    (shard / "candidates.jsonl").write_text(content.replace("[", "(", 1))
    assert augmenting(single_data(3), model, store, recipe_of()) == first
    (line,) = lines
    assert line.startswith(f"candidates for rows 0 to 2 in {shard} is damaged: candidates.jsonl has SHA-256")
    assert [json.loads(text)["text"] for text in content.splitlines()] == [
        r.texts[0] for r in single_data(3).splits["train"]
    ]
    assert (shard / MANIFEST).is_file()


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"copies": 0}, "copies=0"),
        ({"candidates": 0}, "candidates=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"replace": 0.0}, "replace=0.0"),
        ({"replace": 1.1}, "replace=1.1"),
        ({"replace": float("nan")}, "replace=nan"),
    ],
)
def test_recipes_out_of_range(settings: dict, wrong: str) -> None:
    with pytest.raises(UserError, match=f"augmentation: {wrong}; "):
        AugmentationRecipe(**settings)


@pytest.mark.parametrize("length", [2, 65])
def test_a_length_the_tokenizer_cannot_have(model, tmp_path: Path, length: int) -> None:
    with pytest.raises(UserError, match=f"max_length={length}; a text has 2 special tokens, .* is 64"):
        augmenting(single_data(2), model, ArtifactStore(tmp_path), AugmentationRecipe(max_length=length))
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_without_words() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(UserError, match="no whole words"):
        whole_words(tokenizer, 6)
    assert list(whole_words(tokenizer, 1000).values()) == [*SYLLABLES, *WORDS]
