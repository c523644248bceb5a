"""`Adopt`: weigh the teachers of each row by an adoption rule."""

from __future__ import annotations

from kdlab.callbacks.decision import DecisionCallback
from kdlab.modules.views import StudentView
from kdlab.types import Batch


class Adopt(DecisionCallback):
    """Puts the adoption rule (`kdlab.methods.adoption`) that its selector picks into the plan of each batch.

    The training step applies it to the student's forward: weights (k, T) of the teachers.
    """

    def answer(self, student: StudentView, batch: Batch, batch_idx: int) -> None:
        assert batch.plan is not None
        batch.plan.adopt = self.selector.rule

    @property
    def state_key(self) -> str:
        return "Adopt"
