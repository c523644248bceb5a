"""The callback `Adopt`."""

from __future__ import annotations

from kdlab.callbacks.decision import DecisionCallback
from kdlab.modules.distiller import Distiller
from kdlab.types import Batch


class Adopt(DecisionCallback):
    """Which teacher speaks to each row? The adoption rule (`kdlab.methods.adoption`) that the chooser picks."""

    def answer(self, module: Distiller, batch: Batch, batch_idx: int) -> None:
        assert batch.plan is not None
        batch.plan.adopt = self.chooser.chosen

    @property
    def state_key(self) -> str:
        return "Adopt"
