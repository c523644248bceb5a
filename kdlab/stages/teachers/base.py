"""Teachers of a run: trained where they are missing, kept in the artifact store, scored. Both stages share this.

`TaskTeacherPool` (classifiers.py) and `TextTeacherPool` (masked_lms.py) define the teachers of their stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from kdlab.config.groups.teachers import AssistantConfig
from kdlab.models import loading
from kdlab.models.encoder import Encoder
from kdlab.models.student import set_dropout
from kdlab.modules.assistant import AssistantModule
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.runtime.devices import precision_of
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import reseed
from kdlab.stages.inputs import Inputs
from kdlab.stages.preparation import COST, Training
from kdlab.storage.files import read_json
from kdlab.teachers import specs
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher
from kdlab.types import Caveat

LONGER = "{0}.max_steps, {0}.max_epochs"


class TeacherPool:
    """All teachers of one run, by `TeacherSpec`.

    A subclass defines the members that raise NotImplementedError here: `prepared_folder`, `load`, `initial_model`,
    `training`, `rows`, `training_rows`, `parts`, `outputs`, `classes` and `check_one`.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._folders: dict[str, str | Path] = {}

    # ---- members

    @cached_property
    def main(self) -> TeacherSpec:
        """The teacher that the teachers group describes itself."""
        return TeacherSpec(self.inputs.teacher_name, "teacher", self.inputs.main_source)

    @cached_property
    def members(self) -> list[TeacherSpec]:
        """Every teacher of the run, from small to large; specialists replace the main one, in class order."""
        config, source = self.inputs.config, self.inputs.main_source
        settings = config.teachers
        if settings.split is not None:
            return specs.specialists(settings.split, source, self.classes)
        smaller = [specs.other(name, other, source) for name, other in settings.others.items()]
        if config.adopt.assistant is not None:
            smaller.append(specs.assistant(config.adopt.assistant, source, self.inputs.student_shape.layers))
        return specs.ordered([*smaller, self.main], self.outputs, self.inputs.max_length)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names of the task; None for regression and text."""
        raise NotImplementedError

    @property
    def outputs(self) -> int | None:
        """Number of outputs of the main teacher's classifier; None for text."""
        raise NotImplementedError

    def check(self) -> None:
        """UserError for teachers that cannot be prepared or do not suit the student of this run. Trains nothing."""
        specs.check_names(self.members)
        tokens = self.inputs.tokenizer.get_vocab()
        for member in self.members:
            if member.source is not self.main.source:
                specs.check_vocabulary(member, tokens, self.inputs.max_length)
            self.check_one(member)

    def check_one(self, member: TeacherSpec) -> None:
        """UserError for a teacher that cannot be prepared."""
        raise NotImplementedError

    # ---- weights and data

    def folder(self, member: TeacherSpec) -> str | Path:
        """Folder or Hub name of a teacher that is ready to teach; an artifact is trained on the first call."""
        if member.name not in self._folders:
            self._folders[member.name] = self._distilled(member) if member.assistant else self.prepared_folder(member)
        return self._folders[member.name]

    def prepared_folder(self, member: TeacherSpec) -> str | Path:
        """Folder or Hub name of a teacher that is no assistant: its source, or the artifact of its training."""
        raise NotImplementedError

    def load(self, member: TeacherSpec) -> Any:
        """The model of a teacher with its head, from its folder."""
        raise NotImplementedError

    def initial_model(self, member: TeacherSpec, seed: int) -> Any:
        """The model of an assistant before its training; `seed` initialises a new head."""
        raise NotImplementedError

    def rows(
        self,
        member: TeacherSpec,
        seed: int,
        batch_size: int,
        steps: int | None,
        epochs: int | None,
    ) -> Any:
        """The data module that a teacher is trained on: for `steps` batches or for `epochs`. Rows of similar length are in a
        batch, packed too: rows of tokens as wide as these texts keep attention, which pays for width, cheap."""
        raise NotImplementedError

    @property
    def parts(self) -> dict[str, Any]:
        """Key parts of the rows that teachers are trained on, for artifacts."""
        raise NotImplementedError

    def revision(self, member: TeacherSpec) -> str | None:
        """The Hub revision of a teacher; None for a local folder."""
        return None if isinstance(self.folder(member), Path) else member.source.revision

    def weights(self, member: TeacherSpec) -> dict[str, Any]:
        """Key parts of a teacher's answers: the hash of its weights, and the names of its classes."""
        folder = self.folder(member)
        config = loading.load_config(folder, self.revision(member), self.inputs.head.causal)
        return {
            "teacher": specs.weights_of(folder, self.revision(member)),
            "classes": list(loading.labels_of(config)),
        }

    def teacher(self, member: TeacherSpec, ledger: Ledger | None = None) -> Teacher:
        """A teacher, loaded and frozen, counted by `ledger`."""
        encoder = Encoder(self.load(member), self.inputs.execution)
        count = ledger.count_queries if ledger else None
        shared = self.inputs.config.trainer.shard_teacher and member.assistant is None
        return Teacher(member.name, encoder, count, self.order(member), member.classes, shared)

    def order(self, member: TeacherSpec) -> tuple[int, ...] | None:
        """Index of each of the data's classes among a teacher's outputs; None if the order is the same."""
        return None

    def add_short_training(self, member: TeacherSpec, folder: Path, batch_size: int, longer: str) -> None:
        """Add the caveat `short_teacher` where a teacher in `folder` was trained for less than one pass over its rows, by
        the record of its preparation; `longer`: the settings of its length."""
        steps = (read_json(folder / COST) if (folder / COST).is_file() else {}).get("steps")  # older records have none
        rows = self.training_rows(member)
        if not steps or steps * batch_size >= rows:
            return
        self.inputs.caveats.add(
            Caveat(
                "short_teacher",
                f"{'' if member.assistant else 'teacher '}{member.name}: its training saw {steps * batch_size / rows:.2f} "
                f"epochs ({steps:,} steps of {batch_size} of {rows:,} rows), so a longer one ({longer}) may make "
                "a better teacher",
            )
        )

    def training_rows(self, member: TeacherSpec) -> int:
        """Number of rows that a teacher is trained on."""
        raise NotImplementedError

    # ---- assistants

    def _distilled(self, member: TeacherSpec) -> Path:
        """A model between teacher and student, distilled from the teacher (DeKD section 3.3)."""
        assistant = member.assistant
        assert assistant is not None
        recipe = asdict(assistant)
        recipe |= {
            "path": assistant.path and specs.weights_of(assistant.path),
            "layers": member.layers and list(member.layers),
        }
        recipe |= {"precision": self.assistant_precision(assistant)}
        parts = {
            "from": self.weights(self.main),
            "start": member.source.sha256(),
            "data": self.parts,
            "recipe": {name: value for name, value in recipe.items() if name != "pick"},
            **self.execution_parts(recipe["precision"]),
        }
        folder = self.inputs.prerequisites.get(
            "assistant", parts, lambda out: self._distil(out, member, assistant, recipe["precision"]),
            "the assistant, distilled from the teacher", f"assistant, {member.depth} layers, distilled",
            config=member.source.config,
        )  # fmt: skip
        self.add_short_training(member, folder, assistant.batch_size, LONGER.format("adopt.assistant"))
        return folder

    def assistant_precision(self, settings: AssistantConfig) -> str:
        """The Lightning precision of an assistant's training."""
        return precision_of(settings.precision, self.inputs.config.trainer.accelerator)

    def _distil(self, out: Path, member: TeacherSpec, settings: AssistantConfig, precision: str) -> dict[str, Any]:
        """Train an assistant by KD on all rows, w CE + (1 - w) tau^2 KL (DeKD section 4.3). Returns the cost."""
        inputs = self.inputs
        reseed(settings.seed, "assistant")
        model = self.initial_model(member, settings.seed)

        def teacher_of(ledger: Ledger, rows: int) -> Teacher:
            teacher = self.teacher(self.main, ledger)
            self.attach_cache(member, teacher, rows, ledger, precision)
            return teacher

        training = self.distillation(member, settings, precision, model, teacher_of)
        cost = training.run(inputs.config.trainer.accelerator, inputs.saving(out))
        self.finish(training.module, training.data, out)
        model.save_pretrained(out)
        inputs.tokenizer.save_pretrained(out)
        return cost

    def distillation(
        self,
        member: TeacherSpec,
        settings: AssistantConfig,
        precision: str,
        model: Any,
        teacher_of: Callable[[Ledger, int], Teacher],
    ) -> Training:
        """The training of an assistant that begins as `model`; `teacher_of` gives its teacher, counted by a ledger over so
        many rows."""
        inputs = self.inputs
        if settings.dropout is not None:
            set_dropout(model, settings.dropout)
        encoder = self.trained_encoder(model, precision)
        data = self.rows(member, settings.seed, settings.batch_size, settings.max_steps, settings.max_epochs)
        steps = data.sampler().batches
        ledger = Ledger(len(data.train), inputs.fixed_inputs)
        optim = OptimizerSettings(
            lr=settings.lr, weight_decay=settings.weight_decay, warmup=settings.warmup, fused=precision != "16-mixed"
        )
        module = AssistantModule(
            encoder,
            teacher_of(ledger, len(data.train)),
            optim,
            steps,
            temperature=settings.temperature,
            label_weight=settings.label_weight,
            ledger=ledger,
            seed=settings.seed,
            score=inputs.score,
            part_tokens=inputs.part_tokens(precision),
        )
        return Training(module, data, steps, "distilling assistant", precision)

    def trained_encoder(self, model: Any, precision: str) -> Encoder:
        """The encoder of a model that is trained here, in the execution mode of `teachers.exec`."""
        return Encoder(model.train(), self.inputs.prepared_execution(precision))

    def execution_parts(self, precision: str) -> dict[str, Any]:
        """Key parts of the execution of a training, which those of an older kdlab, padded and of whole batches, do not have."""
        execution, tokens = self.inputs.prepared_execution(precision), self.inputs.part_tokens(precision)
        parts = {} if execution == "padded" else {"exec": execution, "order": "length"}
        return parts if tokens is None else {**parts, "part_tokens": tokens}

    def training(self, member: TeacherSpec, model: Any) -> Training:
        """The training of a teacher that is no assistant and begins as `model`; UserError for one that needs none."""
        raise NotImplementedError

    def attach_cache(self, member: TeacherSpec, teacher: Teacher, rows: int, ledger: Ledger, precision: str) -> None:
        """Attach to the main `teacher` a cache of its answers to the `rows` rows that an assistant learns from.

        For text there is none, since the masks of an assistant are drawn anew. `precision`: of its training.
        """

    def finish(self, module: Any, data: Any, out: Path) -> None:
        """Write files of a new teacher to `out`, beside its weights."""
