"""The LightningDataModule of prepared rows of causal language models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from kdlab.data.causal.dataset import TokenizedDocuments
from kdlab.data.datamodules import TrainingDataModule
from kdlab.data.loading import FixedBatches
from kdlab.data.text.masking import STATIC
from kdlab.runtime.seeding import stable
from kdlab.types import IGNORE, Batch

Item = tuple[int, bool, int, np.ndarray, np.ndarray, np.ndarray]


class NextTokenRows(Dataset):
    """Prepared rows: `rows[epoch, row]` is (row, real, epoch, ids (L,), labels (L,), document numbers (L,)).

    A negative index -1 - row gives that row, marked as not real.
    """

    def __init__(self, data: TokenizedDocuments) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, row = key
        real = row >= 0
        row = row if real else -1 - row
        return (row, real, epoch, *self.data[row])


class CausalCollate:
    """Make a `Batch` of rows, padded on the right with `pad` to the longest. A class, so that loader processes can unpickle
    it."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, items: Sequence[Item]) -> Batch:
        longest = max(len(item[3]) for item in items)

        def padded(place: int, fill: int) -> torch.Tensor:
            values = np.full((len(items), longest), fill, dtype=np.int64)
            for line, item in zip(values, items, strict=True):
                row: Any = item[place]
                line[: len(row)] = row
            return torch.from_numpy(values)

        lengths = torch.tensor([len(item[3]) for item in items])
        several = any(item[5][-1] > 0 for item in items)
        return Batch(
            rows=torch.tensor([item[0] for item in items]),
            epoch=items[0][2],
            input_ids=padded(3, self.pad),
            attention_mask=(torch.arange(longest) < lengths.unsqueeze(1)).long(),
            labels=padded(4, IGNORE),
            real=torch.tensor([item[1] for item in items]),
            documents=padded(5, 0) if several else None,
        )


class CausalDataModule(TrainingDataModule):
    """Next-token batches of prepared documents, prompts with completions, or conversations.

        dataset.prepare(TextFolder("texts"), tokenizer, folder, max_length=512, seed=0)
        data = CausalDataModule(folder, tokenizer.pad_token_id, batch_size=8, seed=0, epochs=3)
        pl.Trainer(max_epochs=1, use_distributed_sampler=False).fit(module, data)

    `folder`, written by `kdlab.data.causal.dataset.prepare`; `pad` the padding token's id; `heldout_rows` read in an
    evaluation, drawn once, the same for every run (None: all). The rest as in `TrainingDataModule`. A batch is a
    `kdlab.types.Batch` with `labels` (B, L), the token to be predicted from each position, and `documents` (B, L) where a
    row has several.
    """

    def __init__(
        self,
        folder: Path,
        pad: int,
        batch_size: int,
        seed: int,
        batches: int | None = None,
        epochs: int | None = None,
        heldout_rows: int | None = 256,
        workers: int = 0,
        grouped: bool = True,
    ) -> None:
        super().__init__(batch_size, seed, batches, epochs, heldout_rows, workers, grouped)
        self.folder = folder
        self.collate = CausalCollate(pad)
        self.train = TokenizedDocuments(folder, "train")
        self.lengths = self.train.lengths
        self.heldout = TokenizedDocuments(folder, "heldout")
        self.heldout_rows = min(heldout_rows or len(self.heldout), len(self.heldout))

    def training_rows(self) -> tuple[NextTokenRows, CausalCollate]:
        """The training rows and their collate function."""
        return NextTokenRows(self.train), self.collate

    def scorable_rows(self) -> np.ndarray:
        """Indices of the rows with a label: all, since others are dropped."""
        return np.flatnonzero(self.train.labels)

    def relatives(self, rows: np.ndarray) -> np.ndarray:
        """The rows with a document of the same tokens as one of `rows`."""
        return self.train.equal_rows(rows)

    def _heldout(self, final: bool) -> dict[str, FixedBatches]:
        return {"": heldout_batches(self.heldout, self.collate.pad, self.heldout_rows, self.batch_size)}


def heldout_batches(held: TokenizedDocuments, pad: int, rows: int, batch_size: int) -> FixedBatches:
    """This rank's batches of `rows` held-out rows, drawn once, the same for every run."""
    chosen = np.sort(np.random.default_rng(stable("held-out rows")).permutation(len(held))[:rows])
    return FixedBatches(NextTokenRows(held), CausalCollate(pad), held.lengths, chosen, STATIC, batch_size)
