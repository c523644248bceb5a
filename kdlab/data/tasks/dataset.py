"""Tokenised rows of a task: memory-mapped Arrow files by split, and batches of their rows.

`prepare` writes the folder, `TokenizedRows` reads a split of it, `TaskCollate` pads rows to a `Batch`. The sequences
are those of the tokenizer for one text or a pair (special tokens and truncation included), so that each model gets the
format of its pre-training.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from kdlab.data.tasks.lengths import fitting, whole_lengths
from kdlab.data.tasks.row_store import RECORDS
from kdlab.data.tasks.rows import LabelledRow, LabelledRows, TaskData, isin, text_key
from kdlab.data.text import corpus
from kdlab.errors import UserError
from kdlab.runtime.progress import ProgressBar
from kdlab.storage.files import atomic_write_json, user_errors
from kdlab.types import IGNORE, Batch, TaskShape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare(
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    max_length: int = 128,
) -> None:
    """Tokenise every split of `data` into the existing folder `out`: SPLIT/data.arrow, shape.json, stats.json.

    Columns of an Arrow file: `input_ids` (list of int32, with special tokens, at most `max_length`; the longer text of
    a pair is truncated first), `first` (int32, number of tokens before the second segment; all tokens if the model has
    no segment ids as input), `label` (int64 class index, IGNORE if hidden; in regression float64, NaN if hidden), `row`
    (int64, index in its split), `origin` (int64, the row that it is an augmented copy of, else its own index), `text`
    (int64, `text_key`), `number` (int64, index in the data file). Special tokens that are written in a text stay plain
    text.

    stats.json has by split: rows, tokens, the longest row, truncated rows, rows that other lengths would keep whole
    (`lengths.fitting`), rows of each class, and but for train the rows that are in train too (`rows_in_train`). Progress is
    reported (`kdlab.runtime.progress`). All cores tokenise (RAYON_NUM_THREADS limits them).

    UserError for an empty split, rows with another number of texts than the task, a `max_length` too short for the
    special tokens or above the tokenizer's, and a full disk.
    """
    check_length(tokenizer, data.shape, max_length)
    tokenizer = copy.deepcopy(tokenizer)  # truncation is state of the tokenizer, which the caller may save
    for split, rows in data.splits.items():
        if not rows:
            raise UserError(f"the split {split} has no rows")
        widths = [rows.texts] if isinstance(rows, LabelledRows) else (len(row.texts) for row in rows)
        if (misfit := next((width for width in widths if width != data.shape.columns), None)) is not None:
            raise UserError(f"the split {split} has a row of {misfit} text(s), the task {data.shape.columns}")
    stats, total = {}, sum(map(len, data.splits.values()))
    with user_errors("writing the tokenised rows", out), ProgressBar("tokenising the rows", total, "rows") as progress:
        for split, rows in data.splits.items():
            (out / split).mkdir()
            stats[split] = _write(out / split, rows, data.shape, tokenizer, max_length, progress)
    shape = asdict(data.shape)
    atomic_write_json(out / "shape.json", {**shape, "max_length": max_length, "notes": data.notes})
    for split, count in _count_in_train(out, list(stats)).items():
        stats[split]["in_train"] = count
    atomic_write_json(out / "stats.json", stats)


def check_length(tokenizer: PreTrainedTokenizerBase, shape: TaskShape, max_length: int) -> None:
    """Raise UserError for a `max_length` too short for the special tokens of a row, or above the tokenizer's."""
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
    progress: ProgressBar,
) -> dict[str, Any]:
    kind, missing = (pa.float64(), float("nan")) if shape.regression else (pa.int64(), IGNORE)
    more = dict.fromkeys(("row", "origin", "text", "number"), pa.int64())
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "first": pa.int32(), "label": kind, **more})
    tokens, longest, hidden, whole = 0, 0, 0, list[np.ndarray]()
    counts = np.zeros(len(shape.labels or ()), np.int64)
    with (folder / "data.arrow").open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for start in range(0, len(rows), RECORDS):
            part = rows[start : start + RECORDS]
            ids, first, lengths = _encode([row.texts for row in part], tokenizer, max_length)
            label = [missing if row.label is None else row.label for row in part]
            index = range(start, start + len(part))
            origin = [own if row.origin is None else row.origin for own, row in zip(index, part, strict=True)]
            number = [own if row.number is None else row.number for own, row in zip(index, part, strict=True)]
            columns = [ids, first, label, index, origin, [text_key(row.texts) for row in part], number]
            arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
            stream.write_batch(pa.record_batch(arrays, schema=schema))
            whole.append(lengths)
            known = [int(row.label) for row in part if row.label is not None and shape.labels is not None]
            counts += np.bincount(known, minlength=len(counts))
            hidden += sum(row.label is None for row in part)
            tokens, longest = tokens + sum(map(len, ids)), max(longest, *map(len, ids))
            progress.advance(len(part))
    lengths = np.concatenate(whole)
    stats: dict[str, Any] = {"rows": len(rows), "tokens": tokens, "longest": longest}
    stats |= {"cut": int((lengths > max_length).sum()), "fits": fitting(lengths)}
    stats["hidden"] = hidden
    if shape.labels is not None:
        stats["classes"] = dict(zip(shape.labels, counts.tolist(), strict=True))
    return stats


def _encode(
    texts: Sequence[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], list[int], np.ndarray]:
    """(token ids of each row, number of tokens before its second segment, its length before truncation)."""
    segments = "token_type_ids" in tokenizer.model_input_names
    first_texts, *second = (list(column) for column in zip(*texts, strict=True))
    encoding = tokenizer(
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
    ids: list[list[int]] = encoding["input_ids"]
    types = encoding["token_type_ids"] if segments else ids
    first = [row.index(1) if segments and 1 in row else len(row) for row in types]
    lengths = np.array([len(row) for row in ids], dtype=np.int32)
    full = np.flatnonzero(lengths == max_length)  # the others are whole
    if len(full):
        lengths[full] = whole_lengths([texts[int(i)] for i in full], tokenizer)
    return ids, first, lengths


def load(folder: Path, split: str) -> TokenizedRows:
    """Open a split of a prepared folder; the arrays of one that is open in this process already are shared."""
    file = (Path(folder) / split / "data.arrow").resolve()
    state = file.stat()
    key = file, state.st_ino, state.st_size, state.st_mtime_ns
    if (found := _opened.get(key)) is None:
        _opened[key] = found = TokenizedRows(folder, split)
    rows = copy.copy(found)
    rows.shared = found  # which stays open as long as one of its copies
    return rows


def splits(folder: Path) -> list[str]:
    """Names of the splits of a prepared folder."""
    return list(read_stats(folder))


def scored_splits(folder: Path, part: str) -> dict[str, TokenizedRows]:
    """The splits of `part` ("dev" or "test") of a prepared folder whose rows all have labels, the main one first, by names
    without that: "" and, of MNLI, "mismatched"."""
    found = {name: load(folder, name) for name in sorted(splits(folder)) if name.split("_")[0] == part}
    return {name.removeprefix(part).removeprefix("_"): rows for name, rows in found.items() if not rows.hidden}


def rows_in_train(folder: Path) -> dict[str, int]:
    """Counts by split, other than train, of the rows of a prepared folder that have the texts (`text_key`) of a training
    row. A folder of an older kdlab has no such counts: they are made; empty for one without the keys too."""
    held_out = {name: one for name, one in read_stats(folder).items() if name != "train"}
    if all("in_train" in one for one in held_out.values()):
        return {name: one["in_train"] for name, one in held_out.items()}
    return _count_in_train(folder, splits(folder))


def _count_in_train(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """`rows_in_train` of the splits of these names, from the files' keys."""
    tables = {name: corpus.mapped(folder, name) for name in names}
    train = tables.pop("train", None)
    if train is None or "text" not in train.column_names or not tables:
        return {}
    keys = {name: table.column("text") for name, table in tables.items()}
    wanted = np.unique(np.concatenate(list(keys.values())))
    seen = np.zeros(len(wanted), dtype=bool)
    low = (
        1 << min(26, max(10, (16 * len(wanted)).bit_length()))
    ) - 1  # keys are hashes: most differ in these bits already
    possible = np.zeros(low + 1, dtype=bool)
    possible[wanted & low] = True
    for chunk in train.passing(train.data.column("text").chunks):
        part = chunk.to_numpy()
        part = part[possible[part & low]]
        places = np.minimum(np.searchsorted(wanted, part), len(wanted) - 1)
        seen[places[wanted[places] == part]] = True
    return {name: int(seen[np.searchsorted(wanted, own)].sum()) for name, own in keys.items()}


def read_shape(folder: Path) -> TaskShape:
    """Shape of the task of a prepared folder."""
    values = json.loads((Path(folder) / "shape.json").read_text())
    labels = None if values["labels"] is None else tuple(values["labels"])
    return TaskShape(values["columns"], labels, tuple(values["metrics"]))


def read_length(folder: Path) -> int:
    """The most tokens that a row of a prepared folder may have."""
    return int(json.loads((Path(folder) / "shape.json").read_text())["max_length"])


def read_notes(folder: Path) -> list[str]:
    """Notes of the preparation of a folder for the user: inferred shapes, held-out rows, augmentation."""
    return json.loads((Path(folder) / "shape.json").read_text())["notes"]


def read_stats(folder: Path) -> dict[str, dict[str, Any]]:
    """Counts of a prepared folder by split (see `prepare`)."""
    return json.loads((Path(folder) / "stats.json").read_text())


class TokenizedRow(NamedTuple):
    """A row to collate: `ids` (L,) int32, `first` the number of tokens before the second segment, `label`.

    `row`: index in the split; `real`: False for a row that only fills up a batch; `epoch`: epoch of the batch.
    """

    row: int
    real: bool
    epoch: int
    ids: np.ndarray
    first: int
    label: float


class TokenizedRows(Dataset):
    """A split of a prepared folder: maps (epoch, row) to `TokenizedRow`; row -1 - n is row n, marked as not real.

    `lengths` (rows,) in tokens, `labels` (rows,) int32 or float64, `shape` of the task; `origins` (rows,) int64 the row
    that each is an augmented copy of, else the row itself; `numbers` (rows,) int64 the index of each in the data file
    (None: a folder of an older kdlab, which has none); `texts` (rows,) int64 their `text_key`. The last three are read from
    the file each time.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._table = corpus.mapped(folder, split)
        self.shape = read_shape(folder)
        self.tokens = corpus.TokenizedText(self._table)
        self.lengths = self.tokens.lengths
        self.labels = self._table.column("label", np.float64 if self.shape.regression else np.int32)
        first = self._table.column("first")
        self.paired = bool((first < self.lengths).any())
        self._first = first if self.paired else self.lengths
        self.shared: TokenizedRows | None = None

    @property
    def origins(self) -> np.ndarray:
        """The row that each is an augmented copy of, else the row itself."""
        return self._column("origin", np.arange(len(self)))

    @property
    def texts(self) -> np.ndarray:
        """The `text_key` of each row."""
        return self._column("text", np.arange(len(self)))

    @property
    def numbers(self) -> np.ndarray | None:
        """The index of each row in its data file."""
        return self._column("number", None)

    def _column(self, name: str, missing: Any) -> Any:
        """A column, or `missing` in a folder that was prepared before 2026-11-29."""
        return self._table.column(name) if name in self._table.column_names else missing

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def hidden(self) -> bool:
        """True if a label is hidden: such a split can be predicted, but not scored."""
        return bool(np.isnan(self.labels).any() if self.shape.regression else (self.labels == IGNORE).any())

    def __getitem__(self, key: tuple[int, int]) -> TokenizedRow:
        epoch, row = key
        real = row >= 0
        row = row if real else -1 - row
        return TokenizedRow(row, real, epoch, self.tokens[row], int(self._first[row]), self.labels[row])

    def relatives(self, rows: np.ndarray) -> np.ndarray:
        """Indices, sorted, of `rows`, of all rows of the same text (`text_key`) or tokens, and of their augmented copies.

        A row that only a copy equals is no relative: its text was there before it was made.
        """
        texts = self.texts
        same = np.union1d(np.flatnonzero(isin(texts, texts[rows])), self.tokens.equal_rows(rows))
        del texts
        return np.union1d(same, np.flatnonzero(isin(self.origins, same)))

    def collate(self, pad: int) -> TaskCollate:
        """Collate function for rows of this split; `pad` is the id of the padding token."""
        return TaskCollate(pad, self.shape.regression, self.paired)


class TaskCollate:
    """Collate rows into a batch, padded to the longest row.

    Labels are (B,) int64, in regression float32; `token_types` (B, L) int64 (0: first segment and padding, 1: second
    segment) if the rows are pairs with segments. A class, so that it can be pickled for loader processes.
    """

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


_opened: WeakValueDictionary[tuple[Any, ...], TokenizedRows] = WeakValueDictionary()  # by file and its state
