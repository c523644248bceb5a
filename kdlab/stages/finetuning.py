"""The fine-tuning stage: classifiers as teachers and students of labelled rows (AdaDS and Dynamic KD on GLUE)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from kdlab.callbacks.select import Select
from kdlab.config.schema import Config
from kdlab.data.datamodules import GLUEDataModule
from kdlab.data.tasks import dataset
from kdlab.data.tasks.metrics import headline
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.strategies import random
from kdlab.models import loading
from kdlab.models.encoder import Encoder
from kdlab.models.student import with_classes
from kdlab.modules.evaluation import Answers, TaskScore, over_splits, with_answers
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import reseed
from kdlab.stages import answers_file
from kdlab.stages.base import Stage
from kdlab.stages.components import Selection
from kdlab.stages.decision_callbacks import BEST, select_callback
from kdlab.stages.preparation import Training, fit
from kdlab.stages.task_inputs import TaskInputs
from kdlab.stages.teachers.classifiers import LABELS, TaskTeacherPool
from kdlab.storage.files import atomic_write_json, read_json
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher
from kdlab.types import TaskShape

MAJORITY, NO_KD = "majority class", "no KD"  # baselines
PARTS = ("dev", "test")


class FinetuneStage(Stage):
    """The stage of a run on labelled rows."""

    inputs_class = TaskInputs
    inputs: TaskInputs

    def __init__(self, config: Config, notify: Callable[[str], None]) -> None:
        super().__init__(config, notify)
        self._no_kd_answers: dict[str, dict[str, Answers]] = {}  # by part and split

    @cached_property
    def teacher_pool(self) -> TaskTeacherPool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The teachers of the run: classifiers."""
        return TaskTeacherPool(self.inputs)

    def teachers(self, ledger: Ledger | None) -> list[Teacher]:
        """UserError for a teacher no better than the majority class; sharded ones are scored by `check_teachers`."""
        if self.inputs.queries_teacher and not self.config.trainer.shard_teacher:
            _ = self.teacher_pool.scores
        return super().teachers(ledger)

    def check_teachers(self, teachers: Sequence[Teacher]) -> None:
        self.teacher_pool.score_sharded(teachers)

    def teachers_on_heldout(
        self, module: StudentModule, teachers: Sequence[Teacher], data: GLUEDataModule
    ) -> dict[str, dict[str, float]]:
        return self.teacher_pool.scores if teachers else {}

    def backbone(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        """The teacher before it was fine-tuned (the papers' students start from there), with a new head; where it starts as
        the teacher, that with its classifier."""
        if self.starts_as_teacher:
            pool, shape = self.teacher_pool, self.inputs.shape
            return with_classes(pool.load(pool.main), pool.order(pool.main), shape.labels or ("score",))
        reseed(self.config.seed, "student head")
        place, revision = self.inputs.main_source.place, self.config.teachers.revision
        return loading.load_with_new_classifier(place, revision, self.inputs.shape)

    # ---- baselines

    def baselines(self, batches: int, world: int) -> dict[str, dict[str, float]]:
        scores = {MAJORITY: self.teacher_pool.majority(self.teacher_pool.main)}
        if self.config.no_kd_baseline:
            scores[NO_KD] = self._no_kd(batches, world)
        return scores

    def answers(self, part: str, teachers: Sequence[Teacher]) -> dict[str, dict[str, Answers]]:
        pool, found = self.teacher_pool, {}
        for member in pool.members if teachers else ():
            answers = pool.answers_of(member, part, pool.loaded.get(member.name))
            found[member.title] = {split: self._in_split(member, part, split, of) for split, of in answers.items()}
        if self._no_kd_answers.get(part):
            found[NO_KD] = self._no_kd_answers[part]
        return {name: answers for name, answers in found.items() if answers}

    def _in_split(self, member: TeacherSpec, part: str, split: str, answers: Answers) -> Answers:
        """`answers` with the indices of their rows in the whole split, where a specialist answers those of its classes."""
        if member.classes is None:
            return answers
        labels = dataset.load(self.inputs.task_folder, f"{part}_{split}" if split else part).labels
        own = torch.from_numpy(np.flatnonzero(np.isin(labels, member.classes)))
        return replace(answers, rows=own[answers.rows])

    @property
    def shapes(self) -> dict[str, TaskShape]:
        pool = self.teacher_pool
        return {"student": self.inputs.shape, **{member.title: pool.shape(member) for member in pool.members}}

    def scores_of_part(self, part: str, answers: Mapping[str, Mapping[str, Answers]]) -> dict[str, dict[str, float]]:
        shapes, metric = self.shapes, self.config.data.metric
        found = {}
        for name, of in answers.items():
            found[name] = over_splits(TaskScore(shapes.get(name, shapes["student"]), metric).of, of)
        return {**found, MAJORITY: self.teacher_pool.majority(self.teacher_pool.main, part)}

    def _no_kd(self, batches: int, world: int) -> dict[str, float]:
        """Scores of the same student after as many steps on as many rows (drawn at random), trained on labels alone."""
        config, inputs = self.config, self.inputs
        rows = config.data.batch_size * world
        parts = {
            "task": inputs.task_parts,
            **self.student_parts,
            "optim": asdict(config.optim),
            "seed": config.seed,
            "batches": batches,
            "accumulate": config.trainer.accumulate,
            "rows": rows,
            "order": config.data.order,
            "ratio": config.select.ratio,
            "precision": inputs.precision,
            # answers are needed that baselines of an older kdlab lack
            **({"answers": 1} if inputs.has_test or config.data.metric not in (None, *inputs.shape.metrics) else {}),
        }

        def build(out: Path) -> dict[str, Any]:
            training, select = self.no_kd_training(batches, world, self.student())
            module, data, trainer = training.module, training.data, config.trainer
            assert isinstance(module, StudentModule)
            cost = fit(
                module, data, training.steps, training.title, *([select] if select else []),
                accelerator=trainer.accelerator, accumulate=trainer.accumulate, precision=training.precision,
                saving=inputs.saving(out),
            )  # fmt: skip
            kept = {}
            for part in PARTS:
                scores, kept[part] = with_answers(module.evaluate, lambda: module.answers, data.final_splits(part))
                if part == "dev":
                    atomic_write_json(out / "scores.json", scores)
            answers_file.write(out, kept)
            return cost

        folder = inputs.prerequisites.get(
            "baseline", parts, build, "the baseline without a teacher", "student without a teacher", baseline=True
        )
        self._no_kd_answers = answers_file.read(folder)
        metric = config.data.metric
        if dev := self._no_kd_answers.get("dev"):
            return over_splits(TaskScore(inputs.shape, metric).of, dev)
        return headline(read_json(folder / "scores.json"), metric)

    def no_kd_training(self, batches: int, world: int, student: Encoder) -> tuple[Training, Select | None]:
        """The training of the baseline without a teacher, and the selection of its rows, drawn at random."""
        config, inputs = self.config, self.inputs
        grouped = config.data.order == "length"
        size = config.data.batch_size * world
        data = inputs.rows_in(inputs.task_folder, config.seed, size, batches, None, grouped)
        steps = -(-batches // config.trainer.accumulate)
        optim = replace(self.optim(), restarts=(), phase_lrs=())  # labels have no phases
        ledger = Ledger(len(data.train), inputs.fixed_inputs)
        module = StudentModule(
            student, LABELS, optim, steps, ledger=ledger, seed=config.seed, score=TaskScore(inputs.shape)
        )
        at_random = Selection({"random": random}, Fixed(["random"]))
        settings = replace(
            config.select, scope="global", scoring="fresh", **BEST
        )  # the same rows for every configuration
        select = select_callback(at_random, settings, module, data, steps, config.seed)
        return Training(module, data, steps, "training without a teacher", inputs.precision), select
