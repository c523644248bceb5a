"""The causal stage: decoders that predict the next token of text, completions or conversations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from kdlab.data.datamodules import TrainingDataModule
from kdlab.modules.evaluation import token_agreement
from kdlab.modules.student import StudentModule
from kdlab.stages.causal.inputs import CausalInputs
from kdlab.stages.pretraining import TextStage
from kdlab.stages.teachers.causal_lms import CausalTeacherPool
from kdlab.teachers.teacher import Teacher


class CausalStage(TextStage):
    """The stage of a run whose rows are continued."""

    inputs_class = CausalInputs
    inputs: CausalInputs

    @cached_property
    def teacher_pool(self) -> CausalTeacherPool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The teachers of the run: causal language models."""
        return CausalTeacherPool(self.inputs)

    def beside_teacher(
        self, module: StudentModule, teachers: Sequence[Teacher], data: TrainingDataModule
    ) -> dict[str, float]:
        main = next((teacher for teacher in teachers if teacher.name == self.teacher_pool.main.name), None)
        if main is None:
            return {}
        with module.inference_mode():
            batches = main.over(data.heldout_splits(final=True)[""])
            share = token_agreement(module.student, main.encoder, main.project, batches, module.device, module.chunk)
        return {"agreement": share}
