"""Teachers that continue text: causal language models as they are, and assistants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlab.data.datamodules import TrainingDataModule
from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.models.student import student_from
from kdlab.stages.causal.inputs import CausalInputs
from kdlab.stages.teachers.base import TeacherPool
from kdlab.storage.files import atomic_write_json, read_json
from kdlab.teachers.specs import TeacherSpec


class CausalTeacherPool(TeacherPool):
    """The causal language models that are teachers. None needs a preparation: they come trained."""

    inputs: CausalInputs

    @property
    def classes(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None

    @property
    def outputs(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None

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

    def initial_model(self, member: TeacherSpec, seed: int) -> Any:
        assistant = member.assistant
        if assistant is not None and assistant.path is not None:
            return self.inputs.load(assistant.path)
        assert member.layers is not None
        return student_from(self.load(self.main), member.layers)

    def prepared_folder(self, member: TeacherSpec) -> str | Path:
        self.check_one(member)
        return member.source.place

    def training_rows(self, member: TeacherSpec) -> int:
        stats = read_json(self.inputs.corpus_folder / "stats.json")
        return stats["sequences"] - stats["heldout_sequences"]

    def finish(self, module: Any, data: Any, out: Path) -> None:
        atomic_write_json(out / "heldout.json", module.evaluate(data.heldout_splits()[""]))

    def _distilled(self, member: TeacherSpec) -> Path:
        folder = super()._distilled(member)
        heldout = read_json(folder / "heldout.json")
        self.inputs.notify(
            f"{member.name}: held-out loss {heldout['loss']:.3f}, perplexity {heldout['perplexity']:.2f}, "
            f"accuracy {heldout['accuracy']:.1%}"
        )
        return folder
