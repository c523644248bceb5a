"""Teachers of a run: trained where they are missing, kept in the artifact store, scored. Both stages share this.

`TaskTeacherPool` (classifiers.py) and `TextTeacherPool` (masked_lms.py) define the teachers of their stage.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from kdlab.config.teacher_groups import AssistantConfig
from kdlab.models import loading
from kdlab.models.encoder import Encoder
from kdlab.models.student import set_dropout
from kdlab.modules.assistant import AssistantModule
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.runtime.devices import precision_of
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import reseed
from kdlab.stages.inputs import Inputs
from kdlab.stages.preparation import fit
from kdlab.teachers import specs
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher


class TeacherPool:
    """All teachers of one run, by `TeacherSpec`.

    A subclass defines: `made` (a teacher's folder, making it if need be), `load` (its model), `start` (an untrained model of
    some of the main teacher's layers), `rows` (what it is trained on), `outputs` (of the main teacher's classifier).
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._folders: dict[str, str | Path] = {}

    # ---- who they are

    @cached_property
    def main(self) -> TeacherSpec:
        """The teacher that the teachers group describes itself."""
        return TeacherSpec(self.inputs.teacher_name, "teacher", self.inputs.main_source)

    @cached_property
    def members(self) -> list[TeacherSpec]:
        """Every teacher of the run, from small to large; specialists, in the place of the main one, by their classes."""
        config, source = self.inputs.config, self.inputs.main_source
        given = config.teachers
        if given.split is not None:
            return specs.specialists(given.split, source, self.classes)
        found = [specs.other(name, one, source) for name, one in given.others.items()]
        if config.adopt.assistant is not None:
            found.append(specs.assistant(config.adopt.assistant, source, self.inputs.student_shape.layers))
        return specs.ordered([*found, self.main], self.outputs, config.data.max_length)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The task's classes; None where there are none."""
        raise NotImplementedError

    @property
    def outputs(self) -> int | None:
        raise NotImplementedError

    def check(self) -> None:
        """UserError for teachers that cannot be made, or not teach this run's student; nothing is made yet."""
        specs.check_names(self.members)
        tokens = self.inputs.tokenizer.get_vocab()
        for member in self.members:
            if member.source is not self.main.source:
                specs.check_vocabulary(member, tokens, self.inputs.config.data.max_length)
            self.check_one(member)

    def check_one(self, member: TeacherSpec) -> None:
        raise NotImplementedError

    # ---- what they are made of

    def folder(self, member: TeacherSpec) -> str | Path:
        """Where a teacher is, ready to teach: as it was given, or made once and kept in the artifact store."""
        if member.name not in self._folders:
            self._folders[member.name] = self._distilled(member) if member.assistant else self.made(member)
        return self._folders[member.name]

    def made(self, member: TeacherSpec) -> str | Path:
        raise NotImplementedError

    def load(self, member: TeacherSpec) -> Any:
        raise NotImplementedError

    def start(self, member: TeacherSpec, seed: int) -> Any:
        raise NotImplementedError

    def rows(self, member: TeacherSpec, seed: int, batch_size: int, steps: int | None, epochs: int | None) -> Any:
        raise NotImplementedError

    @property
    def parts(self) -> dict[str, Any]:
        """What the rows depend on that teachers are trained on, for the names of artifacts."""
        raise NotImplementedError

    def revision(self, member: TeacherSpec) -> str | None:
        """The Hub revision of what is in a teacher's folder; a local folder has none."""
        return None if isinstance(self.folder(member), Path) else member.source.revision

    def weights(self, member: TeacherSpec) -> dict[str, Any]:
        """Key parts of a teacher's answers: the hash of its weights, and the names of its classes."""
        folder = self.folder(member)
        config = loading.load_config(folder, self.revision(member))
        return {
            "teacher": specs.weights_of(folder, self.revision(member)),
            "classes": list(loading.labels_of(config)),
        }

    def teacher(self, member: TeacherSpec, ledger: Ledger | None = None) -> Teacher:
        """A teacher, loaded and frozen, counted by `ledger`."""
        encoder = Encoder(self.load(member), self.inputs.execution)
        count = ledger.count_queries if ledger else None
        given = self.inputs.config.trainer
        shared = given.shard_teacher and member.assistant is None
        return Teacher(member.name, encoder, count, self.order(member), member.classes, shared)

    def order(self, member: TeacherSpec) -> tuple[int, ...] | None:
        """Index of each of the data's classes among a teacher's outputs; None if the order is the same."""
        return None

    # ---- assistants

    def _distilled(self, member: TeacherSpec) -> Path:
        """A model between teacher and student, distilled from the teacher (DeKD section 3.3)."""
        given = member.assistant
        assert given is not None
        recipe = asdict(given)
        recipe |= {
            "path": given.path and specs.weights_of(given.path),
            "layers": member.layers and list(member.layers),
        }
        recipe |= {"precision": precision_of(given.precision, self.inputs.config.trainer.accelerator)}
        parts = {
            "from": self.weights(self.main),
            "start": member.source.sha256(),
            "data": self.parts,
            "recipe": {name: value for name, value in recipe.items() if name != "pick"},
        }
        return self.inputs.prerequisites.get(
            "assistant", parts, lambda out: self._distil(out, member, given, recipe["precision"]),
            "the assistant, distilled from the teacher", f"assistant, {member.depth} layers, distilled",
        )  # fmt: skip

    def _distil(self, out: Path, member: TeacherSpec, given: AssistantConfig, precision: str) -> dict[str, Any]:
        """Vanilla KD on all rows: w CE + (1 - w) tau^2 KL (DeKD section 4.3 says no more of it)."""
        inputs = self.inputs
        reseed(given.seed, "assistant")
        model = self.start(member, given.seed)
        if given.dropout is not None:
            set_dropout(model, given.dropout)
        data = self.rows(member, given.seed, given.batch_size, given.max_steps, given.max_epochs)
        steps = data.sampler().batches
        ledger = Ledger(len(data.train), inputs.fixed_inputs)
        optim = OptimizerSettings(
            lr=given.lr, weight_decay=given.weight_decay, warmup=given.warmup, fused=precision != "16-mixed"
        )
        teacher = self.teacher(self.main, ledger)
        self.remember(member, teacher, len(data.train), ledger, precision)
        module = AssistantModule(
            Encoder(model.train()),
            teacher,
            optim,
            steps,
            temperature=given.temperature,
            label_weight=given.label_weight,
            ledger=ledger,
            seed=given.seed,
            score=inputs.score,
        )
        cost = fit(
            module,
            data,
            steps,
            "distilling assistant",
            accelerator=inputs.config.trainer.accelerator,
            precision=precision,
        )
        self.finish(module, data, out)
        model.save_pretrained(out)
        inputs.tokenizer.save_pretrained(out)
        return cost

    def remember(self, member: TeacherSpec, teacher: Teacher, rows: int, ledger: Ledger, precision: str) -> None:
        """Let the main teacher keep its answers to the `rows` rows that an assistant learns from. Of text it does not:
        an assistant's masks are its own."""

    def finish(self, module: AssistantModule, data: Any, out: Path) -> None:
        """What is kept of a new teacher beside its weights."""
