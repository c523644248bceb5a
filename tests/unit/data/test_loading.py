"""The order of rows: each once an epoch, the same on any number of ranks, from any starting point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdlab.data import loading
from kdlab.data.loading import BatchOrder, MaskedRows, MaskingCollate, ResumableLoader, drawn
from kdlab.data.text.masking import Masker
from kdlab.runtime.seeding import stable
from kdlab.types import IGNORE

LENGTHS = np.random.default_rng(0).integers(5, 60, size=103)


def sampler(
    rank: int = 0, world: int = 1, batch: int = 8, batches: int = 40, seed: int = 1, grouped: bool = True
) -> BatchOrder:
    return BatchOrder(LENGTHS, batch, batches, seed, rank, world, grouped=grouped)


@pytest.mark.parametrize("grouped", [True, False])
def test_every_row_comes_once_an_epoch_in_another_order_each_time(grouped):
    one = list(sampler(batches=2 * sampler().per_epoch, grouped=grouped))
    epochs = [[row for part in one for epoch, row in part if epoch == e] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(103))
    assert epochs[0] != epochs[1]
    assert [len(part) for part in one].count(103 % 8) == 2  # the last rows of each epoch are not dropped


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_global_batch_in_order(world, grouped):
    whole = list(sampler(batch=8 * world, grouped=grouped))
    shares = [list(sampler(rank, world, grouped=grouped)) for rank in range(world)]
    for i, expected in enumerate(whole):
        rows = [key for share in shares for key in share[i] if key[1] >= 0]
        assert rows == expected
        assert all(share[i] for share in shares)  # no rank is without a row, real or not


def test_starting_later_gives_the_rest_of_the_same_batches():
    whole = list(sampler())
    for start in (0, 1, 12, 13, 14, 39):
        later = sampler()
        later.start = start
        assert list(later) == whole[start:] and len(later) == len(whole)


def test_batches_hold_rows_of_similar_length_and_seeds_differ():
    spread = np.mean([np.ptp([LENGTHS[row] for _, row in part]) for part in sampler(batches=13)])
    assert spread < np.ptp(LENGTHS) / 4
    free = np.mean([np.ptp([LENGTHS[row] for _, row in part]) for part in sampler(batches=13, grouped=False)])
    assert free > np.ptp(LENGTHS) / 2
    assert list(sampler(seed=2)) != list(sampler(seed=1))


def rows(crop: int | None = None) -> MaskedRows:
    data = [np.concatenate(([2], np.arange(10, 10 + n), [3])).astype(np.int32) for n in (4, 30, 9)]
    return MaskedRows(data, Masker(4, [0, 1, 2, 3, 4], 120, seed=0), crop)  # pyright: ignore


def test_a_row_that_is_not_real_is_marked_and_a_batch_is_padded():
    batch = MaskingCollate(pad=0)([rows()[0, 1], rows()[0, -1 - 2]])
    assert batch.rows.tolist() == [1, 2] and batch.real.tolist() == [True, False]
    assert batch.input_ids.shape == (2, 32) and batch.attention_mask.sum(1).tolist() == [32, 11]
    assert (batch.labels[1, 11:] == IGNORE).all() and (batch.input_ids[1, 11:] == 0).all()
    assert torch.equal(batch.take(torch.tensor([1])).input_ids, batch.input_ids[1:, :11])


def test_crops_are_parts_of_the_row_that_change_with_the_epoch():
    seen = set()
    for epoch in range(20):
        _, _, _, ids, labels = rows(crop=12)[epoch, 1]
        original = np.where(labels == IGNORE, ids, labels)
        assert len(ids) == 12 and original[0] == 2 and original[-1] == 3
        assert (np.diff(original[1:-1]) == 1).all()
        seen.add(int(original[1]))
    assert len(seen) > 5 and min(seen) >= 10 and max(seen) + 9 <= 39


def test_rows_are_drawn_from_large_sets_without_an_index_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(stable("purpose", 3))
    assert np.array_equal(drawn(60, 7, "purpose", 3), rng.permutation(60)[:7])
    monkeypatch.setattr(loading, "LARGE", 59)
    few, all_of_them = drawn(60, 7, "purpose", 3), drawn(60, 99, "purpose", 3)
    assert sorted(all_of_them.tolist()) == list(range(60)) and np.array_equal(few, all_of_them[:7])
    assert not np.array_equal(few, drawn(60, 7, "purpose", 4)) and not np.array_equal(few, drawn(60, 7, "another", 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_first_batch_of_an_optimizer_step_has_the_others(workers):
    """From any start, also one within a step; the last step may be shorter."""
    whole = list(sampler(batches=11))

    def loaded(start: int, accumulate: int) -> list[tuple[list[int], list[list[int]]]]:
        order = sampler(batches=11)
        order.start = start
        data = [np.array([2, 10 + i % 90, 3], dtype=np.int32) for i in range(len(LENGTHS))]
        masked = MaskedRows(data, Masker(4, [0, 1, 2, 3, 4], 120, seed=0))  # pyright: ignore
        loader = ResumableLoader(masked, batch_sampler=order, collate_fn=MaskingCollate(0), num_workers=workers)
        loader.accumulate = accumulate
        found = []
        for number, batch in enumerate(loader, start + 1):
            assert loader.state_dict() == {"given": number}
            found.append((batch.rows.tolist(), [one.rows.tolist() for one in batch.following]))
        return found

    ids = [[row for _, row in part] for part in whole]
    assert loaded(0, 1) == [(one, []) for one in ids]
    assert loaded(4, 4) == [
        (ids[4], ids[5:8]),
        *((one, []) for one in ids[5:8]),
        (ids[8], ids[9:]),
        (ids[9], []),
        (ids[10], []),
    ]
    assert loaded(6, 4)[:3] == [(ids[6], ids[7:8]), (ids[7], []), (ids[8], ids[9:])]
