"""Common parts of the teachers of plain text and of causal language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlab.models.student import student_from
from kdlab.stages.teachers.base import TeacherPool
from kdlab.stages.text_inputs import CorpusInputs
from kdlab.storage.files import atomic_write_json, read_json
from kdlab.teachers.specs import TeacherSpec

HELDOUT = "heldout.json"  # in the artifact of a teacher: its scores on held-out rows


class LanguageModelPool(TeacherPool):
    """Teachers whose classes are the words of a vocabulary: masked-LM models or decoders."""

    inputs: CorpusInputs

    @property
    def classes(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None

    @property
    def outputs(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None

    def initial_model(self, member: TeacherSpec, seed: int) -> Any:
        assistant = member.assistant
        if assistant is not None and assistant.path is not None:
            return self.inputs.load(assistant.path)
        assert member.layers is not None
        return student_from(self.load(self.main), member.layers)

    def training_rows(self, member: TeacherSpec) -> int:
        stats = read_json(self.inputs.corpus_folder / "stats.json")
        return stats["sequences"] - stats["heldout_sequences"]

    def finish(self, module: Any, data: Any, out: Path) -> None:
        atomic_write_json(out / HELDOUT, module.evaluate(data.heldout_splits()[""]))

    def _distilled(self, member: TeacherSpec) -> Path:
        folder = super()._distilled(member)
        self.say_heldout(member, folder)
        return folder

    def say_heldout(self, member: TeacherSpec, folder: Path) -> None:
        """Print the held-out scores of a teacher that was trained here."""
        heldout = read_json(folder / HELDOUT)
        name = member.name if member.assistant else f"teacher {member.name}"
        perplexity = f"perplexity {heldout['perplexity']:.2f}, " if "perplexity" in heldout else ""
        self.inputs.notify(
            f"{name}: held-out {self.inputs.head.loss} {heldout['loss']:.3f}, "
            f"{perplexity}accuracy {heldout['accuracy']:.1%}"
        )
