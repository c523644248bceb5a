"""The pre-training stage: masked-LM teachers and students on plain text (AdaDS section 4.2, the DistilBERT recipe)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers

from kdlab.data.datamodules import TrainingDataModule
from kdlab.modules.evaluation import UnfiniteAnswers
from kdlab.modules.student import StudentModule
from kdlab.runtime import distributed
from kdlab.stages.base import Stage
from kdlab.stages.teachers.masked_lms import TextTeacherPool
from kdlab.stages.text_inputs import TextInputs
from kdlab.teachers.teacher import Teacher


class TextStage(Stage):
    """A stage of text, whose students start as layers of their teacher, with its head."""

    def backbone(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        if (
            teacher is not None and teacher.encoder.weight_dtype is None
        ):  # weights held in half precision have lost bits
            return teacher.encoder.model
        return self.teacher_pool.load(self.teacher_pool.main)

    def teachers_on_heldout(
        self, module: StudentModule, teachers: Sequence[Teacher], data: TrainingDataModule
    ) -> dict[str, dict[str, float]]:
        titles = {member.name: member.title for member in self.teacher_pool.members}
        found = {}
        for teacher in teachers:
            scores = module.evaluate(data.heldout_splits(final=True)[""], teacher=teacher)
            if not math.isfinite(scores["loss"]):
                raise UnfiniteAnswers(f"the teacher {teacher.name} on held-out text", "take another teacher")
            found[titles[teacher.name]] = scores
        return found

    def unigram_loss(self, data: TrainingDataModule) -> float:
        """Mean of -log((count + 1) / (N + V)) of the predicted tokens, by the counts of the training text."""
        inputs: Any = self.inputs
        counts = torch.from_numpy(np.load(inputs.corpus_folder / "token_counts.npy")).double() + 1
        total = torch.zeros(2, dtype=torch.float64)
        for batch in data.heldout_splits(final=True)[""]:
            labels = batch.labels[batch.real][batch.labelled()[batch.real]]
            total += torch.stack([-(counts[labels] / counts.sum()).log().sum(), torch.tensor(float(len(labels)))])
        loss, masked = distributed.all_sum(total).tolist()
        return loss / max(masked, 1.0)


class PretrainStage(TextStage):
    """The stage of a run on plain text, whose words are masked."""

    inputs_class = TextInputs
    inputs: TextInputs

    @cached_property
    def teacher_pool(self) -> TextTeacherPool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The teachers of the run: masked-LM models."""
        return TextTeacherPool(self.inputs)
