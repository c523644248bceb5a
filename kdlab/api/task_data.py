"""`kdlab.task_data`: labelled rows of any form as a LightningDataModule."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.api import inputs
from kdlab.data.datamodules import GLUEDataModule
from kdlab.data.tasks import dataset
from kdlab.data.tasks.labels import align
from kdlab.data.tasks.rows import TaskData, relabelled
from kdlab.data.tasks.sources import TaskFolder
from kdlab.errors import UserError
from kdlab.storage.files import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kdlab.api.inputs import Rows


def task_data(
    train: Rows,
    dev: Rows | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 32,
    steps: int | None = None,
    epochs: int | None = None,
    max_length: int = 128,
    seed: int = 1,
    labels: Iterable[str] | None = None,
) -> GLUEDataModule:
    """Tokenise labelled rows and return their data module, for a trainer of your own: batches are `kdlab.Batch`.

    `train` and `dev` as in `kdlab.distill`; a tenth of train is held out where there are no dev rows. A training of at
    most `steps` micro-batches and `epochs` passes (one of both may be None). `max_length`: tokens of a row at most;
    `seed`: of the order. `labels`: the names of the classes in the order of your model's logits (its `id2label`); None:
    the order of the rows' own. The tokenised rows lie in a temporary folder as long as the module lives. `shape` of the
    result has the classes. UserError for rows without labels, of other types, files or classes, and a training without
    an end.
    """
    inputs.check_rows(train, dev)
    if train is None:
        raise UserError(f"train: give {inputs.ROWS}")
    if steps is None and epochs is None:
        raise UserError("steps and epochs are both None: give one of them, training ends at the first")
    folder = Path(tempfile.mkdtemp(prefix="kdlab-rows-"))
    try:
        written = inputs.write(train, dev, None, None, None, folder).get("data.path", user_path(str(train)))
        source = TaskFolder(str(written))
        with inputs.named_as_given(folder):
            source.check()
            rows = source.read()
        if labels is not None:
            rows = _numbered_as(rows, tuple(map(str, labels)))
        dataset.check_length(tokenizer, rows.shape, max_length)
        tokenised = folder / "tokenised"
        tokenised.mkdir()
        dataset.prepare(rows, tokenizer, tokenised, max_length=max_length)
        pad = int(tokenizer.pad_token_id or 0)  # pyright: ignore[reportArgumentType]
        module = GLUEDataModule(tokenised, pad, batch_size, seed, steps, epochs)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(module, shutil.rmtree, folder, ignore_errors=True)
    return module


def _numbered_as(rows: TaskData, labels: tuple[str, ...]) -> TaskData:
    """The rows with their classes in the order of `labels`, which are names of the same classes."""
    if rows.shape.labels is None:
        raise UserError("labels: the rows have scores and no classes; leave labels out")
    order = dict(enumerate(align(rows.shape.labels, labels)))
    splits = {split: relabelled(found, order, hidden=True) for split, found in rows.splits.items()}
    return TaskData(replace(rows.shape, labels=labels), splits, rows.notes)
