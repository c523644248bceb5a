"""The fine-tuning stage: labelled rows, classifiers as teachers and students (AdaDS and Dynamic KD on GLUE)."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from kdlab import augment, labels, metrics, models, taskset
from kdlab.bench import Bench, first_device, made, precision_of, read_json, vocabulary_hash
from kdlab.config import Finetune
from kdlab.datamodules import TaskDataModule
from kdlab.distill import Distiller, Optim, Weighted
from kdlab.errors import UserError
from kdlab.files import atomic_write_json, sha256_of
from kdlab.ledger import Ledger
from kdlab.models import Encoder
from kdlab.policies import Fixed
from kdlab.scoring import TaskScore, over_splits
from kdlab.seeding import reseed
from kdlab.select import Select
from kdlab.strategies import needs_of, random
from kdlab.taskdata import TaskData, limited
from kdlab.tasks import Task, TaskShape, find, plain_name
from kdlab.tasksources import TaskFolder, TaskHub
from kdlab.teacher import Teacher
from kdlab.terms import label_loss
from kdlab.wordvectors import read_word_table

LABELS = {"label": Weighted(label_loss, 1.0)}


class TaskBench(Bench):
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
        return self.rows.shape if found is None else taskset.read_shape(found)

    @property
    def score(self) -> TaskScore:  # pyright: ignore[reportIncompatibleVariableOverride]
        return TaskScore(self.shape)

    @cached_property
    def task_folder(self) -> Path:
        """The tokenised rows, without augmented ones."""

        def build(out: Path) -> None:
            taskset.prepare(self.rows, self.tokenizer, out, max_length=self.config.data.max_length)

        folder = self.store.get("task", self.task_parts, build, "tokenised rows")
        for note in taskset.read_notes(folder):
            self.say(note)
        return folder

    def check_data(self) -> None:
        """Reads all rows the first time: a bad one is named by file and line before anything is written."""
        shape = self.shape
        uncertain = sorted(name for name, arm in self.selection().arms.items() if "logits" in needs_of(arm))
        if shape.regression and self.config.select.ratio < 1 and uncertain:
            raise UserError(
                f"select={self.config.select.name}: {', '.join(uncertain)} need the student's uncertainty, and this "
                "task is regression, which has none: choose select=random, cluster or density"
            )
        if shape.regression and self.config.trainer.trace_every is not None:
            raise UserError("trainer.trace_every: what is traced are classes' centres, and this task is regression")
        taskset.check_length(self.tokenizer, shape, self.config.data.max_length)
        if self.asks_teacher and self.given_classifier:
            _ = self.order
        elif self.asks_teacher:
            _ = self.recipe
        augmented = self.config.data.augment
        if augmented is not None:
            _ = self.augmenting_source
            if augmented.table is not None and not Path(augmented.table).is_file():
                raise UserError(f"data.augment.table={augmented.table}: there is no such file of word vectors (GloVe)")
            if not self.asks_teacher:
                raise UserError(
                    f"data.augment: augmented rows are labelled by a teacher, and knowledge={self.config.knowledge.name} asks none"
                )

    @property
    def answer(self) -> tuple[int, Tensor]:
        return self.shape.outputs, torch.zeros(1, dtype=torch.float32 if self.shape.regression else torch.long)

    def data_module(self, batches: int | None, epochs: int | None) -> TaskDataModule:
        data = self.config.data
        return self._data_module(self.train_folder, self.config.seed, data.batch_size, batches, epochs)

    @cached_property
    def train_folder(self) -> Path:
        """The tokenised rows, with the augmented ones where they are asked for."""
        given = self.config.data.augment
        if given is None:
            return self.task_folder
        source = self.augmenting_source
        weights = Path(source) / "model.safetensors"
        made_by = {
            "masked_lm": sha256_of(weights) if weights.is_file() else f"{source}@{self.config.teachers.revision}",
            "tokenizer": self.task_parts["tokenizer"],
            "table": given.table and sha256_of(Path(given.table)),
        }
        names = ("copies", "replace", "candidates", "seed")
        parts = {**self.task_parts, "augment": {**made_by, **{name: getattr(given, name) for name in names}}}

        def build(out: Path) -> None:
            revision = None if given.model else self.config.teachers.revision
            rows = augment.augmented(
                self.rows,
                models.load_masked_lm(source, revision).eval(),
                self.tokenizer,
                augment.Recipe(
                    max_length=self.config.data.max_length,
                    batch_size=given.batch_size,
                    **{name: getattr(given, name) for name in names},
                ),
                read_word_table(given.table) if given.table else None,
                self.store,
                made_by,
                self.say,
            )
            taskset.prepare(rows, self.tokenizer, out, max_length=self.config.data.max_length)

        folder = self.store.get("task", parts, build, "augmented rows")
        self.say(taskset.read_notes(folder)[-1])
        return folder

    @property
    def augmenting_source(self) -> str | Path:
        """The masked-LM model that proposes words; UserError where there is none, or it has other tokens."""
        given = self.config.data.augment
        assert given is not None
        if given.model is None:
            if not models.has_head(self.teacher_source, self.teacher_config):
                raise UserError(
                    f"data.augment: the teacher {self.teacher_name} has no masked-LM head to propose words; "
                    "data.augment.model= names a folder that has, such as the student of +exp=adads_pretrain"
                )
            return self.teacher_source
        if models.load_tokenizer(given.model).get_vocab() != self.tokenizer.get_vocab():
            raise UserError(
                f"data.augment.model={given.model}: its tokens are not those of the teacher {self.teacher_name}"
            )
        if not models.has_head(given.model, models.load_config(given.model)):
            raise UserError(f"data.augment.model={given.model}: it has no masked-LM head to propose words")
        return given.model

    def _data_module(
        self, folder: Path, seed: int, batch_size: int, batches: int | None, epochs: int | None
    ) -> TaskDataModule:
        data = self.config.data
        return TaskDataModule(
            folder, int(self.tokenizer.pad_token_id or 0), batch_size, seed, batches, epochs, data.heldout_rows, data.workers  # pyright: ignore
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What is known of the rows."""
        shape = self.shape
        return {
            "source": type(self.source).__name__,
            "path": self.config.data.path,
            "task": self.config.data.task,
            "fingerprint": self.task_parts["rows"],
            "shape": asdict(shape),
            "splits": taskset.read_stats(self.train_folder),
        }

    # ---- teacher

    @cached_property
    def given_classifier(self) -> bool:
        """Whether the teacher comes as a classifier; otherwise it is an encoder, and fine-tuned here."""
        return models.has_head(self.teacher_source, self.teacher_config, self.head)

    @cached_property
    def order(self) -> tuple[int, ...] | None:
        """Where a given teacher keeps each class of the data; UserError for a teacher of another task."""
        theirs = models.labels_of(self.teacher_config)
        if self.shape.labels is None:
            if len(theirs) != 1:
                raise UserError(
                    f"the teacher {self.teacher_name} tells {len(theirs)} classes apart; this task is regression"
                )
            return None
        return labels.align(self.shape.labels, theirs)

    @cached_property
    def teacher_folder(self) -> str | Path:
        """A classifier of this task: as it was given, or fine-tuned once and kept in the artifact store."""
        if self.given_classifier:
            return self.teacher_source
        recipe = self.recipe
        parts = {"model": self.source_hash(), "task": self.task_parts, "recipe": asdict(recipe)}
        return self.store.get(
            "classifier", parts, lambda out: self._finetune(out, recipe), "the teacher, fine-tuned on this task"
        )

    @property
    def recipe(self) -> Finetune:
        """How a teacher is fine-tuned here; UserError where nothing is said about it."""
        recipe = self.config.teachers.finetune
        if recipe is None:
            raise UserError(
                f"the teacher {self.teacher_name} is no classifier, and teachers.finetune says nothing about training one"
            )
        return replace(recipe, precision=precision_of(recipe.precision, self.config.trainer.accelerator))

    def _finetune(self, out: Path, recipe: Finetune) -> None:
        reseed(recipe.seed, "finetune")
        model = models.with_new_classifier(self.teacher_source, self.config.teachers.revision, self.shape)
        models.freeze(model, recipe.freeze)
        if recipe.dropout is not None:
            models.set_dropout(model, recipe.dropout)
        data = self._data_module(self.task_folder, recipe.seed, recipe.batch_size, recipe.max_steps, recipe.max_epochs)
        steps = data.sampler().batches
        optim = Optim(lr=recipe.lr, weight_decay=recipe.weight_decay, warmup=recipe.warmup)
        module = Distiller(Encoder(model.train()), LABELS, optim, steps, seed=recipe.seed, score=self.score)
        self.fit(module, data, steps, "fine-tuning teacher", precision=recipe.precision)
        model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)

    @cached_property
    def teacher_scores(self) -> dict[str, float]:
        """The teacher on all dev rows. UserError where it is no better than always answering the majority class."""
        folder = Path(self.teacher_folder)
        weights = folder / "model.safetensors"
        parts = {
            "teacher": sha256_of(weights) if weights.is_file() else f"{folder}@{self.config.teachers.revision}",
            "classes": list(models.labels_of(models.load_config(folder, self._revision))),
            "task": self.task_parts,
        }

        def build(out: Path) -> None:
            data = self._data_module(self.task_folder, 0, self.config.data.batch_size, 1, None)
            device = first_device(self.config.trainer.accelerator)
            teacher = self._teacher().to(device)
            score = self.score
            found = over_splits(
                lambda b: score(teacher.encoder, b, device, project=teacher.project), data.heldout_splits(final=True)
            )
            atomic_write_json(out / "scores.json", found)

        where = self.store.get("scores", parts, build, "the teacher's scores on dev")
        found = read_json(where / "scores.json")
        self.say(f"teacher {self.teacher_name}: {described(found, self.shape)}")
        nothing = self.majority["score"]
        if self.config.teachers.sanity and not found["score"] > nothing:
            raise UserError(
                f"the teacher {self.teacher_name} scores {found['score']:.3f} on dev, no better than "
                f"{'a constant' if self.shape.regression else 'always the majority class'} ({nothing:.3f}): it has "
                "nothing to teach; train it longer (teachers.finetune.*), take another, or teachers.sanity=false"
            )
        return found

    def teacher_on_heldout(self, module: Distiller, teacher: Teacher, data: TaskDataModule) -> dict[str, float]:
        return self.teacher_scores

    @cached_property
    def majority(self) -> dict[str, float]:
        """The scores on dev of the class that most training rows have (in regression: of a constant)."""
        data = self._data_module(self.task_folder, 0, 1, 1, None)
        train = torch.tensor(data.train.labels)
        answer = train[~train.isnan()].mean() if self.shape.regression else train[train >= 0].bincount().argmax()
        whole = {}
        for split, rows in data.dev_splits().items():
            truth = torch.tensor(rows.labels)
            whole[split] = metrics.score(self.shape.metrics, answer.expand(len(truth)), truth)
        return {**{k: v for k, v in whole[""].items() if k != "average"}, "score": metrics.task_average(whole)}

    def _teacher(self, ledger: Ledger | None = None) -> Teacher:
        model = models.load_classifier(self.teacher_folder, self._revision)
        order = self.order if self.given_classifier else None
        return Teacher(self.teacher_name, Encoder(model), ledger.ask if ledger else None, order)

    def teacher(self, ledger: Ledger | None) -> Teacher | None:
        if not self.asks_teacher:
            return None
        _ = self.teacher_scores
        return self._teacher(ledger)

    @property
    def _revision(self) -> str | None:
        return None if isinstance(self.teacher_folder, Path) else self.config.teachers.revision

    # ---- student

    def load(self, source: str | Path, revision: str | None = None) -> transformers.PreTrainedModel:
        reseed(self.config.seed, "student head")
        config = models.load_config(source, revision)
        wanted = self.shape.labels or ("score",)
        if models.has_head(source, config, self.head) and models.labels_of(config) == wanted:
            return models.load_classifier(source, revision)
        return models.with_new_classifier(source, revision, self.shape)

    def backbone(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        """The teacher before it was fine-tuned (the papers' students start from there), with a new head."""
        reseed(self.config.seed, "student head")
        return models.with_new_classifier(self.teacher_source, self.config.teachers.revision, self.shape)

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
            "model": self.source_hash(),
            "student": asdict(given.student) | {"path": given.student.path and _weights_of(given.student.path)},
            "optim": asdict(given.optim),
            "seed": given.seed,
            "batches": batches,
            "accumulate": given.trainer.accumulate,
            "rows": rows,
            "ratio": given.select.ratio,
            "precision": self.precision,
        }

        def build(out: Path) -> None:
            data = self._data_module(self.task_folder, given.seed, rows, batches, None)
            steps = -(-batches // given.trainer.accumulate)
            score = self.score
            optim = replace(self.optim(), restarts=())  # labels have no phases
            module = Distiller(self.student(), LABELS, optim, steps, seed=given.seed, score=score)
            select = Select({"random": random}, Fixed(["random"]), given.select.ratio, steps, given.seed)
            trainer = given.trainer
            self.fit(
                module, data, steps, "training without a teacher", select,
                accumulate=trainer.accumulate, precision=self.precision,
            )  # fmt: skip
            splits = data.heldout_splits(final=True)
            atomic_write_json(out / "scores.json", over_splits(lambda b: module.measure(b), splits))

        folder = self.store.get("baseline", parts, build, "the baseline without a teacher")
        return read_json(folder / "scores.json")


def folder_of(path: str, task: Task) -> str:
    """`path` itself, or, where it is a folder of tasks, the folder in it that is called by the task's name or title."""
    root = Path(path).expanduser()
    if not root.is_dir() or any(file.stem.startswith("train") for file in root.iterdir() if file.is_file()):
        return path
    named = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and plain_name(folder.name) == task.name]
    return str(named[0]) if named else path


def described(scores: dict[str, float], shape: TaskShape) -> str:
    """Scores in words, e.g. "accuracy 0.912 on dev"."""
    return ", ".join(f"{name} {scores[name]:.3f}" for name in shape.metrics) + " on dev"


def _weights_of(path: str) -> str:
    weights = Path(path) / "model.safetensors"
    return sha256_of(weights) if weights.is_file() else path
