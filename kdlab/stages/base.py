"""A stage: from a checked configuration and its inputs to teachers, student and module. All stages share this."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from kdlab.config.schema import Config
from kdlab.methods.knowledge.base import is_joint
from kdlab.models import loading, lora
from kdlab.models.encoder import Encoder
from kdlab.models.student import freeze, pick_layers, random_student, recompute_layers, set_dropout, student_from
from kdlab.modules.evaluation import Answers
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import reseed
from kdlab.stages import components
from kdlab.stages.components import Selection
from kdlab.stages.inputs import Inputs
from kdlab.stages.teachers import teacher_column
from kdlab.stages.teachers.base import TeacherPool
from kdlab.storage.files import sha256_of
from kdlab.teachers import specs
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher
from kdlab.types import TaskShape

LATER = (
    "revision",
    "start",
    "lora",
    "gradient_checkpointing",
)  # keys of a student that artifacts name otherwise, or not


class Stage:
    """Teachers, student and module of one run, each made at its first use from the run's `inputs`.

    `PretrainStage`, `FinetuneStage` and `CausalStage` define `inputs_class`, `teacher_pool` (all teachers of the run) and the methods
    that raise NotImplementedError here.
    """

    inputs_class: type[Inputs]
    teacher_pool: TeacherPool

    def __init__(self, config: Config, notify: Callable[[str], None]) -> None:
        self.config = config
        self.inputs = self.inputs_class(config, notify)

    # ---- decisions

    def selection(self) -> Selection:
        """Strategies, policy and reward; UserError for arms that do not exist or a policy that cannot use them."""
        return components.selection(self.config.select)

    def adoption(self) -> Selection | None:
        """The rules that choose among the teachers, and their policy; None where no rule is needed.

        UserError for rules that cannot choose among the teachers there are.
        """
        joint = [name for name, weighted in self.inputs.terms().items() if is_joint(weighted.term)]
        members = self.teacher_pool.members
        adoption = components.adoption(self.config.adopt, members, joint, self.inputs.regression)
        if adoption is not None:
            adoption.arms = teacher_column.bound(adoption.arms, self.inputs, members)
        return adoption

    # ---- teachers

    def teachers(self, ledger: Ledger | None) -> list[Teacher]:
        """The frozen teachers, counted by `ledger`, in the order of `teacher_pool.members`; none if no term reads one."""
        if not self.inputs.queries_teacher:
            return []
        return [self.teacher_pool.teacher(member, ledger) for member in self.teacher_pool.members]

    def check_teachers(self, teachers: Sequence[Teacher]) -> None:
        """Check teachers that had to be sharded first, before the first step (collective). UserError for a useless one."""

    def teachers_on_heldout(
        self, module: StudentModule, teachers: Sequence[Teacher], data: Any
    ) -> dict[str, dict[str, float]]:
        """The teachers' scores on the held-out rows (collective), by title: "teacher" the main one, "assistant",
        "teacher NAME"; a specialist's on the rows of its classes."""
        raise NotImplementedError

    def beside_teacher(self, module: StudentModule, teachers: Sequence[Teacher], data: Any) -> dict[str, float]:
        """Scores of the student that compare it with the main teacher on the held-out rows (collective); none for a task,
        whose answers are compared row by row."""
        return {}

    def unigram_loss(self, data: Any) -> float | None:
        """Loss of the tokens' frequencies on the held-out text (collective); None for a task."""
        return None

    @property
    def teacher_folder(self) -> str | Path:
        """The main teacher's folder once it can teach; with specialists, the folder of the model they start from."""
        pool = self.teacher_pool
        return self.inputs.main_source.place if self.config.teachers.split else pool.folder(pool.main)

    def teacher_hash(self) -> str | None:
        """Sha256 of the weights in `teacher_folder`; None if they are no local file."""
        weights = Path(self.teacher_folder) / "model.safetensors"
        return sha256_of(weights) if weights.is_file() else None

    # ---- student

    def student(self, *teachers: Teacher | None) -> Encoder:
        """The student before training, with frozen parts and dropout as configured; `teachers`: those already loaded."""
        config = self.config.student
        model = (
            self.inputs.load(config.path, config.revision) if config.path is not None else self._from_teacher(*teachers)
        )
        return self.trained_encoder(model)

    def trained_encoder(self, model: transformers.PreTrainedModel) -> Encoder:
        """The student around `model`: its frozen parts, dropout and adapters as configured. A classifier's head trains
        beside adapters, since it may be new."""
        config = self.config.student
        if config.dropout is not None:
            set_dropout(model, config.dropout)
        if config.lora.rank is not None:
            head = Encoder(model).head_parameters() if self.inputs.head.per_row else []
            reseed(self.config.seed, "lora")
            lora.add(model, config.lora.rank, config.lora.alpha, config.lora.targets, config.lora.dropout)
            for parameter in head:
                parameter.requires_grad_(True)
        freeze(model, config.freeze)
        if config.gradient_checkpointing:
            recompute_layers(model)
        return Encoder(model.train(), self.inputs.execution)

    def _from_teacher(self, *teachers: Teacher | None) -> transformers.PreTrainedModel:
        """A student with some of the main teacher's layers, or a narrower one with random weights."""
        config = self.config.student
        main = next((t for t in teachers if t is not None and t.name == self.teacher_pool.main.name), None)
        backbone = self.backbone(main)
        if config.hidden is not None:
            return random_student(backbone, config.layers, config.hidden)
        layers = pick_layers(config.layers, self.inputs.main_source.config.num_hidden_layers, config.pick)
        return student_from(backbone, layers)

    @property
    def starts_as_teacher(self) -> bool:
        """True where the student starts as layers of the fine-tuned teacher; on text every student starts as its teacher."""
        return self.inputs.head.per_row and self.config.student.start == "teacher"

    @property
    def prepared_teachers(self) -> list[TeacherSpec]:
        """The teachers that must be ready before the training: those that a term reads, and the one the student starts as."""
        if self.inputs.queries_teacher:
            return self.teacher_pool.members
        return [self.teacher_pool.main] if self.starts_as_teacher else []

    def backbone(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        """The model that a student takes its layers from; `teacher`: the main one, if it is loaded."""
        raise NotImplementedError

    @property
    def student_parts(self) -> dict[str, Any]:
        """The key parts of the student before training, but for the seed of a new head, for artifacts made from it."""
        config, execution = self.config.student, self.inputs.execution
        return {
            "model": self.inputs.main_source.sha256(),
            "student": {key: value for key, value in asdict(config).items() if key not in LATER}
            | {"path": config.path and specs.weights_of(config.path, config.revision)},
            **({"start": self.teacher_pool.weights(self.teacher_pool.main)} if self.starts_as_teacher else {}),
            **({} if execution == "padded" else {"exec": execution}),  # other modes round differently
            **({} if config.lora.rank is None else {"lora": asdict(config.lora)}),
        }

    def student_module(
        self, student: Encoder, teachers: Sequence[Teacher], ledger: Ledger, total_steps: int, seed: int | None = None
    ) -> StudentModule:
        """The module that trains `student` as configured; `seed` of dropout and projections (None: the run's)."""
        return StudentModule(
            student,
            self.inputs.terms(),
            self.optim(),
            total_steps,
            teachers,
            ledger,
            self.config.knowledge.reduce,
            self.config.seed if seed is None else seed,
            score=self.inputs.score,
            labels_on=self.config.knowledge.labels_on,
            mc_dropout=self.config.adopt.mc_dropout,
        )

    def module_without_weights(self) -> StudentModule:
        """The module of the run with models on the meta device: for counts, before a teacher is made or a model loaded."""
        given, main = self.config.student, self.inputs.main_source.config
        with torch.device("meta"):
            if given.path is not None:
                student = self.empty_model(loading.load_config(given.path, given.revision, self.inputs.head.causal))
            elif given.hidden is not None:
                student = random_student(self.empty_model(main), given.layers, given.hidden)
            else:
                student = student_from(
                    self.empty_model(main), pick_layers(given.layers, main.num_hidden_layers, given.pick)
                )
            members = self.teacher_pool.members if self.inputs.queries_teacher else []
            models = [(member, self.empty_model(member.config, member.classes)) for member in members]
            trained = self.trained_encoder(student)
        execution = self.inputs.execution
        teachers = [Teacher(member.name, Encoder(model, execution), classes=member.classes) for member, model in models]
        return self.student_module(trained, teachers, Ledger(0, False), 1)

    def empty_model(self, config: Any, classes: Sequence[int] | None = None) -> transformers.PreTrainedModel:
        """A model of `config` with this stage's head, of the task's outputs or those of some `classes`, with random weights."""
        made = copy.deepcopy(config)
        if self.inputs.head.per_row:
            made.num_labels = self.inputs.example[0] if classes is None else len(classes)
        return self.inputs.head.model_class.from_config(made)

    def optim(self) -> OptimizerSettings:
        """Optimizer and learning-rate schedule of the student."""
        config = asdict(self.config.optim)
        fused = self.inputs.precision != "16-mixed"  # fused ones unscale gradients before Lightning clips them
        phases = {"restarts": tuple(self.config.knowledge.phases), "phase_lrs": tuple(self.config.knowledge.phase_lrs)}
        return OptimizerSettings(**{**config, "betas": tuple(config["betas"]), "fused": fused, **phases})

    def answers(self, part: str, teachers: Sequence[Teacher]) -> dict[str, dict[str, Answers]]:
        """The answers of teachers, by title, and of trained baselines, by name, to all rows of `part` ("dev" or "test"), by
        split (collective). On text, and where nothing was kept, there are none; `teachers`: those that are loaded."""
        return {}

    @property
    def shapes(self) -> dict[str, TaskShape]:
        """The shape of the task by the title of each teacher, and of the "student", for all others too; none on text."""
        return {}

    def scores_of_part(self, part: str, answers: Mapping[str, Mapping[str, Answers]]) -> dict[str, dict[str, float]]:
        """The scores of `answers` by name, and of the baselines that need no answers, on `part`."""
        return {}

    def baselines(self, batches: int, world: int) -> dict[str, dict[str, float]]:
        """Scores to compare the student's with, by name; `batches` of each of `world` ranks."""
        return {}
