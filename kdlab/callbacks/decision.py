"""The base of `Select`, `Adopt` and `Weigh`: a question about each batch, answered by the rule that a policy picks."""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl

from kdlab.errors import UserError
from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.modules.views import StudentView
from kdlab.types import Batch, Plan


class DecisionCallback(pl.Callback):
    """Answers one question about each batch, before its step, by the rule that `selector` picks.

    Its module must be a `StudentView`.
    """

    def __init__(self, selector: ArmSelector) -> None:
        self.selector = selector

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not hasattr(pl_module, "labels_on_all"):
            raise UserError(
                f"{type(self).__name__} decides about the teachers of a kdlab.StudentModule, and {type(pl_module).__name__} "
                "is none; kdlab.Select works with any module that offers kdlab.SelectableModule"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        student = cast(StudentView, pl_module)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.selector.decide(trainer.global_step, student.ledger)
        batch.plan = batch.plan or Plan()
        self.answer(student, batch, batch_idx)

    def answer(self, student: StudentView, batch: Batch, batch_idx: int) -> None:
        """Put the answer into the plan of `batch`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return self.selector.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.selector.load_state_dict(state_dict)
