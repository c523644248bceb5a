"""Both data modules with a user's own LightningModule and Trainer: no configuration, no other part of kdlab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import BertTokenizer

from kdlab.data.datamodules import CorpusDataModule, GLUEDataModule, TrainingDataModule
from kdlab.data.tasks import dataset
from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.data.text import corpus
from kdlab.data.text.masking import Masker
from kdlab.data.text.sources import TextFolder
from kdlab.errors import UserError
from kdlab.types import Batch, TaskShape

WORDS = [f"w{number}" for number in range(40)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={token: number for number, token in enumerate([*SPECIAL, *WORDS])})


def text(number: int) -> str:
    return " ".join(WORDS[(number + i) % len(WORDS)] for i in range(3 + number % 9))


@pytest.fixture(scope="module")
def glue(tokenizer: BertTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [LabelledRow((text(number),), number % 2) for number in range(21)]
    hidden = LabelledRow((text(30),), None)
    folder = tmp_path_factory.mktemp("glue")
    data = TaskData(TaskShape(1, ("no", "yes"), ("accuracy",)), {"train": [*rows, hidden], "dev": rows[:7]})
    dataset.prepare(data, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def wiki(tokenizer: BertTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = tmp_path_factory.mktemp("texts")
    (texts / "a.txt").write_text("\n".join(text(number) for number in range(40)))
    folder = tmp_path_factory.mktemp("corpus")
    corpus.prepare(TextFolder(str(texts), "line"), tokenizer, folder, min_length=3, max_length=12, heldout=0.2, seed=0)
    return folder


def glue_data(folder: Path, **options: Any) -> GLUEDataModule:
    return GLUEDataModule(folder, pad=0, batch_size=4, seed=1, **options)


def wiki_data(folder: Path, tokenizer: BertTokenizer, **options: Any) -> CorpusDataModule:
    masker = Masker(4, range(5), len(tokenizer), seed=0)
    return CorpusDataModule(folder, masker, masker, pad=0, batch_size=4, seed=1, **options)


class BagOfWords(pl.LightningModule):
    """A user's module: predicts the label of a row, or the labels of its masked tokens, from the mean embedding."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(len(SPECIAL) + len(WORDS), outputs)
        self.trained: list[int] = []
        self.evaluated: list[int] = []

    def loss(self, batch: Batch) -> Tensor:
        logits = self.embedding(batch.input_ids)
        if batch.labels.ndim == 2:
            logits = logits.unsqueeze(2).expand(-1, -1, batch.labels.shape[1])
        return torch.nn.functional.cross_entropy(logits, batch.labels)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.trained += batch.rows.tolist()
        return self.loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self.loss(batch).isfinite()
        self.evaluated += batch.rows.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module: BagOfWords, data: TrainingDataModule) -> BagOfWords:
    trainer = pl.Trainer(
        max_epochs=1, use_distributed_sampler=False, num_sanity_val_steps=0, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*tensorboardX")
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start", "ignore:.*dataloader is not resumable")
def test_a_users_trainer_reads_every_row_once_a_pass_and_the_evaluation_rows(glue, wiki, tokenizer):
    module = fit(BagOfWords(2), glue_data(glue, epochs=2))
    assert sorted(module.trained) == sorted([*range(22)] * 2)
    assert sorted(module.evaluated) == list(range(7))
    data = wiki_data(wiki, tokenizer, epochs=2)
    module = fit(BagOfWords(len(tokenizer)), data)
    assert sorted(module.trained) == sorted([*range(len(data.train))] * 2)
    assert sorted(module.evaluated) == list(range(len(data.heldout)))


def rows_of(batches: Any) -> list[int]:
    return [row for batch in batches for row in batch.rows.tolist()]


def test_evaluation_batches_are_the_same_each_time_and_know_their_number(wiki, tokenizer):
    (loader,) = wiki_data(wiki, tokenizer).val_dataloader()
    first, second = list(loader), list(loader)
    assert len(loader) == len(first) and rows_of(first) == rows_of(second)
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(first, second, strict=True))
    lengths = [int(batch.attention_mask.sum(1).max()) for batch in first]
    assert lengths == sorted(lengths)


def test_rows_set_aside_are_not_trained_on_and_hidden_labels_never_observed(glue):
    data = glue_data(glue, epochs=1)
    assert sorted(rows_of(data.observed_batches(22))) == list(range(21))
    data.set_aside(4)
    aside = rows_of(data.aside_batches())
    assert len(aside) == 4 and 21 not in aside
    assert sorted([*rows_of(data.train_dataloader()), *aside]) == list(range(22))
    few = glue_data(glue)
    few.train.labels = np.array([0, 1, 0, 1, *[-100] * 18])
    with pytest.raises(UserError, match="of 4 training rows none can be held out"):
        few.set_aside(1)


def test_observations_of_rows_held_out_read_these_alone_and_the_same_each_time(glue):
    data = glue_data(glue, epochs=1)
    data.set_aside(4)
    aside = rows_of(data.aside_batches())
    assert sorted(rows_of(data.observed_batches(99, True))) == sorted(aside)
    two = rows_of(data.observed_batches(2, True))
    assert len(two) == 2 and set(two) < set(aside) and rows_of(data.observed_batches(2, True)) == two
    assert not set(rows_of(data.observed_batches(99))) & set(aside)


def test_coming_batches_are_those_that_the_loader_delivers_then(glue, wiki, tokenizer):
    """Whatever it has delivered before, also in the next pass over the rows, with the same masks."""
    for data in (glue_data(glue, epochs=3), wiki_data(wiki, tokenizer, epochs=3)):
        loader = iter(data.train_dataloader())
        next(loader)
        per_epoch = data.sampler().per_epoch
        coming = data.coming_batches(per_epoch - 1, 3)
        delivered = [batch for _, batch in zip(range(per_epoch + 1), loader, strict=False)][per_epoch - 2 :]
        assert len(coming) == len(delivered) == 3
        for ours, theirs in zip(coming, delivered, strict=True):
            assert torch.equal(ours.rows, theirs.rows) and torch.equal(ours.input_ids, theirs.input_ids)
            assert torch.equal(ours.labels, theirs.labels)


def relatives_of(originals: list[LabelledRow], copies: list[LabelledRow], tokenizer: BertTokenizer, folder: Path):
    """The data module of `originals` and then `copies`, with one row set aside."""
    shape = TaskShape(1, ("no", "yes"), ("accuracy",))
    folder.mkdir()
    dataset.prepare(
        TaskData(shape, {"train": [*originals, *copies], "dev": originals}), tokenizer, folder, max_length=16
    )
    data = glue_data(folder, epochs=1)
    data.set_aside(1)
    return data


def test_copies_of_rows_set_aside_are_not_trained_on(tokenizer, tmp_path):
    """Five originals of three altered copies each: the copies of the one set aside go with it."""
    originals = [LabelledRow((text(number),), number % 2) for number in range(5)]
    copies = [LabelledRow((text(10 * o + 10 + c),), None, o) for o in range(5) for c in range(1, 4)]
    data = relatives_of(originals, copies, tokenizer, tmp_path / "rows")
    (aside,) = rows_of(data.aside_batches())
    own = [5 + 3 * aside + copy for copy in range(3)]
    trained = rows_of(data.train_dataloader())
    assert sorted([*trained, aside, *own]) == list(range(20))
    assert len(data.sampler()) == 4  # 16 rows in batches of 4: counted without the rows set aside and their copies
    assert aside not in rows_of(data.observed_batches(20))


@pytest.mark.parametrize(
    "written", [str, str.upper, str.title, "  {}\t".format], ids=["same", "upper", "title", "spaces"]
)
def test_duplicates_of_a_row_set_aside_stay_on_no_side(written, tmp_path):
    """The tokenizer is cased: to it, the duplicates are other tokens."""
    cased = BertTokenizer(
        vocab={token: i for i, token in enumerate([*SPECIAL, *WORDS, *map(str.upper, WORDS)])}, do_lower_case=False
    )
    originals = [LabelledRow((text(number),), 0) for number in range(5)]
    doubles = [LabelledRow((written(row.texts[0]),), 1) for row in originals]
    altered = [LabelledRow((text(20 + number),), None, 5 + number) for number in range(5)]  # copies of the doubles
    data = relatives_of(originals, [*doubles, *altered], cased, tmp_path / "rows")
    (aside,) = rows_of(data.aside_batches())
    assert sorted(rows_of(data.train_dataloader())) == [row for row in range(15) if row % 5 != aside % 5]


def test_rows_that_differ_only_beyond_the_longest_length_are_duplicates(tokenizer, tmp_path):
    """16 tokens: [CLS], 14 words, [SEP]."""
    long = [" ".join(f"w{number}" for _ in range(14)) for number in range(5)]
    rows = [LabelledRow((f"{words} w{tail}",), 0) for tail in (30, 31) for words in long]
    data = relatives_of(rows, [], tokenizer, tmp_path / "rows")
    aside = rows_of(data.aside_batches())
    assert sorted({row % 5 for row in range(10)} - {row % 5 for row in rows_of(data.train_dataloader())}) == [
        aside[0] % 5
    ]


def test_equal_sequences_of_a_text_stay_on_no_side(tokenizer, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\n".join([text(number) for number in range(30)] * 2))
    folder = tmp_path / "corpus"
    folder.mkdir()
    corpus.prepare(
        TextFolder(str(tmp_path / "texts"), "line"), tokenizer, folder, min_length=3, max_length=12, heldout=0.2, seed=0
    )
    data = wiki_data(folder, tokenizer, epochs=1)
    data.set_aside(8)
    tokens = [data.train[row].tolist() for row in range(len(data.train))]
    aside, trained = rows_of(data.aside_batches()), rows_of(data.train_dataloader())
    assert len(aside) == 8 and trained
    assert not {tuple(tokens[row]) for row in aside} & {tuple(tokens[row]) for row in trained}


def test_a_loader_resumes_after_the_batches_that_it_delivered(glue):
    whole = [batch.rows.tolist() for batch in glue_data(glue, epochs=2).train_dataloader()]
    loader = glue_data(glue, epochs=2).train_dataloader()
    iterator = iter(loader)
    before = [next(iterator).rows.tolist() for _ in range(7)]
    state = loader.state_dict()
    assert state == {"given": 7}  # a key of checkpoints
    again = glue_data(glue, epochs=2).train_dataloader()
    again.load_state_dict(state)
    assert [*before, *(batch.rows.tolist() for batch in again)] == whole
