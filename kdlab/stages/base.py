"""From a checked configuration to objects: what both stages need, and the only place that instantiates targets.

`TextBench` (pretraining.py) and `TaskBench` (finetuning.py) add what differs between the stages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from kdlab.config.schema import Config
from kdlab.config.targets import original_targets
from kdlab.methods.knowledge.base import is_joint, queries_teacher
from kdlab.models import loading, varlen
from kdlab.models.encoder import Encoder
from kdlab.models.student import freeze, pick_layers, random_student, set_dropout, student_from
from kdlab.modules.evaluation import Scorer
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.devices import first_device, precision_of
from kdlab.runtime.ledger import Ledger
from kdlab.stages import components
from kdlab.stages.components import Selection
from kdlab.stages.dry_run import ModelShape
from kdlab.stages.preparation import Preparation
from kdlab.stages.teachers.base import TeacherPool
from kdlab.storage.artifacts import ArtifactStore
from kdlab.storage.files import sha256_of
from kdlab.teachers import specs
from kdlab.teachers.cache.store import MemoryStore
from kdlab.teachers.specs import ModelSource
from kdlab.teachers.teacher import Teacher


class Stage:
    """Everything a run needs, made when it is first asked for, from plain values of the configuration.

    A stage gives: `source` and `check_data` (inputs), `data_module` and `rows_parts` (its training rows), `score`,
    `teacher_pool` (its teachers), `head` (the auto class of its models), `load` (a student's starting model), `facts` (of the
    data, for result.json), `baselines`; `fixed_inputs` says whether a row is the same input in every epoch.
    """

    head: Any
    score: Scorer
    fixed_inputs: bool
    source: Any
    teacher_pool: TeacherPool

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config = config
        self.say = say
        self.store = ArtifactStore(Path(config.artifacts), say, original_targets)
        self.preparation_of = Preparation(self.store)
        self.memories: dict[str, MemoryStore] = {}  # answers that are remembered in memory, by their key

    @property
    def precision(self) -> str:
        """The run's numbers, "auto" decided."""
        return precision_of(self.config.trainer.precision, self.config.trainer.accelerator)

    @property
    def execution(self) -> str:
        """How models run their batches: as `exec` says, and packed by a GPU's own kernels where it has them."""
        if self.config.exec != "packed" or not self.precision.startswith(("bf16", "16")):
            return self.config.exec
        return "varlen" if varlen.available(first_device(self.config.trainer.accelerator)) else "packed"

    @property
    def preparation(self) -> list[dict[str, Any]]:
        """What was trained before the run could begin, now or by an earlier one, and what each stage cost
        (`Preparation.stages`)."""
        return self.preparation_of.stages()

    def check_data(self) -> None:
        """UserError for rows that contradict the configuration; text has been checked by its source."""

    def data_module(
        self, batches: int | None, epochs: int | None, seed: int | None = None, batch_size: int | None = None
    ) -> Any:
        """The rows a run trains on, for a number of micro-batches or of passes; None: the run's own seed, batch size."""
        raise NotImplementedError

    @property
    def rows_parts(self) -> dict[str, Any]:
        """What the rows of `data_module` depend on, whatever their order, for the names of artifacts."""
        raise NotImplementedError

    def meet(self, teachers: Sequence[Teacher]) -> None:
        """Look at the teachers once more where all ranks have them, before the first step (collective). UserError for one
        that has nothing to teach."""

    def teachers_on_heldout(
        self, module: StudentModule, teachers: Sequence[Teacher], data: Any
    ) -> dict[str, dict[str, float]]:
        """The teachers' scores on the held-out rows (collective), by title: "teacher" the main one, "assistant",
        "teacher NAME"; a specialist's on the rows of its classes."""
        raise NotImplementedError

    def load(
        self, source: str | Path, revision: str | None = None, seed: int | None = None
    ) -> transformers.PreTrainedModel:
        """A model with this stage's head, to start a student from; a new head is drawn by `seed` (None: the run's)."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        raise NotImplementedError

    def baselines(self, batches: int, world: int) -> dict[str, dict[str, float]]:
        """Scores to read the student's against, by name."""
        return {}

    # ---- what can be checked before anything is loaded or written

    def share(self, other: Stage) -> None:
        """Take what `other`, of a run with the same rows, teachers and artifacts, has read of them."""
        names = ("source", "rows", "shape", "tokenizer", "main_source")
        self.__dict__.update({name: other.__dict__[name] for name in names if name in other.__dict__})

    @property
    def answer(self) -> tuple[int, Tensor]:
        """How many outputs a prediction has (any number from two on where they are a vocabulary), and a label (1,)."""
        raise NotImplementedError

    @property
    def student_cast(self) -> ModelShape:
        """The student's shape, before there is one."""
        given, config = self.config.student, self.teacher_config
        if given.path is not None:
            return ModelShape.of(loading.load_config(given.path))
        if given.hidden is not None:
            return ModelShape.of(config, given.layers, given.hidden)
        return ModelShape.of(config, len(pick_layers(given.layers, config.num_hidden_layers, given.pick)))

    # ---- what chooses

    def selection(self) -> Selection:
        """Strategies, policy and reward; UserError for arms that do not exist or a policy that cannot use them."""
        return components.selection(self.config.select)

    def adoption(self) -> Selection | None:
        """The rules that choose among the teachers, and their policy; None where no rule is needed.

        UserError for rules that cannot choose among the teachers there are.
        """
        joint = [name for name, w in self.terms().items() if is_joint(w.term)]
        return components.adoption(self.config.adopt, self.teacher_pool.members, joint, self.regression)

    def terms(self) -> dict[str, WeightedTerm]:
        """The knowledge terms with a weight above 0."""
        return components.terms(self.config.knowledge)

    @property
    def regression(self) -> bool:
        """Whether a prediction is a number."""
        return self.answer[1].is_floating_point()

    @property
    def asks_teacher(self) -> bool:
        """Whether any knowledge term reads a teacher's answer."""
        return any(queries_teacher(w.term) for w in self.terms().values())

    # ---- teachers and student

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerFast:
        return loading.load_tokenizer(self.teacher_source, self.config.teachers.revision)

    @property
    def teacher_name(self) -> str:
        teachers = self.config.teachers
        return teachers.name if teachers.path is None and teachers.name else Path(str(teachers.path)).name

    @cached_property
    def main_source(self) -> ModelSource:
        """The main teacher as it is given, before it is fine-tuned or prepared."""
        teachers = self.config.teachers
        return specs.source_of(teachers.name, teachers.path, teachers.revision, "teachers")

    @property
    def teacher_source(self) -> str | Path:
        """Where the main teacher's files are: a local folder, or a Hub name."""
        return self.main_source.place

    @property
    def teacher_config(self) -> Any:
        return self.main_source.config

    @property
    def teacher_folder(self) -> str | Path:
        """Where the main teacher is, ready to teach; where specialists stand in its place, what they were made of."""
        return self.teacher_source if self.config.teachers.split else self.teacher_pool.folder(self.teacher_pool.main)

    def source_hash(self) -> str:
        """What names the weights at `teacher_source`: their sha256, or the Hub's name and revision."""
        return self.main_source.sha256()

    def teachers(self, ledger: Ledger | None) -> list[Teacher]:
        """The frozen teachers, from small to large (specialists by their classes), counted by `ledger`; none where no
        term asks one."""
        if not self.asks_teacher:
            return []
        return [self.teacher_pool.teacher(member, ledger) for member in self.teacher_pool.members]

    def teacher_hash(self) -> str | None:
        """The sha256 of the main teacher's weights where they are a local file (of specialists: what they were made of)."""
        weights = Path(self.teacher_folder) / "model.safetensors"
        return sha256_of(weights) if weights.is_file() else None

    def student(self, *teachers: Teacher | None) -> Encoder:
        """The student before training, with what the configuration freezes frozen; `teachers`: those already loaded."""
        given = self.config.student
        model = self.load(given.path) if given.path is not None else self._from_teacher(*teachers)
        freeze(model, given.freeze)
        if given.dropout is not None:
            set_dropout(model, given.dropout)
        return Encoder(model.train(), self.execution)

    def _from_teacher(self, *teachers: Teacher | None) -> transformers.PreTrainedModel:
        given = self.config.student
        loaded = next((t for t in teachers if t is not None and t.name == self.teacher_pool.main.name), None)
        backbone = self.backbone(loaded)
        if given.hidden is not None:
            return random_student(backbone, given.layers, given.hidden)
        layers = pick_layers(given.layers, self.teacher_config.num_hidden_layers, given.pick)
        return student_from(backbone, layers)

    def backbone(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        """The model whose layers a student takes; `teacher`: the main one, if it is loaded."""
        raise NotImplementedError

    @property
    def student_parts(self) -> dict[str, Any]:
        """What the student before training depends on, but for the seed of a new head, for the names of artifacts."""
        given = self.config.student
        return {
            "model": self.source_hash(),
            "student": asdict(given) | {"path": given.path and specs.weights_of(given.path)},
            **({} if self.execution == "padded" else {"exec": self.execution}),  # other ones round otherwise
        }

    def distiller(
        self, student: Encoder, teachers: Sequence[Teacher], ledger: Ledger, total_steps: int, seed: int | None = None
    ) -> StudentModule:
        """What trains `student` as the configuration says; `seed` of dropout and projections (None: the run's)."""
        return StudentModule(
            student,
            self.terms(),
            self.optim(),
            total_steps,
            teachers,
            ledger,
            self.config.knowledge.reduce,
            self.config.seed if seed is None else seed,
            score=self.score,
            labels_on=self.config.knowledge.labels_on,
        )

    def optim(self) -> OptimizerSettings:
        given = asdict(self.config.optim)
        scaled = self.precision == "16-mixed"
        restarts = tuple(self.config.knowledge.phases)
        return OptimizerSettings(**{**given, "betas": tuple(given["betas"]), "fused": not scaled, "restarts": restarts})


def vocabulary_hash(tokenizer: Any) -> str:
    """A hash of everything a fast tokenizer does (its whole serialisation)."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
