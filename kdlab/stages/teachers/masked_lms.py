"""Teachers of plain text: masked-LM models, as they are or with a head trained here; shallower ones; assistants."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdlab.config.groups.teachers import PrepareConfig
from kdlab.data.datamodules import CorpusDataModule
from kdlab.errors import UserError
from kdlab.models import head_keys, loading
from kdlab.models.student import freeze, set_dropout, student_from
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.teacher import TeacherModule
from kdlab.runtime.devices import precision_of
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import reseed
from kdlab.stages.preparation import Training
from kdlab.stages.teachers.language_models import LanguageModelPool
from kdlab.stages.text_inputs import TextInputs
from kdlab.teachers.specs import TeacherSpec


class TextTeacherPool(LanguageModelPool):
    """The masked-LM models that are teachers on text."""

    inputs: TextInputs

    def has_head(self, member: TeacherSpec) -> bool:
        """True if the source of a teacher has a masked-LM head."""
        return head_keys.has_head(member.source.place, member.source.config)

    def check_one(self, member: TeacherSpec) -> None:
        if member.assistant is None and (member.layers is not None or not self.has_head(member)):
            self.recipe(member)

    def recipe(self, member: TeacherSpec) -> PrepareConfig:
        """Settings for the training of a teacher's head; UserError if teachers.prepare is missing."""
        prepare = self.inputs.config.teachers.prepare
        if prepare is None:
            lack = "has some layers of another model" if member.layers is not None else "has no masked-LM head"
            raise UserError(
                f"the teacher {member.name} {lack}, and teachers.prepare, the settings to train one, is missing"
            )
        return replace(prepare, precision=precision_of(prepare.precision, self.inputs.config.trainer.accelerator))

    @property
    def parts(self) -> dict[str, Any]:
        return self.inputs.corpus_parts

    def rows(
        self,
        member: TeacherSpec,
        seed: int,
        batch_size: int,
        steps: int | None,
        epochs: int | None,
    ) -> CorpusDataModule:
        probability = self.inputs.config.data.mask_probability
        return self.inputs.rows_of(seed, batch_size, probability, steps, epochs)

    def load(self, member: TeacherSpec) -> Any:
        return loading.load_masked_lm(self.folder(member), self.revision(member))

    def prepared_folder(self, member: TeacherSpec) -> str | Path:
        """Folder or Hub name of a teacher with a masked-LM head: the source, or the artifact of its training."""
        if member.layers is None and self.has_head(member):
            return member.source.place
        prepare = self.recipe(member)
        recipe = asdict(prepare)
        if prepare.precision == "32-true":  # as of an older kdlab, which had no other
            del recipe["precision"]
        parts = {"model": member.source.sha256(), "corpus": self.parts, "recipe": recipe}
        parts |= self.execution_parts(prepare.precision)
        if member.layers is not None:
            whole = self._whole(member)
            parts |= {"model": self.weights(whole)["teacher"], "layers": list(member.layers)}
        description = (
            "the teacher's masked-LM head" if member.title == "teacher" else f"the {member.title}, prepared on the text"
        )
        stage = f"{member.title}, {member.depth} layers, prepared"
        folder = self.inputs.prerequisites.get(
            "teacher", parts, lambda out: self._prepare(out, member, prepare), description, stage,
            config=member.source.config,
        )  # fmt: skip
        self.say_heldout(member, folder)
        self.add_short_training(member, folder, prepare.batch_size, "teachers.prepare.max_steps")
        return folder

    def _whole(self, member: TeacherSpec) -> TeacherSpec:
        """The teacher, with its head, that a shallower one takes its layers from."""
        return (
            self.main
            if member.source is self.main.source
            else TeacherSpec(f"{member.name}-whole", f"teacher {member.name}, whole", member.source)
        )

    def _prepare(self, out: Path, member: TeacherSpec, prepare: PrepareConfig) -> dict[str, Any]:
        """Train a masked-LM head, and the encoder with it, on the corpus; one process, whatever the run uses."""
        inputs = self.inputs
        reseed(prepare.seed, "prepare")
        if member.layers is None:
            counts = np.load(inputs.corpus_folder / "token_counts.npy")
            model = loading.load_with_new_lm_head(member.source.place, counts, inputs.tokenizer.mask_token_id)  # pyright: ignore
        else:
            model = student_from(self.load(self._whole(member)), member.layers)
        training = self.training(member, model)
        cost = training.run(inputs.config.trainer.accelerator, inputs.saving(out))
        self.finish(training.module, training.data, out)
        model.save_pretrained(out)
        inputs.tokenizer.save_pretrained(out)
        return cost

    def training(self, member: TeacherSpec, model: Any) -> Training:
        inputs, prepare = self.inputs, self.recipe(member)
        freeze(model, prepare.freeze)
        set_dropout(model, prepare.dropout)
        encoder = self.trained_encoder(model, prepare.precision)
        data = inputs.rows_of(
            prepare.seed, prepare.batch_size, prepare.mask_probability, prepare.max_steps, crop=prepare.max_length,
        )  # fmt: skip
        optim = OptimizerSettings(
            lr=prepare.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, warmup=prepare.warmup,
            fused=prepare.precision != "16-mixed",
        )  # fmt: skip
        ledger = Ledger(len(data.train), inputs.fixed_inputs)
        parts = inputs.part_tokens(prepare.precision)
        module = TeacherModule(encoder, optim, prepare.max_steps, ledger=ledger, seed=prepare.seed, part_tokens=parts)
        return Training(module, data, prepare.max_steps, f"preparing {member.title}", prepare.precision)
