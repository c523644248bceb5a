"""The observation of an adaptive policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from kdlab.modules.distiller import Distiller
from kdlab.modules.objective import TeacherAnswer
from kdlab.runtime import distributed
from kdlab.types import Batch


class LossObserver:
    """The student's loss on rows of the training set drawn once: what an adaptive policy sees (AdaDS Eq. 11).

    `batches` gives this rank's share of the M rows. `kd` False: the task's own loss, no teacher is asked. True: the
    whole distillation loss; the teacher answers once for all M rows (M queries, counted) and its answers are kept.
    """

    def __init__(self, module: Distiller, batches: Callable[[], Iterable[Batch]], kd: bool = False) -> None:
        self.module = module
        self.batches = batches
        self.kd = kd
        self._held: list[Batch] | None = None
        self._answers: list[list[TeacherAnswer]] = []

    def __call__(self) -> float:
        """Mean loss in nats over the rows of all ranks (collective); eval mode, no gradient."""
        module = self.module
        with module.metered("observation"):
            if self._held is None:
                self._held = [batch.to(module.device) for batch in self.batches()]
                if self.kd:
                    most = int(distributed.all_max(torch.tensor(len(self._held))))
                    # the first observation is at step 0: later, a resumed run asks again what is already counted
                    self._answers = [
                        module.answer(batch, count=module.trainer.global_step == 0) for batch in self._held
                    ]
                    for _ in range(most - len(self._held)):
                        module.hearing.catch_up()
            if self.kd:
                return module.distillation_loss(zip(self._held, self._answers, strict=True), part="observation")
            return module.measure(self._held, part="observation")["loss"]
