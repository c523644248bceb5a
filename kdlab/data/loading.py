"""Batches of prepared rows: a seeded order, masking, padding, and a loader that resumes where it stopped.

The whole training is one sequence of batches, with passes over the data counted in `Batch.epoch`. So a resumed run needs
the number of delivered batches and nothing else: there is no state at the end of an epoch to restore.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdlab.data.permutation import Permutation
from kdlab.data.text import corpus
from kdlab.data.text.masking import Masker
from kdlab.runtime import distributed
from kdlab.runtime.seeding import stable
from kdlab.types import IGNORE, Batch

POOL = 50  # batches whose rows are sorted by length together
LARGE = 2_000_000  # rows; more are shuffled without an index in memory of each


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, row) pairs in a random order that depends on `seed` alone, not on the number of ranks.

    `lengths` (N,) tokens of all rows; `without` the ascending indices of those that are not drawn (None: all are); `batches`
    in all, over as many epochs as that takes; `grouped`: rows of similar length in a batch, which saves padding.

    The global batch holds `batch_size` rows for each of `world` ranks; each `rank` takes its contiguous share. The last
    batch of an epoch may be smaller; a rank without a row in it gets one that is marked as not real (-1 - row). `start`:
    the first batch to deliver, for a resumed run.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        batches: int,
        seed: int,
        rank: int,
        world: int,
        without: np.ndarray | None = None,
        grouped: bool = True,
    ) -> None:
        self.lengths = lengths
        self.grouped = grouped
        self.without = np.zeros(0, dtype=np.int64) if without is None else without
        self.count = len(lengths) - len(self.without)  # of the rows that are drawn
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = 0

    @property
    def per_epoch(self) -> int:
        """Global batches in one pass over the data."""
        return -(-self.count // (self.batch_size * self.world))

    @property
    def rows(self) -> np.ndarray:
        """Indices (n,) of the rows that are drawn, ascending."""
        return self._drawn(np.arange(self.count))

    def _drawn(self, places: np.ndarray) -> np.ndarray:
        """The rows at `places` among those that are drawn."""
        return places + np.searchsorted(self.without - np.arange(len(self.without)), places, side="right")

    def total_batches(self, batches: int | None, epochs: int | None) -> int:
        """Batches of a training of at most `batches` batches and at most `epochs` passes; one of both may be None."""
        limits = (batches, None if epochs is None else epochs * self.per_epoch)
        return min(limit for limit in limits if limit is not None)

    def __len__(self) -> int:
        return self.batches

    def epoch_batches(self, epoch: int) -> Sequence[np.ndarray]:
        """Row indices of the global batches of one epoch, in a shuffled order.

        Grouped: pools of `POOL` batches are sorted by length before they are cut into batches. Of more than `LARGE` rows the
        batches are made when they are taken, and a pool's batches stay together.
        """
        size = self.batch_size * self.world
        if self.count > LARGE:
            shuffled = Permutation(self.count, "order", self.seed, epoch)
            return LargeEpoch(
                self.count, size, lambda places: self._drawn(shuffled(places)), partial(self._pool, epoch)
            )
        rng = np.random.default_rng(stable("order", self.seed, epoch))
        order = self._drawn(rng.permutation(self.count))
        if not self.grouped:
            return _cut(order, size)
        batches = []
        for start in range(0, len(order), size * POOL):
            batches += _cut(self._by_length(order[start : start + size * POOL]), size)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _pool(self, epoch: int, number: int, rows: np.ndarray, size: int) -> list[np.ndarray]:
        """The batches of a pool of a large epoch, shuffled where they were sorted."""
        if not self.grouped:
            return _cut(rows, size)
        batches = _cut(self._by_length(rows), size)
        rng = np.random.default_rng(stable("pool", self.seed, epoch, number))
        return [batches[i] for i in rng.permutation(len(batches))]

    def _by_length(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(self.lengths[rows], kind="stable")]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        current, batches = -1, []
        for index in range(self.start, self.batches):
            epoch, place = divmod(index, self.per_epoch)
            if epoch != current:
                current, batches = epoch, self.epoch_batches(epoch)
            share = np.array_split(batches[place], self.world)[self.rank]
            yield [(epoch, int(row)) for row in share] or [(epoch, -1 - int(batches[place][0]))]


def drawn(count: int, rows: int, purpose: str, seed: int) -> np.ndarray:
    """Indices of at most `rows` of `count` rows, drawn at random for a purpose; of more than `LARGE` without an index of all."""
    if count > LARGE:
        return Permutation(count, purpose, seed)(np.arange(min(rows, count)))
    return np.random.default_rng(stable(purpose, seed)).permutation(count)[:rows]


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


class LargeEpoch(Sequence[np.ndarray]):
    """The global batches of one epoch of `count` rows, `size` rows each, made a pool at a time when one of it is taken.

    `row_at`: the rows at places of the shuffled order; `batches_of` (number of a pool, its rows, `size`): its batches.
    """

    def __init__(
        self,
        count: int,
        size: int,
        row_at: Callable[[np.ndarray], np.ndarray],
        batches_of: Callable[[int, np.ndarray, int], list[np.ndarray]],
    ) -> None:
        self._count, self._size, self._row_at, self._batches_of = count, size, row_at, batches_of
        self._last: tuple[int, list[np.ndarray]] = -1, []

    def __len__(self) -> int:
        return -(-self._count // self._size)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        pool, within = divmod(range(len(self))[place], POOL)
        if self._last[0] != pool:
            start = pool * POOL * self._size
            rows = self._row_at(np.arange(start, min(start + POOL * self._size, self._count)))
            self._last = pool, self._batches_of(pool, rows, self._size)
        return self._last[1][within]


class MaskedRows(Dataset):
    """Masked rows of a prepared corpus: `rows[epoch, row]` is (row, real, epoch, input_ids (L,), labels (L,)).

    A negative index -1 - row gives that row, marked as not real. Rows longer than `crop` tokens give a stretch of that
    length, another one in each epoch; first and last token stay.
    """

    def __init__(self, data: corpus.TokenizedText, masker: Masker, crop: int | None = None) -> None:
        self.data = data
        self.masker = masker
        self.crop = crop

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, bool, int, np.ndarray, np.ndarray]:
        epoch, row = key
        real = row >= 0
        row = row if real else -1 - row
        ids = self.data[row]
        if self.crop is not None and len(ids) > self.crop:
            start = 1 + stable("crop", epoch, row) % (len(ids) - self.crop + 1)
            ids = np.concatenate((ids[:1], ids[start : start + self.crop - 2], ids[-1:]))
        ids, labels = self.masker(ids, epoch, row)
        return row, real, epoch, ids, labels


class MaskingCollate:
    """Make a `Batch` of masked rows, padded with `pad` to the longest. A class, so that loader processes can unpickle it."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, items: Sequence[tuple[int, bool, int, np.ndarray, np.ndarray]]) -> Batch:
        longest = max(len(ids) for *_, ids, _ in items)
        input_ids = np.full((len(items), longest), self.pad, dtype=np.int64)
        labels = np.full((len(items), longest), IGNORE, dtype=np.int64)
        mask = np.zeros((len(items), longest), dtype=np.int64)
        for i, (*_, ids, targets) in enumerate(items):
            input_ids[i, : len(ids)], labels[i, : len(ids)], mask[i, : len(ids)] = ids, targets, 1
        return Batch(
            rows=torch.tensor([row for row, *_ in items]),
            epoch=items[0][2],
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(mask),
            labels=torch.from_numpy(labels),
            real=torch.tensor([real for _, real, *_ in items]),
        )


class ResumableLoader(DataLoader):
    """A DataLoader over a `BatchOrder` that resumes after the last delivered batch.

    Lightning saves its state; the state of rank 0 serves all ranks, since all have delivered the same number. Of each
    `accumulate` batches, those of an optimizer step, the first has the others as `Batch.following`.
    """

    delivered = 0  # batches
    accumulate = 1

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.delivered = self.batch_sampler.start  # pyright: ignore
        batches = super().__iter__()
        while step := list(itertools.islice(batches, self.accumulate - self.delivered % self.accumulate)):
            step[0].following = tuple(step[1:])
            for batch in step:
                self.delivered += 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of delivered batches."""
        return {"given": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches of `state`."""
        self.batch_sampler.start = state["given"]  # pyright: ignore


class FixedBatches:
    """This rank's batches of chosen rows, in one fixed order, as often as they are iterated over.

    `rows` (N,) indices into `data`, sorted by their `lengths`, cut into batches of `size` and dealt out to the ranks in
    turn without padding, so ranks may have unequal numbers of batches. `epoch` decides the masks of masked rows.
    """

    def __init__(
        self, data: Any, collate: Callable[..., Batch], lengths: np.ndarray, rows: np.ndarray, epoch: int, size: int
    ) -> None:
        self._rows, self._size = rows[np.argsort(lengths[rows], kind="stable")], size
        step = size * distributed.world()
        self._starts = range(size * distributed.rank(), len(rows), step)  # of this rank's batches
        self._data, self._collate, self._epoch = data, collate, epoch

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Batch]:
        return _FixedIterator(self._starts, lambda start: self._batch(self._rows[start : start + self._size]))

    def sample(self, count: int, size: int) -> list[Batch]:
        """`count` batches of `size` of this rank's rows, drawn at random whatever their length, the same each time.

        Rows repeat where there are fewer.
        """
        rows = np.concatenate([self._rows[start : start + self._size] for start in self._starts])
        order = np.random.default_rng(stable("sample", size)).permutation(len(rows))
        return [self._batch(rows[part]) for part in np.resize(order, (count, size))]

    def _batch(self, rows: np.ndarray) -> Batch:
        return self._collate([self._data[self._epoch, int(row)] for row in rows])


class _FixedIterator:
    """An iterator over batches with a length hint, for progress bars."""

    def __init__(self, starts: Sequence[int], batch_at: Callable[[int], Batch]) -> None:
        self._left, self._starts, self._batch_at = len(starts), iter(starts), batch_at

    def __length_hint__(self) -> int:
        return self._left

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = next(self._starts)
        self._left -= 1
        return self._batch_at(start)
