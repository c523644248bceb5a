"""`Weigh`: weigh the knowledge terms of each row by a weighing rule."""

from __future__ import annotations

from kdlab.callbacks.decision import DecisionCallback
from kdlab.modules.views import StudentView
from kdlab.types import Batch


class Weigh(DecisionCallback):
    """Puts the weighing rule (`kdlab.methods.knowledge.weighing`, `kdlab.methods.ksm`) that its selector picks into the
    plan of each batch.

    The training step applies it to the student's forward: weights (k, M) of the knowledge terms.
    """

    def answer(self, student: StudentView, batch: Batch, batch_idx: int) -> None:
        assert batch.plan is not None
        batch.plan.weigh = self.selector.rule

    @property
    def state_key(self) -> str:
        return "Weigh"
