"""A task's rows, tokenised once: memory-mapped Arrow files by split, and the batches made of them.

`prepare` writes the folder, `TokenizedRows` reads a split of it, `TaskCollate` pads rows to a `Batch`. The sequences are those of
the tokenizer itself for one text or a pair (special tokens and truncation included), so that any model of its
vocabulary sees what it was trained on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.data.text import corpus
from kdlab.errors import UserError
from kdlab.runtime.progress import ProgressBar
from kdlab.storage.files import atomic_write_json, user_errors
from kdlab.types import IGNORE, Batch, TaskShape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECORDS = 2_000  # rows tokenised at once, and in a record batch of the Arrow files


def prepare(
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    max_length: int = 128,
) -> None:
    """Tokenise every split of `data` into the existing folder `out`: SPLIT/data.arrow, shape.json, stats.json.

    Columns of an Arrow file: `input_ids` (list of int32, with special tokens, at most `max_length`; of a pair the
    longer text is cut first), `first` (int32, tokens before the second segment; all of them where the tokenizer makes
    no segments or does not count their numbers among a model's inputs), `label` (int64 class index, IGNORE where hidden; in regression float64, NaN where hidden), `row`
    (int64, place in its split). Text that looks like a special token stays text.

    stats.json counts by split: rows, tokens, the longest row, rows that were cut, rows of each class. It tells
    how far it is (`kdlab.runtime.progress`). All cores tokenise (RAYON_NUM_THREADS limits them).

    Raises UserError for an empty split, rows of another number of texts than the task has, a `max_length` that leaves
    no room or is more than the tokenizer's, and a full disk.
    """
    check_length(tokenizer, data.shape, max_length)
    tokenizer = copy.deepcopy(tokenizer)  # truncation is state of it, which the caller may save
    for split, rows in data.splits.items():
        if not rows:
            raise UserError(f"the split {split} has no rows")
        if (odd := next((row for row in rows if len(row.texts) != data.shape.columns), None)) is not None:
            raise UserError(f"the split {split} has a row of {len(odd.texts)} text(s), the task {data.shape.columns}")
    stats, total = {}, sum(map(len, data.splits.values()))
    with user_errors("writing the tokenised rows", out), ProgressBar("tokenising the rows", total, "rows") as told:
        for split, rows in data.splits.items():
            (out / split).mkdir()
            stats[split] = _write(out / split, rows, data.shape, tokenizer, max_length, told)
    shape = asdict(data.shape)
    atomic_write_json(out / "shape.json", {**shape, "max_length": max_length, "notes": data.notes})
    atomic_write_json(out / "stats.json", stats)


def check_length(tokenizer: PreTrainedTokenizerBase, shape: TaskShape, max_length: int) -> None:
    """UserError for a `max_length` that leaves a row of the task no room, or is more than the tokenizer's."""
    special = tokenizer.num_special_tokens_to_add(pair=shape.columns == 2)
    if not special + shape.columns <= max_length <= tokenizer.model_max_length:
        raise UserError(
            f"max_length {max_length}; a row has {special} special tokens and {shape.columns} text(s), and the "
            f"tokenizer's longest sequence is {tokenizer.model_max_length}"
        )


def _write(
    folder: Path,
    rows: Sequence[LabelledRow],
    shape: TaskShape,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    told: ProgressBar,
) -> dict[str, Any]:
    kind, missing = (pa.float64(), float("nan")) if shape.regression else (pa.int64(), IGNORE)
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "first": pa.int32(), "label": kind, "row": pa.int64()})
    tokens = longest = cut = 0
    with (folder / "data.arrow").open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for start in range(0, len(rows), RECORDS):
            part = rows[start : start + RECORDS]
            ids, first, shortened = _encode([row.texts for row in part], tokenizer, max_length)
            label = [missing if row.label is None else row.label for row in part]
            columns = [ids, first, label, range(start, start + len(part))]
            arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
            stream.write_batch(pa.record_batch(arrays, schema=schema))
            lengths = [len(row) for row in ids]
            tokens, longest, cut = tokens + sum(lengths), max(longest, *lengths), cut + shortened
            told.advance(len(part))
    found: dict[str, Any] = {"rows": len(rows), "tokens": tokens, "longest": longest, "cut": cut}
    found["hidden"] = sum(row.label is None for row in rows)
    if shape.labels is not None:
        counts = np.bincount([int(row.label) for row in rows if row.label is not None], minlength=len(shape.labels))
        found["classes"] = dict(zip(shape.labels, counts.tolist(), strict=True))
    return found


def _encode(
    texts: Sequence[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], list[int], int]:
    """Token ids of each row, its tokens before the second segment, and how many rows were cut."""
    segments = "token_type_ids" in tokenizer.model_input_names
    first_texts, *second = (list(column) for column in zip(*texts, strict=True))
    made = tokenizer(
        first_texts,
        second[0] if second else None,
        truncation="longest_first",
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=segments,
        return_overflowing_tokens=False,
        split_special_tokens=True,
        verbose=False,
    )
    ids: list[list[int]] = made["input_ids"]
    kinds = made["token_type_ids"] if segments else ids
    first = [kind.index(1) if segments and 1 in kind else len(kind) for kind in kinds]
    return ids, first, _cut(made, ids, max_length)


def _cut(made: Any, ids: list[list[int]], max_length: int) -> int:
    if made.encodings is not None:  # a fast tokenizer keeps what it cut off
        return sum(bool(row.overflowing) for row in made.encodings)
    return sum(len(row) == max_length for row in ids)


def load(folder: Path, split: str) -> TokenizedRows:
    """The rows of a split of a prepared folder."""
    return TokenizedRows(folder, split)


def splits(folder: Path) -> list[str]:
    """The names of the splits that a prepared folder holds."""
    return list(read_stats(folder))


def read_shape(folder: Path) -> TaskShape:
    """The shape of the task that a prepared folder holds."""
    found = json.loads((Path(folder) / "shape.json").read_text())
    labels = None if found["labels"] is None else tuple(found["labels"])
    return TaskShape(found["columns"], labels, tuple(found["metrics"]))


def read_notes(folder: Path) -> list[str]:
    """What was inferred or done when the folder was prepared, in plain words."""
    return json.loads((Path(folder) / "shape.json").read_text())["notes"]


def read_stats(folder: Path) -> dict[str, dict[str, Any]]:
    """The counts that `prepare` left in a folder, by split."""
    return json.loads((Path(folder) / "stats.json").read_text())


class TokenizedRow(NamedTuple):
    """A row on its way into a batch: `ids` (L,) int32, `first` tokens before the second segment, `label`."""

    row: int
    real: bool
    epoch: int
    ids: np.ndarray
    first: int
    label: float


class TokenizedRows(Dataset):
    """A split of a prepared folder: (epoch, row) to `TokenizedRow`; a row of -1 - n is row n, marked as not real.

    `lengths` (rows,) tokens, `labels` (rows,) int64 or float64, `shape` the task's.
    """

    def __init__(self, folder: Path, split: str) -> None:
        data = corpus.load(folder, split)
        self.shape = read_shape(folder)
        self.tokens = corpus.TokenizedText(data)
        self.lengths = self.tokens.lengths
        self.labels, self.first = (data.data.column(name).to_numpy() for name in ("label", "first"))
        self.paired = bool((self.first < self.lengths).any())

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def hidden(self) -> bool:
        """Whether some label is hidden: such a split can be answered, not scored."""
        return bool(np.isnan(self.labels).any() if self.shape.regression else (self.labels == IGNORE).any())

    def __getitem__(self, key: tuple[int, int]) -> TokenizedRow:
        epoch, row = key
        real = row >= 0
        row = row if real else -1 - row
        return TokenizedRow(row, real, epoch, self.tokens[row], int(self.first[row]), self.labels[row])

    def collate(self, pad: int) -> TaskCollate:
        """What pads rows of this split to batches."""
        return TaskCollate(pad, self.shape.regression, self.paired)


class TaskCollate:
    """Pads rows to the longest of them: labels (B,) int64, in regression float32; `token_types` (B, L) int64 (0 first
    segment and padding, 1 second) where the data are pairs and the tokenizer makes segments. A class, so that loader
    processes can receive it."""

    def __init__(self, pad: int, regression: bool, paired: bool) -> None:
        self.pad, self.regression, self.paired = pad, regression, paired

    def __call__(self, items: Sequence[TokenizedRow]) -> Batch:
        shape = len(items), max(len(item.ids) for item in items)
        input_ids = np.full(shape, self.pad, dtype=np.int64)
        mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for i, item in enumerate(items):
            input_ids[i, : len(item.ids)], mask[i, : len(item.ids)] = item.ids, 1
            types[i, item.first : len(item.ids)] = 1
        return Batch(
            rows=torch.tensor([item.row for item in items]),
            epoch=items[0].epoch,
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(mask),
            labels=torch.tensor(
                [item.label for item in items], dtype=torch.float32 if self.regression else torch.int64
            ),
            real=torch.tensor([item.real for item in items]),
            token_types=torch.from_numpy(types) if self.paired else None,
        )
