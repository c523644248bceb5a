"""Data modules: the rows of a prepared corpus or task as batches, in an order and with masks that one seed decides.

The whole training is one Lightning epoch (passes over the data are counted in `Batch.epoch`), so a resumed run only
needs the number of batches it has seen: there is no epoch end to get wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdlab.data.tasks import dataset
from kdlab.data.text import corpus
from kdlab.data.text.masking import STATIC, Masker
from kdlab.errors import UserError
from kdlab.runtime import distributed, signals
from kdlab.runtime.seeding import stable
from kdlab.types import IGNORE, Batch

OBSERVED_EPOCH = STATIC - 1  # the fixed "epoch" whose masks a policy's evaluation rows have
POOL = 50  # batches whose rows are sorted by length together


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, row) pairs in a random order, the same for a seed on any number of ranks.

    `grouped`: each batch of rows of similar length, which wastes little on padding; else rows as they are drawn.

    The global batch holds `batch_size` rows for each rank; each rank takes its contiguous share. The last batch of an
    epoch may be smaller; a rank that would get no row gets one marked as not real (row -1 - index). `start` is the
    number of batches already seen. `lengths` are those of all rows; `rows`: the ones to draw from (None: all).
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        batches: int,
        seed: int,
        rank: int,
        world: int,
        rows: np.ndarray | None = None,
        grouped: bool = True,
    ) -> None:
        self.lengths = lengths
        self.grouped = grouped
        self.rows = np.arange(len(lengths)) if rows is None else rows
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = 0

    @property
    def per_epoch(self) -> int:
        """Global batches in one pass over the data."""
        return -(-len(self.rows) // (self.batch_size * self.world))

    def within(self, batches: int | None, epochs: int | None) -> int:
        """How many batches a training of at most `batches` and at most `epochs` passes has; one may be None."""
        limits = (batches, None if epochs is None else epochs * self.per_epoch)
        return min(limit for limit in limits if limit is not None)

    def __len__(self) -> int:
        return self.batches

    def epoch_batches(self, epoch: int) -> list[np.ndarray]:
        """The global batches of one epoch: shuffled; grouped, then sorted by length within pools, and shuffled again."""
        rng = np.random.default_rng(stable("order", self.seed, epoch))
        order = self.rows[rng.permutation(len(self.rows))]
        size = self.batch_size * self.world
        if not self.grouped:
            return [order[i : i + size] for i in range(0, len(order), size)]
        batches = []
        for start in range(0, len(order), size * POOL):
            pool = order[start : start + size * POOL]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        made, known = -1, []
        for index in range(self.start, self.batches):
            epoch, place = divmod(index, self.per_epoch)
            if epoch != made:
                made, known = epoch, self.epoch_batches(epoch)
            whole = known[place]
            mine = np.array_split(whole, self.world)[self.rank]
            yield [(epoch, int(row)) for row in mine] or [(epoch, -1 - int(whole[0]))]


class MaskedRows(Dataset):
    """Rows of a prepared corpus with their masks: (epoch, row) to (row, real, epoch, input_ids, labels).

    Rows longer than `crop` tokens give a stretch of that length, another one in each epoch; first and last token stay.
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
    """Pads rows to the longest of them. A class, so that loader processes can receive it."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, items: Sequence[tuple[int, bool, int, np.ndarray, np.ndarray]]) -> Batch:
        longest = max(len(ids) for *_, ids, _ in items)
        input_ids = np.full((len(items), longest), self.pad, dtype=np.int64)
        labels = np.full((len(items), longest), IGNORE, dtype=np.int64)
        mask = np.zeros((len(items), longest), dtype=np.int64)
        for i, (*_, ids, wanted) in enumerate(items):
            input_ids[i, : len(ids)], labels[i, : len(ids)], mask[i, : len(ids)] = ids, wanted, 1
        return Batch(
            rows=torch.tensor([row for row, *_ in items]),
            epoch=items[0][2],
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(mask),
            labels=torch.from_numpy(labels),
            real=torch.tensor([real for _, real, *_ in items]),
        )


class ResumableLoader(DataLoader):
    """A DataLoader that knows how many batches it has given out, and goes on from there.

    Its state is Lightning's to save; rank 0's stands for all, since all ranks have given out the same number.
    """

    given = 0

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.given = self.batch_sampler.start  # pyright: ignore
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batch_sampler.start = state["given"]  # pyright: ignore


class TrainingRows(pl.LightningDataModule):
    """What both data modules share: the order of the training rows, and rows set aside from them.

    `batch_size` rows a rank; `batches` micro-batches in the whole training, or `epochs` passes over the rows;
    `grouped`: a batch has rows of similar length.
    """

    train: Any
    lengths: np.ndarray

    def __init__(
        self,
        batch_size: int,
        seed: int,
        batches: int | None,
        epochs: int | None,
        heldout_rows: int | None,
        workers: int,
        grouped: bool,
    ) -> None:
        super().__init__()
        self.grouped = grouped
        self.batch_size, self.seed, self.workers, self.heldout_rows = batch_size, seed, workers, heldout_rows
        self._batches, self._epochs = batches, epochs
        self._aside = np.zeros(0, dtype=np.int64)

    def training_rows(self) -> tuple[Any, Any]:
        """The rows a loader reads, by (epoch, row), and what makes batches of them."""
        raise NotImplementedError

    def drawable(self) -> np.ndarray:
        """The training rows that a loss can be observed on."""
        raise NotImplementedError

    def set_aside(self, rows: int) -> None:
        """Keep `rows` training rows, at most a fifth, drawn once at random, out of training: `aside_batches` gives them."""
        known = self.drawable()
        rows = min(rows, len(known) // 5)
        if rows == 0:
            raise UserError(f"of {len(known)} training rows none can be held out: five rows or more are needed")
        chosen = np.random.default_rng(stable("set aside", self.seed)).permutation(len(known))[:rows]
        self._aside = np.sort(known[chosen])

    def sampler(self, rank: int = 0, world: int = 1) -> BatchOrder:
        rows = np.setdiff1d(np.arange(len(self.lengths)), self._aside) if len(self._aside) else None
        sampler = BatchOrder(self.lengths, self.batch_size, 0, self.seed, rank, world, rows, self.grouped)
        sampler.batches = sampler.within(self._batches, self._epochs)
        return sampler

    def train_dataloader(self) -> ResumableLoader:
        rows, collate = self.training_rows()
        return ResumableLoader(
            rows,
            batch_sampler=self.sampler(distributed.rank(), distributed.world()),
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=signals.outlive,
            pin_memory=torch.cuda.is_available(),
        )

    def observed_batches(self, rows: int) -> Iterator[Batch]:
        """This rank's batches of `rows` training rows drawn once at random, for a policy to watch (AdaDS Eq. 11)."""
        known = self.drawable()
        chosen = np.random.default_rng(stable("selector evaluation", self.seed)).permutation(len(known))[:rows]
        return self._of(known[chosen])

    def aside_batches(self) -> Iterator[Batch]:
        """This rank's batches of the rows set aside, each the same input whenever it is read."""
        return self._of(self._aside)

    def _of(self, rows: np.ndarray) -> Iterator[Batch]:
        data, collate = self.training_rows()
        return _fixed(data, collate, self.lengths, rows, OBSERVED_EPOCH, self.batch_size)


class CorpusDataModule(TrainingRows):
    """Masked-LM batches of a prepared corpus (`corpus.prepare`): Wikipedia + BookCorpus, or any text.

    `heldout_masker` does not know the run's seed: all runs are scored on the same predictions. `crop`: train on
    stretches of at most that many tokens.
    """

    def __init__(
        self,
        folder: Path,
        masker: Masker,
        heldout_masker: Masker,
        pad: int,
        batch_size: int,
        seed: int,
        batches: int | None = None,
        epochs: int | None = None,
        heldout_rows: int | None = 256,
        workers: int = 0,
        crop: int | None = None,
        grouped: bool = True,
    ) -> None:
        super().__init__(batch_size, seed, batches, epochs, heldout_rows, workers, grouped)
        self.folder, self.masker, self.heldout_masker = folder, masker, heldout_masker
        self.collate = MaskingCollate(pad)
        self.train = corpus.TokenizedText(corpus.load(self.folder, "train"))
        self.crop = crop
        self.lengths = self.train.lengths if crop is None else np.minimum(self.train.lengths, crop)
        self.heldout = corpus.TokenizedText(corpus.load(self.folder, "heldout"))
        self.heldout_rows = min(heldout_rows or len(self.heldout), len(self.heldout))

    def training_rows(self) -> tuple[MaskedRows, MaskingCollate]:
        return MaskedRows(self.train, self.masker, self.crop), self.collate

    def drawable(self) -> np.ndarray:
        return np.arange(len(self.train))

    def heldout_splits(self, final: bool = False) -> dict[str, Iterator[Batch]]:
        """This rank's batches of the held-out rows, unpadded over ranks, with masks that never change."""
        masked = MaskedRows(self.heldout, self.heldout_masker)
        rows = np.arange(self.heldout_rows)
        return {"": _fixed(masked, self.collate, self.heldout.lengths, rows, STATIC, self.batch_size)}


class GLUEDataModule(TrainingRows):
    """Labelled rows of a prepared task (`taskset.prepare`): GLUE, the papers' other sets, or one's own.

    `heldout_rows`: how many rows of each dev split an evaluation along the way reads, drawn once, the same for every
    run (None: all of them, as the last evaluation always does). Rows whose labels are hidden (augmented ones) take part
    in training, not in what a policy observes.
    """

    def __init__(
        self,
        folder: Path,
        pad: int,
        batch_size: int,
        seed: int,
        batches: int | None = None,
        epochs: int | None = None,
        heldout_rows: int | None = None,
        workers: int = 0,
        grouped: bool = True,
    ) -> None:
        super().__init__(batch_size, seed, batches, epochs, heldout_rows, workers, grouped)
        self.folder, self.pad = folder, pad
        self.train = dataset.load(folder, "train")
        self.shape = self.train.shape
        self.lengths = self.train.lengths

    def training_rows(self) -> tuple[dataset.TokenizedRows, Any]:
        return self.train, self.train.collate(self.pad)

    def drawable(self) -> np.ndarray:
        """The rows whose label is known."""
        labels = self.train.labels
        return np.flatnonzero(~np.isnan(labels) if self.shape.regression else labels != IGNORE)

    def dev_splits(self) -> dict[str, dataset.TokenizedRows]:
        """The splits that are scored, the main one first, under "" ("mismatched" of MNLI under its own name)."""
        found = {
            name: dataset.load(self.folder, name) for name in dataset.splits(self.folder) if name.startswith("dev")
        }
        return {name.removeprefix("dev").removeprefix("_"): rows for name, rows in sorted(found.items())}

    def heldout_splits(self, final: bool = False) -> dict[str, Iterator[Batch]]:
        """This rank's batches of each dev split, unpadded over ranks; `final`: of all rows."""
        splits = {}
        for name, rows in self.dev_splits().items():
            limit = len(rows) if final or self.heldout_rows is None else min(self.heldout_rows, len(rows))
            chosen = np.sort(np.random.default_rng(stable("dev rows", name)).permutation(len(rows))[:limit])
            splits[name] = _fixed(rows, rows.collate(self.pad), rows.lengths, chosen, STATIC, self.batch_size)
        return splits


class _Fixed:
    """An iterator over batches that knows how many are left."""

    def __init__(self, parts: Sequence[np.ndarray], make: Callable[[np.ndarray], Batch]) -> None:
        self._left, self._parts, self._make = len(parts), iter(parts), make

    def __length_hint__(self) -> int:
        return self._left

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        part = next(self._parts)
        self._left -= 1
        return self._make(part)


def _fixed(data: Any, collate: Any, lengths: np.ndarray, rows: np.ndarray, epoch: int, size: int) -> Iterator[Batch]:
    """This rank's batches of the given rows, sorted by length; batches are dealt out to ranks in turn."""
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    mine = batches[distributed.rank() :: distributed.world()]
    return _Fixed(mine, lambda part: collate([data[epoch, int(row)] for row in part]))
