"""The callback `Weigh`."""

from __future__ import annotations

from kdlab.callbacks.decision import DecisionCallback
from kdlab.modules.distiller import Distiller
from kdlab.types import Batch


class Weigh(DecisionCallback):
    """Which knowledge counts, how much? The weighing rule (`kdlab.methods.knowledge.weighing`, `kdlab.methods.ksm.module`) that the chooser picks."""

    def answer(self, module: Distiller, batch: Batch, batch_idx: int) -> None:
        assert batch.plan is not None
        batch.plan.weigh = self.chooser.chosen

    @property
    def state_key(self) -> str:
        return "Weigh"
