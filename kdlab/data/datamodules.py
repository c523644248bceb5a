"""LightningDataModules of prepared text (`CorpusDataModule`) and prepared tasks (`GLUEDataModule`).

Both work with any `pl.Trainer`, without configuration files; their docstrings show how. The whole training is one
Lightning epoch (`max_epochs=1`), in which `Batch.epoch` counts the passes over the data. The data modules split batches
over ranks themselves (`use_distributed_sampler=False`), and their loaders resume in the middle of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from kdlab.data.loading import BatchOrder, FixedBatches, MaskedRows, MaskingCollate, ResumableLoader, drawn
from kdlab.data.tasks import dataset
from kdlab.data.text import corpus
from kdlab.data.text.masking import STATIC, Masker
from kdlab.errors import UserError
from kdlab.runtime import distributed, signals
from kdlab.runtime.seeding import stable
from kdlab.types import IGNORE, Batch

OBSERVED_EPOCH = STATIC - 1  # the fixed "epoch" that decides the masks of observed and set-aside rows


class TrainingDataModule(pl.LightningDataModule):
    """Base of both data modules: the order of the training rows, rows held out of training, loaders.

    `batch_size` rows a rank; `seed` of the order; a training of at most `batches` micro-batches and at most `epochs` passes
    (one of both may be None); `heldout_rows` that an evaluation during training reads; `workers` loader processes (0: load
    in this process); `grouped`: rows of similar length in a batch.
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
        self._untrained = self._aside  # those rows and their relatives
        self._observed: dict[tuple[int, bool], np.ndarray] = {}  # rows that were drawn to be observed

    def training_rows(self) -> tuple[Any, Any]:
        """The data set of training rows, indexed by (epoch, row), and the function that collates them."""
        raise NotImplementedError

    def scorable_rows(self) -> np.ndarray:
        """Indices (N,) of the training rows with a known label."""
        raise NotImplementedError

    def relatives(self, rows: np.ndarray) -> np.ndarray:
        """Indices, sorted, of the training rows that contain the same text as one of `rows`, themselves included."""
        raise NotImplementedError

    def heldout_splits(self, final: bool = False) -> dict[str, Iterator[Batch]]:
        """This rank's batches of each evaluation split; the main split has the name "". `final`: of all rows."""
        return {name: iter(batches) for name, batches in self._heldout(final).items()}

    def heldout_sample(self, count: int, size: int) -> list[Batch]:
        """`count` batches of `size` rows of this rank's main evaluation split, drawn at random, the same each time."""
        return next(iter(self._heldout(final=True).values())).sample(count, size)

    def _heldout(self, final: bool) -> dict[str, FixedBatches]:
        raise NotImplementedError

    def final_splits(self, part: str) -> dict[str, Iterator[Batch]]:
        """This rank's batches of all rows to score at the end, by split as in `heldout_splits`: `part` "dev", or "test",
        which is empty where no test rows have labels."""
        return self.heldout_splits(final=True) if part == "dev" else {}

    def set_aside(self, rows: int) -> None:
        """Hold `rows` random training rows, at most a fifth, out of training; `aside_batches` reads them.

        Their `relatives` (duplicates, augmented copies) are neither trained on nor observed nor read. UserError where
        there are fewer than five rows with a known label, or where no other row is left.
        """
        known = self.scorable_rows()
        rows = min(rows, len(known) // 5)
        if rows == 0:
            raise UserError(f"of {len(known)} training rows none can be held out: five rows or more are needed")
        self._aside = np.sort(known[drawn(len(known), rows, "set aside", self.seed)])
        self._untrained = self.relatives(self._aside)
        self._observed.clear()
        if len(self._untrained) == len(self.lengths):
            raise UserError(f"the {rows} training rows held out and their duplicates are all the rows there are")

    @property
    def excludes_relatives(self) -> bool:
        """True if more rows are held out of training than `set_aside` chose: duplicates or copies of these."""
        return len(self._untrained) > len(self._aside)

    def sampler(self, rank: int = 0, world: int = 1) -> BatchOrder:
        """The order of the training rows for one of `world` ranks; its length is the number of batches."""
        without, grouped = self._untrained, self.grouped
        sampler = BatchOrder(self.lengths, self.batch_size, 0, self.seed, rank, world, without, grouped)
        sampler.batches = sampler.total_batches(self._batches, self._epochs)
        return sampler

    def coming_batches(self, first: int, count: int) -> list[Batch]:
        """This rank's training batches number `first` to `first` + `count` - 1, whatever the loader has delivered."""
        order = self.sampler(distributed.rank(), distributed.world())
        order.start, order.batches = first, first + count
        rows, collate = self.training_rows()
        return [collate([rows[key] for key in keys]) for keys in order]

    def train_dataloader(self) -> ResumableLoader:
        """The loader of the whole training, which is one Lightning epoch."""
        rows, collate = self.training_rows()
        loader = ResumableLoader(
            rows,
            batch_sampler=self.sampler(distributed.rank(), distributed.world()),
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=signals.outlast_signals,
            pin_memory=torch.cuda.is_available(),
        )
        loader.accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        return loader

    def val_dataloader(self) -> list[FixedBatches]:
        """The evaluation splits, the main one first, for a trainer whose module has a `validation_step`."""
        return list(self._heldout(final=False).values())

    def observed_batches(self, rows: int, aside: bool = False) -> Iterator[Batch]:
        """This rank's batches of `rows` random training rows, the same each time: a policy's observation (AdaDS Eq. 11).

        `aside`: of the rows that `set_aside` holds out of training."""
        if (rows, aside) not in self._observed:
            known = self._aside if aside else self.scorable_rows()
            if not aside and len(self._untrained):
                known = np.setdiff1d(known, self._untrained, assume_unique=True)
            self._observed[rows, aside] = known[drawn(len(known), rows, "selector evaluation", self.seed)]
        return self._fixed_batches(self._observed[rows, aside])

    def aside_batches(self) -> Iterator[Batch]:
        """This rank's batches of the rows held out by `set_aside`, with the same input each time."""
        return self._fixed_batches(self._aside)

    def _fixed_batches(self, rows: np.ndarray) -> Iterator[Batch]:
        data, collate = self.training_rows()
        return iter(FixedBatches(data, collate, self.lengths, rows, OBSERVED_EPOCH, self.batch_size))


class CorpusDataModule(TrainingDataModule):
    """Masked-LM batches of a prepared corpus: Wikipedia + BookCorpus, or any text.

        corpus.prepare(TextFolder("texts"), tokenizer, folder, seed=0)
        masker = Masker(tokenizer.mask_token_id, tokenizer.all_special_ids, len(tokenizer), seed=0)
        data = CorpusDataModule(folder, masker, masker, tokenizer.pad_token_id, batch_size=32, seed=0, epochs=3)
        pl.Trainer(max_epochs=1, use_distributed_sampler=False).fit(module, data)

    `folder`, written by `kdlab.data.text.corpus.prepare`; `masker` of training rows; `heldout_masker` of held-out rows,
    with a seed of its own where runs of several seeds must be scored on the same predictions; `pad` the padding token's id;
    `heldout_rows` read in an evaluation (None: all); `crop`: train on stretches of at most that many tokens (None: whole
    rows). The rest as in `TrainingDataModule`. A batch is a `kdlab.types.Batch` with `labels` (B, L).
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
        self.train = corpus.TokenizedText(corpus.mapped(self.folder, "train"))
        self.crop = crop
        self.lengths = self.train.lengths if crop is None else np.minimum(self.train.lengths, crop)
        self.heldout = corpus.TokenizedText(corpus.mapped(self.folder, "heldout"))
        self.heldout_rows = min(heldout_rows or len(self.heldout), len(self.heldout))

    def training_rows(self) -> tuple[MaskedRows, MaskingCollate]:
        """The training rows with the masks of their epoch, and their collate function."""
        return MaskedRows(self.train, self.masker, self.crop), self.collate

    def scorable_rows(self) -> np.ndarray:
        """Indices of all rows: masking labels each of them."""
        return np.arange(len(self.train))

    def relatives(self, rows: np.ndarray) -> np.ndarray:
        """The sequences with the same tokens as one of `rows`."""
        return self.train.equal_rows(rows)

    def _heldout(self, final: bool) -> dict[str, FixedBatches]:
        masked = MaskedRows(self.heldout, self.heldout_masker)
        rows = np.arange(self.heldout_rows)
        return {"": FixedBatches(masked, self.collate, self.heldout.lengths, rows, STATIC, self.batch_size)}


class GLUEDataModule(TrainingDataModule):
    """Labelled batches of a prepared task: GLUE, the papers' other sets, or your own.

        dataset.prepare(TaskFolder("SST-2").read(), tokenizer, folder, max_length=128)
        data = GLUEDataModule(folder, tokenizer.pad_token_id, batch_size=32, seed=0, epochs=3)
        pl.Trainer(max_epochs=1, use_distributed_sampler=False).fit(module, data)

    `folder`, written by `kdlab.data.tasks.dataset.prepare`; `pad` the padding token's id; `heldout_rows` of each dev split
    read in an evaluation during training, drawn once, the same for every run (None: all, as in the final evaluation). The
    rest as in `TrainingDataModule`. A batch is a `kdlab.types.Batch` with `labels` (B,). Rows with a hidden label
    (augmented ones) are trained on, but never observed or set aside.
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
        """The training rows and their collate function."""
        return self.train, self.train.collate(self.pad)

    def scorable_rows(self) -> np.ndarray:
        """Indices of the rows whose label is known."""
        labels = self.train.labels
        return np.flatnonzero(~np.isnan(labels) if self.shape.regression else labels != IGNORE)

    def relatives(self, rows: np.ndarray) -> np.ndarray:
        """The rows of the same text as one of `rows`, and the augmented copies of all these."""
        return self.train.relatives(rows)

    def dev_splits(self) -> dict[str, dataset.TokenizedRows]:
        """The dev splits by name, the main one first, named "" (MNLI: then "mismatched")."""
        return dataset.scored_splits(self.folder, "dev")

    def final_splits(self, part: str) -> dict[str, Iterator[Batch]]:
        splits = dataset.scored_splits(self.folder, part)
        return {name: iter(self._batches_of(rows, np.arange(len(rows)))) for name, rows in splits.items()}

    def _heldout(self, final: bool) -> dict[str, FixedBatches]:
        splits = {}
        for name, rows in self.dev_splits().items():
            limit = len(rows) if final or self.heldout_rows is None else min(self.heldout_rows, len(rows))
            chosen = np.sort(np.random.default_rng(stable("dev rows", name)).permutation(len(rows))[:limit])
            splits[name] = self._batches_of(rows, chosen)
        return splits

    def _batches_of(self, rows: dataset.TokenizedRows, chosen: np.ndarray) -> FixedBatches:
        return FixedBatches(rows, rows.collate(self.pad), rows.lengths, chosen, STATIC, self.batch_size)
