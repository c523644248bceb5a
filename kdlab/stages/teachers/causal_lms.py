"""Teachers that continue text: causal language models as they are, and assistants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlab.data.datamodules import TrainingDataModule
from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.stages.causal.inputs import CausalInputs
from kdlab.stages.teachers.language_models import LanguageModelPool
from kdlab.teachers.specs import TeacherSpec


class CausalTeacherPool(LanguageModelPool):
    """The causal language models that are teachers. None needs a preparation: they come trained."""

    inputs: CausalInputs

    def check_one(self, member: TeacherSpec) -> None:
        if member.assistant is None and member.layers is not None:
            raise UserError(
                f"teachers.others.{member.name}.layers: some layers of a decoder are no teacher before they are trained; "
                f"+adopt.assistant distils one, and teachers.others.{member.name}.path= names a trained one"
            )

    @property
    def parts(self) -> dict[str, Any]:
        return self.inputs.rows_parts

    def rows(
        self, member: TeacherSpec, seed: int, batch_size: int, steps: int | None, epochs: int | None
    ) -> TrainingDataModule:
        return self.inputs.data_module(steps, epochs, seed, batch_size)

    def load(self, member: TeacherSpec) -> Any:
        return loading.load_causal_lm(self.folder(member), self.revision(member))

    def prepared_folder(self, member: TeacherSpec) -> str | Path:
        self.check_one(member)
        return member.source.place
