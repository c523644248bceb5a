"""Rows on which the student of a finished run is scored again: tokenised ones of the artifact store, or files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdlab.config.schema import Config
from kdlab.data.loading import FixedBatches, MaskedRows, MaskingCollate
from kdlab.data.tasks import dataset
from kdlab.data.tasks.metric_names import OF_CLASSES, OF_NUMBERS
from kdlab.data.tasks.one_file import rows_of_file
from kdlab.data.tasks.registry import find
from kdlab.data.tasks.rows import TaskData
from kdlab.data.text import corpus
from kdlab.data.text.masking import STATIC, Masker
from kdlab.data.text.sources import TextFolder
from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.models.head import head_of_result
from kdlab.runs.decoding.heldout_rows import heldout_rows
from kdlab.runs.finished import inside
from kdlab.runtime.seeding import stable
from kdlab.stages.registry import stage_of
from kdlab.storage.artifacts import fault_of
from kdlab.types import Batch, TaskShape


class Wanted(Protocol):
    """The rows that are asked for (`Rescoring`)."""

    @property
    def part(self) -> str:
        """The part: "dev" or "test"."""
        ...

    @property
    def data(self) -> Path | None:
        """A file or folder of other rows."""
        ...

    @property
    def rows(self) -> int | None:
        """Number of dev rows; None: as in the run."""
        ...

    @property
    def out(self) -> Path | None:
        """The file for the predictions."""
        ...


@dataclass
class HeldOutRows:
    """Batches by split; `shape` of the task (None: text); `numbers` by split: the index of each row in its data file;
    `unlabelled`: no row has a label."""

    title: str
    part: str
    shape: TaskShape | None
    batches: dict[str, Iterable[Batch]]
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    unlabelled: bool = False


def found(run: Path, result: dict[str, Any], config: Config, wanted: Wanted, folder: Path) -> HeldOutRows:
    """The rows that `wanted` names; what has to be tokenised goes to the empty `folder`. UserError where there are none."""
    if not head_of_result(result).per_row:
        if wanted.out is not None:
            raise UserError(
                f"--predictions: {run} is of the {result['stage']} stage, whose student predicts tokens, not rows"
            )
        if head_of_result(result).causal:
            place = None if wanted.data is not None else next(_artifacts(config, result, "corpus"), None)
            batches, count = heldout_rows(run, config, place, wanted.data, wanted.rows, folder)
            return HeldOutRows(f"{wanted.data or 'held-out text'}, {count:,} rows", "heldout", None, {"": batches})
        return _text(run, result, config, wanted, folder)
    return _task(run, result, config, wanted, folder)


# ---- tasks


def _task(run: Path, result: dict[str, Any], config: Config, wanted: Wanted, folder: Path) -> HeldOutRows:
    tokenizer = loading.load_tokenizer(run / "student")
    shape = shape_of(run, result, config)
    if wanted.data is not None:
        task, data = None if config.data.task is None else find(config.data.task), config.data
        rows = rows_of_file(
            wanted.data,
            shape,
            task,
            data.columns,
            data.label_column,
            data.encoding,
            inside(result, "data.label_values"),
        )
        part, place = "data", folder
        dataset.prepare(TaskData(shape, {part: rows}), tokenizer, folder, max_length=_length(result, config))
        if wanted.out is None and any(row.label is None for row in rows):
            raise UserError(
                f"--data {wanted.data}: rows without a label cannot be scored; --predictions FILE answers them"
            )
    else:
        part = wanted.part
        place = _tokenised(config, result, shape, part) or folder
        if place == folder:
            _tokenise(run, config, shape, part, tokenizer, folder, _length(result, config))
    splits = {
        name.removeprefix(part).removeprefix("_"): name
        for name in sorted(dataset.splits(place))
        if name.split("_")[0] == part
    }
    opened = {split: dataset.load(place, name) for split, name in splits.items()}
    hidden = any(rows.hidden for rows in opened.values())
    if hidden and wanted.data is None:
        raise UserError(f"{run}: its {part} rows have no labels; --data FILE scores a file that has")
    pad = int(tokenizer.pad_token_id or 0)  # pyright: ignore[reportArgumentType]
    batches, numbers = {}, {}
    for split, rows in opened.items():
        limit = len(rows) if wanted.rows is None else min(wanted.rows, len(rows))
        chosen = np.sort(np.random.default_rng(stable("dev rows", split)).permutation(len(rows))[:limit])
        batches[split] = FixedBatches(rows, rows.collate(pad), rows.lengths, chosen, STATIC, config.data.batch_size)
        numbers[split] = np.arange(len(rows)) if rows.numbers is None else rows.numbers
    count = sum(len(rows) for rows in opened.values())
    title = f"{wanted.data or part}, {min(wanted.rows or count, count):,} rows"
    return HeldOutRows(title, part, shape, batches, numbers, hidden)


def shape_of(run: Path, result: dict[str, Any], config: Config) -> TaskShape:
    """The task of a run's student: its classes are those that it was saved with."""
    labels = loading.labels_of(loading.load_config(run / "student"))
    classes = None if len(labels) == 1 else labels
    recorded = (inside(result, "data.shape.metrics"), inside(result, "data.shape.columns"))
    if config.data.task is not None:
        shape = find(config.data.task).shape
        return TaskShape(shape.columns, classes, shape.metrics)
    known = [name for name in result["metrics"]["student"] if name in (*OF_CLASSES, *OF_NUMBERS)]
    return TaskShape(int(recorded[1] or 1), classes, tuple(recorded[0] or known))


def _length(result: Mapping[str, Any], config: Config) -> int:
    return int(inside(dict(result), "data.max_length") or config.data.max_length)


def _artifacts(config: Config, result: Mapping[str, Any], kind: str) -> Iterator[Path]:
    """The artifacts of a kind that a run used and that are there, whole."""
    for entry in result.get("artifacts") or []:
        if (
            entry.startswith(f"{kind}/")
            and (place := Path(config.artifacts) / entry).is_dir()
            and fault_of(place) is None
        ):
            yield place


def _tokenised(config: Config, result: Mapping[str, Any], shape: TaskShape, part: str) -> Path | None:
    """The run's tokenised rows in the artifact store; None where they are not there."""
    for place in _artifacts(config, result, "task"):
        if part in dataset.splits(place) and dataset.read_shape(place).labels == shape.labels:
            return place
    return None


def _tokenise(run: Path, config: Config, shape: TaskShape, part: str, tokenizer: Any, out: Path, length: int) -> None:
    """Tokenise the rows of `part` from the run's own source. UserError where it is not there, or has no such rows."""
    source = stage_of(config, print).inputs.source
    try:
        source.check()
        data = source.read()
    except UserError as error:
        raise UserError(f"{run}: its rows are not there ({error}); --data FILE names a file of rows") from error
    splits = {name: rows for name, rows in data.splits.items() if name.split("_")[0] == part}
    if not splits:
        raise UserError(f"{run}: its data have no {part} split; --data FILE names a file of rows")
    if data.shape.labels != shape.labels:
        raise UserError(f"{run}: its data have other classes now than its student, which was saved with {shape}")
    dataset.prepare(TaskData(shape, splits), tokenizer, out, max_length=length)


# ---- text


def _text(run: Path, result: dict[str, Any], config: Config, wanted: Wanted, folder: Path) -> HeldOutRows:
    tokenizer, data = loading.load_tokenizer(run / "student"), config.data
    lengths = {"min_length": data.min_length, "max_length": _length(result, config), "max_unknown": data.max_unknown}
    place = None if wanted.data is not None else next(_artifacts(config, result, "corpus"), None)
    if place is None:
        place = folder
        if wanted.data is not None:
            source = TextFolder(str(wanted.data), data.document, data.text_column, data.group, data.encoding)
            source.check()
            corpus.prepare_heldout(source, tokenizer, folder, **lengths)
        else:
            source = stage_of(config, print).inputs.source
            try:
                source.check()
            except UserError as error:
                raise UserError(f"{run}: its text is not there ({error}); --data FILE names other text") from error
            corpus.prepare(source, tokenizer, folder, heldout=data.heldout, seed=data.split_seed, **lengths)
    rows = corpus.TokenizedText(corpus.mapped(place, "heldout"))
    limit = wanted.rows or (data.heldout_rows if wanted.data is None else None) or len(rows)
    facts = {"mask_id": tokenizer.mask_token_id, "special_ids": tokenizer.all_special_ids, "vocab_size": len(tokenizer)}
    masked = MaskedRows(rows, Masker(**facts, seed=data.split_seed))  # pyright: ignore[reportArgumentType]
    chosen = np.arange(min(limit, len(rows)))
    collate = MaskingCollate(int(tokenizer.pad_token_id or 0))  # pyright: ignore[reportArgumentType]
    batches = FixedBatches(masked, collate, rows.lengths, chosen, STATIC, data.batch_size)
    return HeldOutRows(f"{wanted.data or 'held-out text'}, {len(chosen):,} rows", "heldout", None, {"": batches})
