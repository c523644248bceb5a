"""Inputs of the fine-tuning stage: labelled rows, read, checked and tokenised; augmented rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from kdlab.config.groups.data import AUTO, AugmentConfig
from kdlab.data.datamodules import GLUEDataModule
from kdlab.data.tasks import dataset, lengths, metric_names, split_faults
from kdlab.data.tasks.inference import SCORES
from kdlab.data.tasks.registry import HELD_OUT, Task, find, plain_name
from kdlab.data.tasks.rows import TaskData, limited
from kdlab.data.tasks.sources import TaskFolder, TaskHub
from kdlab.errors import UserError
from kdlab.methods.marks import marks_of
from kdlab.methods.selection.scores import PARTS
from kdlab.models import head_keys, loading
from kdlab.models.head import CLASSIFIER
from kdlab.modules.evaluation import TaskScore
from kdlab.runtime.seeding import reseed
from kdlab.stages import components
from kdlab.stages.augmented_rows import AugmentedRows
from kdlab.stages.components import build_target
from kdlab.stages.inputs import Inputs, vocabulary_hash
from kdlab.storage.files import atomic_write_json, read_json, user_path
from kdlab.teachers import specs
from kdlab.types import Caveat, TaskShape

READING, VERSION = "reading.json", 1  # file of the artifact that holds how the labels are read; version of its answer
LENGTH = "length.json"  # file of the artifact that holds the usual length of the training rows


class TaskInputs(Inputs):
    """Labelled rows and the shape of their task."""

    head = CLASSIFIER
    fixed_inputs = True

    @cached_property
    def task(self) -> Any:
        """The official task of `data.task`; None for rows of the user's own."""
        return None if self.config.data.task is None else find(self.config.data.task)

    @cached_property
    def source(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        data = self.config.data
        if data.path is not None:
            columns = tuple(data.columns) if data.columns else None
            path = data.path if self.task is None else folder_of(data.path, self.task)
            more = data.label_column, data.regression, data.encoding, self._dev_share, data.teacher_column
            return TaskFolder(path, self.task, columns, *more)
        if self.task is not None:
            return TaskHub(self.task, self._dev_share)
        if data.source is None:
            raise UserError(
                "no labelled rows: give data.path= (a folder with train.tsv and dev.tsv, .csv, .jsonl or .parquet) "
                "or data.task= (an official task, from the Hub)"
            )
        return build_target(data.source, "data.source", "rows")

    @property
    def _dev_share(self) -> float:
        """Share of train that is dev where there is no dev split: `data.dev_share`, else the task's."""
        if (given := self.config.data.dev_share) is not None:
            return given
        return HELD_OUT if self.task is None else self.task.dev_share

    @cached_property
    def rows(self) -> TaskData:
        """The labelled rows of all splits; of train at most `data.train_rows`."""
        return limited(self.source.read(), self.config.data.train_rows)

    @cached_property
    def task_parts(self) -> dict[str, Any]:
        """The key parts of the tokenised rows without augmented ones."""
        return {**self._row_parts, "max_length": self.max_length}

    @cached_property
    def _row_parts(self) -> dict[str, Any]:
        """The key parts of the rows in tokens, of any length."""
        more = (self._first_reading,) if isinstance(self.source, TaskFolder) else ()
        return {
            "rows": self.source.fingerprint(*more),
            "tokenizer": vocabulary_hash(self.tokenizer),
            "train_rows": self.config.data.train_rows,
        }

    def _first_reading(self, values: list[Any], read: Callable[[], bool]) -> bool:
        """`read()`, which goes through all rows, or its answer of an earlier run: the artifact store keeps it."""
        parts = {"files": values, "version": VERSION}
        if (folder := self.store.find("reading", parts)) is None:
            found = {"first": read()}  # before anything is written
            folder = self.store.get(
                "reading", parts, lambda out: atomic_write_json(out / READING, found), "how labels are read"
            )
        return bool(read_json(folder / READING)["first"])

    @cached_property
    def shape(self) -> TaskShape:
        """Labels, columns and metrics of the task, from the tokenised rows if they exist, else from the source."""
        folder = self.store.find("task", self.task_parts)
        return self.rows.shape if folder is None else dataset.read_shape(folder)

    @property
    def inference(self) -> str:
        """The note that whole numbers were taken for scores, so that the task is regression; "" elsewhere."""
        if self.task is not None or self.config.data.regression is not None:
            return ""
        folder = self.store.find("task", self.task_parts)
        notes = self.rows.notes if folder is None else dataset.read_notes(folder)
        return next((note for note in notes if SCORES in note), "")

    @property
    def score(self) -> TaskScore:  # pyright: ignore[reportIncompatibleVariableOverride]
        return TaskScore(self.shape, self.config.data.metric)

    @cached_property
    def task_folder(self) -> Path:
        """The folder of the tokenised rows, without augmented ones; made at its first use."""

        def build(out: Path) -> None:
            dataset.prepare(self.rows, self.tokenizer, out, max_length=self.max_length)

        if self.config.data.max_length == AUTO:
            found = {"length": self._usual_length}
            self.store.get(
                "length", self._length_parts, lambda out: atomic_write_json(out / LENGTH, found), "the rows' length"
            )
        folder = self.store.get("task", self.task_parts, build, "tokenised rows")
        for note in dataset.read_notes(folder):
            self.notify(note)
        self._say_length(dataset.read_stats(folder))
        for caveat in split_faults.found(dataset.read_stats(folder), dataset.rows_in_train(folder)):
            self.caveats.add(caveat)
        return folder

    def _say_length(self, stats: dict[str, dict[str, Any]]) -> None:
        """Print the length that was chosen, and the truncated rows; many of these are a caveat of the run."""
        if self.config.data.max_length == AUTO:
            kept = f"{100 * lengths.KEPT:.0f} % of the train texts have at most {self._usual_length} tokens"
            self.notify(f"data.max_length={self.max_length}, chosen from the data: {kept}")
        if not (line := lengths.truncated(stats, self.max_length, self._most_tokens, self.shape.columns == 2)):
            return
        if lengths.many_truncated(stats):
            self.caveats.add(Caveat("cut_texts", line))
        else:
            self.notify(line)

    # ---- the length of a row

    @cached_property
    def max_length(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Tokens of a row at most: `data.max_length`, or chosen from the training rows, the same in every process."""
        given = self.config.data.max_length
        if given != AUTO:
            return int(given)
        return lengths.chosen(self._usual_length, self._most_tokens)

    @cached_property
    def _usual_length(self) -> int:
        """The length that keeps most training rows whole; written to the artifact store with the tokenised rows."""
        folder = self.store.find("length", self._length_parts)
        if folder is not None:
            return int(read_json(folder / LENGTH)["length"])
        return lengths.percentile([row.texts for row in lengths.spread(self.rows.splits["train"])], self.tokenizer)

    @property
    def _length_parts(self) -> dict[str, Any]:
        return {**self._row_parts, "kept": lengths.KEPT, "sample": lengths.SAMPLE}

    @property
    def _most_tokens(self) -> int:
        """Tokens that the tokenizer and every model of the run read."""
        known = [self.tokenizer.model_max_length, *map(loading.longest_input, self._configs())]
        return min(length for length in known if length is not None)

    def _configs(self) -> list[Any]:
        """The configs of the models that read the rows."""
        config, found = self.config, [self.main_source.config]
        if config.student.path is not None:
            found.append(loading.load_config(config.student.path, config.student.revision))
        if self.queries_teacher:
            found += [
                specs.other(name, other, self.main_source).config for name, other in config.teachers.others.items()
            ]
            if config.adopt.assistant is not None and config.adopt.assistant.path is not None:
                found.append(loading.load_config(config.adopt.assistant.path))
        return found

    @cached_property
    def has_test(self) -> bool:
        """True if there are test rows and all of them have labels, in at least one test split."""
        return bool(dataset.scored_splits(self.task_folder, "test"))

    def named_teachers(self) -> Iterable[str]:
        return self.row_teachers() if self.config.data.path is not None else super().named_teachers()

    def row_teachers(self) -> Iterable[str]:
        return (str(row.teacher) for row in self.rows.splits["train"])

    def file_rows(self, split: str) -> np.ndarray:
        """The index in its data file, from 0 and without the header, of each row of a split."""
        numbers = dataset.load(self.task_folder, split).numbers
        if numbers is not None:
            return numbers
        rows = self.rows.splits[split]  # tokenised by an older kdlab, which did not keep them
        return np.array([index if row.number is None else row.number for index, row in enumerate(rows)])

    def check_rows(self) -> None:
        """UserError for a malformed row (file and line) and for options that do not suit the task; may read all rows."""
        shape = self.shape
        if (metric := self.config.data.metric) is not None and metric not in metric_names.choices(shape):
            raise UserError(
                f"data.metric={metric}: the metrics of this task are {', '.join(metric_names.choices(shape))}"
            )
        uncertain = sorted(
            name for name, arm in components.selection(self.config.select).arms.items() if marks_of(arm).needs & PARTS
        )
        if shape.regression and self.config.select.ratio < 1 and uncertain:
            raise UserError(
                f"select={self.config.select.name}: {', '.join(uncertain)} read the probabilities of classes, and this "
                "task is regression, which has none: choose select=random, cluster or density"
            )
        if self.config.select.balance != "none" and len(shape.labels or ()) < 2:
            kind = "regression, which has no classes" if shape.regression else "one class"
            raise UserError(
                f"select.balance={self.config.select.balance}: rows are kept evenly over two classes or more, and this task "
                f"is {kind}; select.balance=none"
            )
        if shape.regression and self.config.trainer.trace_every is not None:
            raise UserError("trainer.trace_every: the trace needs the centres of classes, and this task is regression")
        dataset.check_length(self.tokenizer, shape, self.max_length)
        paired = shape.columns == 2 and "token_type_ids" in self.tokenizer.model_input_names
        for who, config in (("teacher", self.main_source.config), ("student", self.student_shape.config)):
            if paired and getattr(config, "type_vocab_size", None) == 1:
                raise UserError(
                    f"the task has pairs, whose second text the tokenizer marks with segment 1, and the {who}'s model has "
                    "embeddings of one segment (type_vocab_size 1): the tokenizer belongs to another model"
                )
        if self.config.data.augment is not None:
            self._augmented(self.config.data.augment).check()
            if not self.queries_teacher:
                raise UserError(
                    "data.augment: a teacher labels the augmented rows, and knowledge="
                    f"{self.config.knowledge.name} queries none"
                )

    @property
    def example(self) -> tuple[int, Tensor]:
        return self.shape.outputs, torch.zeros(1, dtype=torch.float32 if self.shape.regression else torch.long)

    def data_module(
        self, batches: int | None, epochs: int | None, seed: int | None = None, batch_size: int | None = None
    ) -> GLUEDataModule:
        seed, size = self.config.seed if seed is None else seed, batch_size or self.config.data.batch_size
        grouped = self.config.data.order == "length"
        return self.hold_out(self.rows_in(self.train_folder, seed, size, batches, epochs, grouped))

    @property
    def rows_parts(self) -> dict[str, Any]:
        return {"task": self.train_folder.name}

    @cached_property
    def train_folder(self) -> Path:
        """The folder of the rows a student trains on: tokenised, with augmented rows if `data.augment` is given."""
        if self.config.data.augment is None:
            return self.task_folder
        folder = self._augmented(self.config.data.augment).folder(lambda: self.rows)
        self.notify(dataset.read_notes(folder)[-1])
        return folder

    def _augmented(self, config: AugmentConfig) -> AugmentedRows:
        length, tokens, parts = self.max_length, self.tokenizer, self.task_parts
        return AugmentedRows(config, length, self.main_source, self.teacher_name, tokens, self.store, parts)

    def rows_in(
        self, folder: Path, seed: int, batch_size: int, batches: int | None, epochs: int | None, grouped: bool = True
    ) -> GLUEDataModule:
        """The tokenised rows in `folder`, for a number of micro-batches or of epochs; `grouped`: by similar length."""
        data, pad = self.config.data, int(self.tokenizer.pad_token_id or 0)  # pyright: ignore[reportArgumentType]
        return GLUEDataModule(folder, pad, batch_size, seed, batches, epochs, data.heldout_rows, data.workers, grouped)

    def facts(self) -> dict[str, Any]:
        shape = self.shape
        return {
            "name": self.data_name,
            "source": type(self.source).__name__,
            "path": self.config.data.path,
            "task": self.config.data.task,
            "fingerprint": self.task_parts["rows"],
            "metric": self.config.data.metric,
            "shape": asdict(shape),
            "max_length": self.max_length,
            "label_values": self._label_values(),
            "splits": dataset.read_stats(self.train_folder),
        }

    def _label_values(self) -> tuple[str, ...] | None:
        """The spelling of the classes in the files, for rows that are scored later; None where names say all."""
        try:
            return self.source.label_values(self.shape.labels) if isinstance(self.source, TaskFolder) else None
        except UserError:  # the files went away during the run
            return None

    def load(
        self, source: str | Path, revision: str | None = None, seed: int | None = None
    ) -> transformers.PreTrainedModel:
        reseed(self.config.seed if seed is None else seed, "student head")
        config = loading.load_config(source, revision)
        labels = self.shape.labels or ("score",)
        if head_keys.has_head(source, config, self.head.model_class) and loading.labels_of(config) == labels:
            return loading.load_classifier(source, revision)
        return loading.load_with_new_classifier(source, revision, self.shape)


def folder_of(path: str, task: Task) -> str:
    """The folder of `task` in a folder of tasks, by its name or title; else `path` itself."""
    root = user_path(path)
    if not root.is_dir() or any(file.name.casefold().startswith("train") for file in root.iterdir() if file.is_file()):
        return path
    named = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and plain_name(folder.name) == task.name]
    return str(named[0]) if named else path
