"""Batches of causal rows: padding, document numbers, the same order on any number of ranks, resume, held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdlab.data.causal.datamodule import CausalDataModule
from kdlab.types import IGNORE
from tests.unit.data.causal.test_dataset import TEXTS, Texts, prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("causal") / "rows")


def module(folder: Path, **options: Any) -> CausalDataModule:
    return CausalDataModule(folder, pad=0, **{"batch_size": 3, "seed": 1, "epochs": 2, **options})


def test_a_batch_is_padded_on_the_right_and_numbers_its_documents(folder):
    batch = next(iter(module(folder).train_dataloader()))
    assert batch.documents is not None and batch.token_types is None and batch.real.all()
    lengths = batch.attention_mask.sum(1)
    for row, length in enumerate(lengths.tolist()):
        assert batch.attention_mask[row, :length].all() and not batch.attention_mask[row, length:].any()
        assert (batch.labels[row, length - 1 :] == IGNORE).all()
        steps = batch.documents[row, :length].diff()
        assert batch.documents[row, 0] == 0 and set(steps.tolist()) <= {0, 1}
        assert (batch.labels[row, : length - 1][steps == 1] == IGNORE).all()
        inside = batch.labels[row, : length - 1][steps == 0]
        assert torch.equal(inside, batch.input_ids[row, 1:length][steps == 0])


def test_rows_of_one_document_carry_no_numbers(tmp_path):
    data = module(prepared(tmp_path / "rows", pack=False))
    assert all(batch.documents is None for batch in data.train_dataloader())


def rows_of(batches: Any) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches]


def test_every_row_comes_once_an_epoch_in_an_order_that_seed_and_epoch_decide(folder):
    batches = rows_of(module(folder).train_dataloader())
    half = len(batches) // 2
    passes = [sum(part, []) for part in (batches[:half], batches[half:])]
    assert [sorted(rows) for rows in passes] == [list(range(len(module(folder).train)))] * 2
    assert passes[0] != passes[1]
    assert rows_of(module(folder).train_dataloader()) == batches != rows_of(module(folder, seed=2).train_dataloader())


def test_two_ranks_share_the_global_batch_of_one(folder):
    data, single = module(folder, batch_size=2), module(folder, batch_size=4)
    shares = [list(data.sampler(rank, 2)) for rank in range(2)]
    whole = list(single.sampler())
    for left, right, both in zip(*shares, whole, strict=True):
        assert [key for key in [*left, *right] if key[1] >= 0] == both


def test_a_resumed_loader_continues_after_the_last_batch(folder):
    whole = rows_of(module(folder).train_dataloader())
    for done in (1, len(whole) // 2, len(whole) - 1):
        loader = module(folder).train_dataloader()
        loader.load_state_dict({"given": done})
        assert rows_of(loader) == whole[done:]


def test_held_out_rows_are_drawn_once_whatever_the_seed(folder):
    first, second = (module(folder, seed=seed, heldout_rows=2) for seed in (1, 2))
    assert rows_of(first.heldout_splits()[""]) == rows_of(second.heldout_splits(final=True)[""])
    assert len(sum(rows_of(first.heldout_splits()[""]), [])) == 2
    everything = sum(rows_of(module(folder, heldout_rows=None).heldout_splits()[""]), [])
    assert sorted(everything) == list(range(len(first.heldout)))


def test_rows_set_aside_and_their_duplicates_are_not_trained_on(tmp_path):
    data = module(prepared(tmp_path / "rows", Texts([*TEXTS, *TEXTS]), pack=False), epochs=1)
    data.set_aside(5)
    assert data.excludes_relatives
    aside = sum(rows_of(data.aside_batches()), [])
    trained = sum(rows_of(data.train_dataloader()), [])
    texts = {row: tuple(data.train[row][0].tolist()) for row in range(len(data.train))}
    assert len(aside) == 5 and not {texts[row] for row in aside} & {texts[row] for row in trained}
    assert np.array_equal(data.scorable_rows(), np.arange(len(data.train)))
