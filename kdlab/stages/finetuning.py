"""The fine-tuning stage: labelled rows, classifiers as teachers and students (AdaDS and Dynamic KD on GLUE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from kdlab.data.datamodules import GLUEDataModule
from kdlab.data.tasks import dataset
from kdlab.data.tasks.registry import Task, find, plain_name
from kdlab.data.tasks.rows import TaskData, limited
from kdlab.data.tasks.sources import TaskFolder, TaskHub
from kdlab.errors import UserError
from kdlab.methods.marks import marks_of
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.strategies import random
from kdlab.models import loading
from kdlab.modules.evaluation import TaskScore, over_splits
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import reseed
from kdlab.stages import augmented_rows
from kdlab.stages.base import Stage, vocabulary_hash
from kdlab.stages.components import Selection, made
from kdlab.stages.decision_callbacks import select_callback
from kdlab.stages.preparation import fit
from kdlab.stages.teachers.classifiers import LABELS, TaskTeacherPool
from kdlab.storage.files import atomic_write_json, read_json
from kdlab.teachers.teacher import Teacher
from kdlab.types import TaskShape


class FinetuneStage(Stage):
    """What a run on labelled rows needs."""

    head = transformers.AutoModelForSequenceClassification
    fixed_inputs = True

    # ---- rows

    @cached_property
    def task(self) -> Any:
        """The official task that data.task names, or None: a set of one's own."""
        return None if self.config.data.task is None else find(self.config.data.task)

    @cached_property
    def source(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        data = self.config.data
        if data.path is not None:
            columns = tuple(data.columns) if data.columns else None
            path = data.path if self.task is None else folder_of(data.path, self.task)
            return TaskFolder(path, self.task, columns, data.label_column, data.regression)
        if self.task is not None:
            return TaskHub(self.task)
        if data.source is None:
            raise UserError(
                "no labelled rows: give data.path= (a folder with train.tsv and dev.tsv, .csv, .jsonl or .parquet) "
                "or data.task= (an official task, from the Hub)"
            )
        return made(data.source, "data.source")

    @cached_property
    def rows(self) -> TaskData:
        """The labelled rows, read and understood."""
        return limited(self.source.read(), self.config.data.train_rows)

    @cached_property
    def task_parts(self) -> dict[str, Any]:
        return {
            "rows": self.source.fingerprint(),
            "tokenizer": vocabulary_hash(self.tokenizer),
            "max_length": self.config.data.max_length,
            "train_rows": self.config.data.train_rows,
        }

    @cached_property
    def shape(self) -> TaskShape:
        """What a model has to know of the task; from the prepared rows where there are any."""
        found = self.store.find("task", self.task_parts)
        return self.rows.shape if found is None else dataset.read_shape(found)

    @property
    def score(self) -> TaskScore:  # pyright: ignore[reportIncompatibleVariableOverride]
        return TaskScore(self.shape)

    @cached_property
    def task_folder(self) -> Path:
        """The tokenised rows, without augmented ones."""

        def build(out: Path) -> None:
            dataset.prepare(self.rows, self.tokenizer, out, max_length=self.config.data.max_length)

        folder = self.store.get("task", self.task_parts, build, "tokenised rows")
        for note in dataset.read_notes(folder):
            self.say(note)
        return folder

    def check_data(self) -> None:
        """Reads all rows the first time: a bad one is named by file and line before anything is written."""
        shape = self.shape
        uncertain = sorted(name for name, arm in self.selection().arms.items() if "logits" in marks_of(arm).needs)
        if shape.regression and self.config.select.ratio < 1 and uncertain:
            raise UserError(
                f"select={self.config.select.name}: {', '.join(uncertain)} need the student's uncertainty, and this "
                "task is regression, which has none: choose select=random, cluster or density"
            )
        if shape.regression and self.config.trainer.trace_every is not None:
            raise UserError("trainer.trace_every: what is traced are classes' centres, and this task is regression")
        dataset.check_length(self.tokenizer, shape, self.config.data.max_length)
        if self.config.data.augment is not None:
            augmented_rows.check(self)

    @property
    def answer(self) -> tuple[int, Tensor]:
        return self.shape.outputs, torch.zeros(1, dtype=torch.float32 if self.shape.regression else torch.long)

    def data_module(
        self, batches: int | None, epochs: int | None, seed: int | None = None, batch_size: int | None = None
    ) -> GLUEDataModule:
        seed, size = self.config.seed if seed is None else seed, batch_size or self.config.data.batch_size
        return self.rows_in(self.train_folder, seed, size, batches, epochs, self.config.data.order == "length")

    @property
    def rows_parts(self) -> dict[str, Any]:
        return {"task": self.train_folder.name}

    @cached_property
    def train_folder(self) -> Path:
        """The tokenised rows, with the augmented ones where they are asked for."""
        return self.task_folder if self.config.data.augment is None else augmented_rows.folder(self)

    def rows_in(
        self, folder: Path, seed: int, batch_size: int, batches: int | None, epochs: int | None, grouped: bool = True
    ) -> GLUEDataModule:
        """The prepared rows in `folder`, for a number of micro-batches or of passes; `grouped` by length, as teachers
        are fine-tuned."""
        data, pad = self.config.data, int(self.tokenizer.pad_token_id or 0)  # pyright: ignore[reportArgumentType]
        return GLUEDataModule(folder, pad, batch_size, seed, batches, epochs, data.heldout_rows, data.workers, grouped)

    def facts(self) -> dict[str, Any]:
        """What is known of the rows."""
        shape = self.shape
        return {
            "source": type(self.source).__name__,
            "path": self.config.data.path,
            "task": self.config.data.task,
            "fingerprint": self.task_parts["rows"],
            "shape": asdict(shape),
            "splits": dataset.read_stats(self.train_folder),
        }

    # ---- teachers

    @cached_property
    def teacher_pool(self) -> TaskTeacherPool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return TaskTeacherPool(self)

    def teachers(self, ledger: Ledger | None) -> list[Teacher]:
        """UserError for a teacher that knows nothing; shared ones are scored when all ranks have them (`meet`)."""
        if self.asks_teacher and not self.config.trainer.shard_teacher:
            self.teacher_scores_all()
        return super().teachers(ledger)

    def meet(self, teachers: Sequence[Teacher]) -> None:
        self.teacher_pool.meet(teachers)

    def teacher_scores_all(self) -> dict[str, dict[str, float]]:
        """Each teacher's scores on all dev rows, by title (`teachers_on_heldout`)."""
        return self.teacher_pool.scores

    def teachers_on_heldout(
        self, module: StudentModule, teachers: Sequence[Teacher], data: GLUEDataModule
    ) -> dict[str, dict[str, float]]:
        return self.teacher_scores_all() if teachers else {}

    @cached_property
    def majority(self) -> dict[str, float]:
        """The scores on dev of the class that most training rows have (in regression: of a constant)."""
        return self.teacher_pool.majority(self.teacher_pool.main)

    # ---- student

    def load(
        self, source: str | Path, revision: str | None = None, seed: int | None = None
    ) -> transformers.PreTrainedModel:
        reseed(self.config.seed if seed is None else seed, "student head")
        config = loading.load_config(source, revision)
        wanted = self.shape.labels or ("score",)
        if loading.has_head(source, config, self.head) and loading.labels_of(config) == wanted:
            return loading.load_classifier(source, revision)
        return loading.load_with_new_classifier(source, revision, self.shape)

    def backbone(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        """The teacher before it was fine-tuned (the papers' students start from there), with a new head."""
        reseed(self.config.seed, "student head")
        return loading.load_with_new_classifier(self.teacher_source, self.config.teachers.revision, self.shape)

    # ---- what the student is read against

    def baselines(self, batches: int, world: int) -> dict[str, dict[str, float]]:
        found = {"majority class": self.majority}
        if self.config.no_kd_baseline:
            found["no KD"] = self._no_kd(batches, world)
        return found

    def _no_kd(self, batches: int, world: int) -> dict[str, float]:
        """The same student, steps and number of rows a step (at random), learning from labels alone."""
        given = self.config
        rows = given.data.batch_size * world
        parts = {
            "task": self.task_parts,
            **self.student_parts,
            "optim": asdict(given.optim),
            "seed": given.seed,
            "batches": batches,
            "accumulate": given.trainer.accumulate,
            "rows": rows,
            "order": given.data.order,
            "ratio": given.select.ratio,
            "precision": self.precision,
        }

        def build(out: Path) -> dict[str, Any]:
            data = self.rows_in(self.task_folder, given.seed, rows, batches, None, given.data.order == "length")
            steps = -(-batches // given.trainer.accumulate)
            score = self.score
            optim = replace(self.optim(), restarts=())  # labels have no phases
            ledger = Ledger(len(data.train), self.fixed_inputs)
            module = StudentModule(self.student(), LABELS, optim, steps, ledger=ledger, seed=given.seed, score=score)
            at_random = Selection({"random": random}, Fixed(["random"]))
            how = replace(given.select, scope="global", scoring="fresh")  # the same rows, whatever the run does
            select = select_callback(at_random, how, module, data, steps, given.seed)
            trainer = given.trainer
            cost = fit(
                module, data, steps, "training without a teacher", *([select] if select else []),
                accelerator=trainer.accelerator, accumulate=trainer.accumulate, precision=self.precision,
            )  # fmt: skip
            splits = data.heldout_splits(final=True)
            atomic_write_json(out / "scores.json", over_splits(module.evaluate, splits))
            return cost

        folder = self.preparation_of.get(
            "baseline", parts, build, "the baseline without a teacher", "student without a teacher"
        )
        return read_json(folder / "scores.json")


def folder_of(path: str, task: Task) -> str:
    """`path` itself, or, where it is a folder of tasks, the folder in it that is called by the task's name or title."""
    root = Path(path).expanduser()
    if not root.is_dir() or any(file.stem.startswith("train") for file in root.iterdir() if file.is_file()):
        return path
    named = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and plain_name(folder.name) == task.name]
    return str(named[0]) if named else path
