"""Teachers of a task: classifiers, taken as they are or fine-tuned; shallower ones, specialists, assistants."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdlab.config.groups.teachers import FinetuneConfig
from kdlab.data.datamodules import GLUEDataModule
from kdlab.data.tasks import dataset, labels, metric_names, metrics
from kdlab.data.tasks.rows import TaskData, relabelled
from kdlab.errors import UserError
from kdlab.methods.knowledge.logits import label_loss
from kdlab.models import head_keys, loading
from kdlab.models.student import freeze, set_dropout, student_from
from kdlab.modules.evaluation import Answers, TaskScore, UnfiniteAnswers, over_splits, with_answers
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.teacher import TeacherModule
from kdlab.runtime import distributed
from kdlab.runtime.devices import first_device, precision_of
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import reseed
from kdlab.stages import answers_file
from kdlab.stages.preparation import Training
from kdlab.stages.task_inputs import TaskInputs
from kdlab.stages.teachers import answer_cache
from kdlab.stages.teachers.base import LONGER, TeacherPool
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher, teacher_dtype
from kdlab.types import Caveat, TaskShape

LABELS = {"label": WeightedTerm(label_loss, 1.0)}


class TaskTeacherPool(TeacherPool):
    """The classifiers that are teachers of a task. `loaded`: those that all ranks have, by name, where one is sharded."""

    inputs: TaskInputs

    def __init__(self, inputs: TaskInputs) -> None:
        super().__init__(inputs)
        self.loaded: dict[str, Teacher] = {}

    # ---- members

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.inputs.shape.labels

    @property
    def outputs(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inputs.shape.outputs

    def shape(self, member: TeacherSpec) -> TaskShape:
        """The task shape of a teacher; a specialist's has its own classes only."""
        whole = self.inputs.shape
        if member.classes is None or whole.labels is None:
            return whole
        return replace(whole, labels=tuple(whole.labels[i] for i in member.classes))

    def is_classifier(self, member: TeacherSpec) -> bool:
        """True if the source of a teacher is a classifier, which is used as it is; others are fine-tuned."""
        if member.layers is not None or member.assistant is not None:
            return False
        return head_keys.has_head(member.source.place, member.source.config, self.inputs.head.model_class)

    def order(self, member: TeacherSpec) -> tuple[int, ...] | None:
        """As the base method; UserError for a classifier of another task."""
        if not self.is_classifier(member):
            return None
        outputs, classes = loading.labels_of(member.source.config), self.inputs.shape.labels
        if classes is None:
            if len(outputs) != 1:
                raise UserError(f"the teacher {member.name} has {len(outputs)} classes; this task is regression")
            return None
        return labels.align(classes, outputs)

    def check_one(self, member: TeacherSpec) -> None:
        if not self.is_classifier(member):
            _ = member.assistant or self.recipe(member)
        elif member.classes is not None:
            raise UserError(
                f"teachers.split={self.inputs.config.teachers.split}: the teacher {self.main.name} is a classifier already; "
                "specialists are fine-tuned from an encoder"
            )
        else:
            self.order(member)

    # ---- weights and data

    def folder_of_rows(self, member: TeacherSpec) -> Path:
        """Folder of the tokenised rows that a teacher is trained and scored on; a specialist: those of its classes."""
        inputs = self.inputs
        if member.classes is None:
            return inputs.task_folder
        known = member.classes

        def build(out: Path) -> None:
            dataset.prepare(among(inputs.rows, known), inputs.tokenizer, out, max_length=inputs.max_length)

        # those of an older kdlab lack the test rows
        parts = {**inputs.task_parts, "classes": list(known), **({"test": True} if inputs.has_test else {})}
        return inputs.store.get("task", parts, build, f"the rows of {member.name}")

    def rows(
        self,
        member: TeacherSpec,
        seed: int,
        batch_size: int,
        steps: int | None,
        epochs: int | None,
    ) -> GLUEDataModule:
        return self.inputs.rows_in(self.folder_of_rows(member), seed, batch_size, steps, epochs)

    @property
    def parts(self) -> dict[str, Any]:
        return self.inputs.task_parts

    def recipe(self, member: TeacherSpec) -> FinetuneConfig:
        """Settings for the fine-tuning of a teacher; UserError if teachers.finetune is missing."""
        recipe = self.inputs.config.teachers.finetune
        if recipe is None:
            raise UserError(
                f"the teacher {member.name} is no classifier: give teachers.finetune, the settings to train one"
            )
        return replace(recipe, precision=precision_of(recipe.precision, self.inputs.config.trainer.accelerator))

    def prepared_folder(self, member: TeacherSpec) -> str | Path:
        """Folder or Hub name of a classifier of this task: the source, or the artifact of its fine-tuning."""
        if self.is_classifier(member):
            return member.source.place
        recipe = self.recipe(member)
        parts = {"model": member.source.sha256(), "task": self.inputs.task_parts, "recipe": asdict(recipe)}
        parts |= self.execution_parts(recipe.precision)
        parts |= {"layers": list(member.layers)} if member.layers is not None else {}
        parts |= {"classes": list(member.classes)} if member.classes is not None else {}
        who = "the teacher" if member.title == "teacher" else f"the {member.title}"
        title = f"{member.title}, {member.depth} layers, fine-tuned"
        folder = self.inputs.prerequisites.get(
            "classifier",
            parts,
            lambda out: self._finetune(out, member, recipe),
            f"{who}, fine-tuned on this task",
            title,
            config=member.source.config,
        )
        self.add_short_training(member, folder, recipe.batch_size, LONGER.format("teachers.finetune"))
        return folder

    def training_rows(self, member: TeacherSpec) -> int:
        return dataset.read_stats(self.folder_of_rows(member))["train"]["rows"]

    def _finetune(self, out: Path, member: TeacherSpec, recipe: FinetuneConfig) -> dict[str, Any]:
        """Fine-tune a teacher and save it in `out`; returns the cost."""
        reseed(recipe.seed, "finetune")
        model = self._encoder(member, self.shape(member))
        cost = self.training(member, model).run(self.inputs.config.trainer.accelerator, self.inputs.saving(out))
        model.save_pretrained(out)
        self.inputs.tokenizer.save_pretrained(out)
        return cost

    def training(self, member: TeacherSpec, model: Any) -> Training:
        recipe = self.recipe(member)
        freeze(model, recipe.freeze)
        if recipe.dropout is not None:
            set_dropout(model, recipe.dropout)
        encoder = self.trained_encoder(model, recipe.precision)
        data = self.rows(member, recipe.seed, recipe.batch_size, recipe.max_steps, recipe.max_epochs)
        steps = data.sampler().batches
        optim = OptimizerSettings(
            lr=recipe.lr, weight_decay=recipe.weight_decay, warmup=recipe.warmup, fused=recipe.precision != "16-mixed"
        )
        ledger = Ledger(len(data.train), self.inputs.fixed_inputs)
        module = TeacherModule(
            encoder,
            optim,
            steps,
            ledger=ledger,
            seed=recipe.seed,
            score=TaskScore(self.shape(member)),
            part_tokens=self.inputs.part_tokens(recipe.precision),
        )
        return Training(module, data, steps, f"fine-tuning {member.title}", recipe.precision)

    def _encoder(self, member: TeacherSpec, shape: TaskShape) -> Any:
        """The layers of a teacher before fine-tuning, with a new head."""
        model = loading.load_with_new_classifier(member.source.place, member.source.revision, shape)
        return model if member.layers is None else student_from(model, member.layers)

    def initial_model(self, member: TeacherSpec, seed: int) -> Any:
        assistant = member.assistant
        if assistant is not None and assistant.path is not None:
            return self.inputs.load(assistant.path, None, seed)
        reseed(seed, "student head")
        return self._encoder(member, self.inputs.shape)

    def attach_cache(self, member: TeacherSpec, teacher: Teacher, rows: int, ledger: Ledger, precision: str) -> None:
        """As the base method; stores logits only, which runs whose terms read nothing else share."""
        inputs, spec = self.inputs, CacheSpec("row")
        if inputs.config.teachers.cache == "off":
            return
        row_bytes = answer_cache.row_bytes(inputs, spec, self.main, 1.0, 0.0, 0.0, precision)
        if answer_cache.within_limit(
            inputs, int((row_bytes + 32) * rows), f"{rows:,} rows that the assistant learns from"
        ):
            parts = {"task": self.folder_of_rows(member).name}
            run = uuid.uuid4().hex
            answer_cache.attach_cache(
                inputs, self.main, self.weights(self.main), teacher, spec, rows, parts, precision, ledger, run
            )

    def load(self, member: TeacherSpec) -> Any:
        return loading.load_classifier(self.folder(member), self.revision(member))

    # ---- scores

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """Scores on dev by the title of each teacher, of a specialist on the rows of its classes.

        UserError for a teacher no better than always answering the majority class.
        """
        return {member.title: self.scores_of(member, self.loaded.get(member.name)) for member in self.members}

    def score_sharded(self, teachers: Sequence[Teacher]) -> None:
        """Score all teachers (collective) if any is sharded over the ranks; call it when every rank has them."""
        if any(teacher.shared for teacher in teachers):
            self.loaded = {teacher.name: teacher for teacher in teachers}
            _ = self.scores

    def answers_of(self, member: TeacherSpec, part: str, loaded: Teacher | None = None) -> dict[str, Answers]:
        """The answers of a teacher to the rows of `part` ("dev" or "test") by split, from the artifact store or given now;
        of a specialist to those of its classes. Empty where no test rows have labels.

        `loaded`: the teacher if every rank has it already. Ranks answer together (collective).
        """
        inputs = self.inputs
        if part == "test" and not inputs.has_test:
            return {}
        data_parts = inputs.task_parts
        if member.classes is not None:
            data_parts = {**data_parts, "classes": list(member.classes)}
        parts = {**self.weights(member), "task": data_parts, "part": part}
        if loaded is not None and (dtype := teacher_dtype(inputs.precision)) is not None:
            parts["numbers"] = str(dtype)
        together: dict[str, Answers] = {}

        def answered() -> dict[str, Answers]:
            data = self.rows(member, 0, inputs.config.data.batch_size, 1, None)
            device = first_device(inputs.config.trainer.accelerator)
            teacher, score = loaded or self.teacher(member).to(device), TaskScore(self.shape(member))
            try:
                return with_answers(
                    lambda b: score(teacher.encoder, teacher.over(b), device, project=teacher.project),
                    lambda: score.answers,
                    data.final_splits(part),
                )[1]
            except UnfiniteAnswers as error:
                raise UnfiniteAnswers(f"the teacher {member.name} on {part}", "take another teacher") from error

        def build(out: Path) -> None:
            answers_file.write(out, {part: together or answered()})

        together_now = (
            loaded is not None or distributed.world() > 1
        )  # one rank that builds must not wait for the others
        if together_now and not distributed.broadcast_object(inputs.store.find("heldout", parts) is not None):
            together = answered()
        who = "teacher" if member.title == "teacher" else member.title
        return answers_file.read(inputs.store.get("heldout", parts, build, f"the {who}'s answers on {part}"))[part]

    def scores_of(self, member: TeacherSpec, loaded: Teacher | None = None) -> dict[str, float]:
        """Scores of a teacher on dev, by its answers (`answers_of`)."""
        inputs, shape = self.inputs, self.shape(member)
        scores = over_splits(TaskScore(shape, inputs.config.data.metric).of, self.answers_of(member, "dev", loaded))
        name = self.main.name if member is self.main else member.name
        of_classes = "" if member.classes is None else f" (rows of {', '.join(shape.labels or ())})"
        self.inputs.notify(
            f"{'assistant' if member.assistant else f'teacher {name}'}: {described(scores, shape)}{of_classes}"
        )
        self._check_scores(member, scores["score"])
        return scores

    def _check_scores(self, member: TeacherSpec, score: float) -> None:
        """UserError for a score no better than the majority class, unless teachers.sanity=false."""
        baseline = self.majority(member)["score"]
        if metrics.hardly_better(score, baseline) and (score > baseline or not self.inputs.config.teachers.sanity):
            who = "the assistant" if member.assistant else f"the teacher {member.name}"
            hardly = "hardly" if score > baseline else "no"
            answer = "a constant" if self.inputs.shape.regression else "always the majority class"
            text = f"{who} scores {score:.3f} on dev, {hardly} better than {answer} ({baseline:.3f}): it has little to teach"
            self.inputs.caveats.add(Caveat("weak_teacher", f"{text}; train it longer, or take another"))
        if not self.inputs.config.teachers.sanity or score > baseline:
            return
        options = "adopt.assistant.*" if member.assistant else "teachers.finetune.*"
        constant = "a constant" if self.inputs.shape.regression else "always the majority class"
        raise UserError(
            f"the {'assistant' if member.assistant else f'teacher {member.name}'} scores {score:.3f} on dev, no better "
            f"than {constant} ({baseline:.3f}): it has nothing to teach; train it longer ({options}), take another, or "
            "teachers.sanity=false"
        )

    def majority(self, member: TeacherSpec, part: str = "dev") -> dict[str, float]:
        """Scores on `part` of always answering the majority class of the training rows (regression: their mean)."""
        data = self.rows(member, 0, 1, 1, None)
        shape, metric = self.shape(member), self.inputs.config.data.metric
        train = torch.tensor(data.train.labels)
        answer = train[~train.isnan()].mean() if shape.regression else train[train >= 0].bincount().argmax()
        whole = {}
        for split, rows in dataset.scored_splits(data.folder, part).items():
            truth = torch.tensor(rows.labels, dtype=answer.dtype)
            whole[split] = metrics.score(metric_names.named(shape.metrics, metric), answer.expand(len(truth)), truth)
        score = metrics.task_average(whole, metric or "average")
        return {**{name: value for name, value in whole[""].items() if name != "average"}, "score": score}


def described(scores: dict[str, float], shape: TaskShape) -> str:
    """Scores as text, e.g. "accuracy 0.912 on dev"."""
    return ", ".join(f"{name} {scores[name]:.3f}" for name in shape.metrics) + " on dev"


def among(data: TaskData, classes: Sequence[int]) -> TaskData:
    """Rows with one of `classes`, renumbered in that order; UserError for a split of train or dev without any, and a test
    split without any is left out."""
    names = data.shape.labels
    assert names is not None
    number = {label: i for i, label in enumerate(classes)}
    kept = {split: relabelled(rows, number, hidden=False) for split, rows in data.splits.items()}
    known = tuple(names[i] for i in classes)
    kept = {split: rows for split, rows in kept.items() if rows or not split.startswith("test")}
    empty = next((split for split, rows in kept.items() if not rows), None)
    if empty is not None:
        raise UserError(f"the split {empty} has no row of the classes {', '.join(known)}, which a specialist needs")
    return TaskData(replace(data.shape, labels=known), kept)
