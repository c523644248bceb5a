"""The LightningModule that distils an assistant, a model between teacher and student."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from kdlab.methods.knowledge.logits import label_loss, soft_loss
from kdlab.models.encoder import Encoder
from kdlab.modules.batch_parts import LossByParts
from kdlab.modules.distillation_loss import DistillationLoss
from kdlab.modules.evaluation import Scorer, inference_mode, text_score
from kdlab.modules.finite_checks import StepHealth
from kdlab.modules.lightning_options import call_batch_hook, set_attribute
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import Optimization, OptimizerSettings
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch


class AssistantModule(pl.LightningModule):
    """Distils an assistant from one teacher on all rows: w CE + (1 - w) tau^2 KL (vanilla KD; DeKD sections 3.3, 4.3).

    Use it with any `pl.Trainer` and a data module that yields `Batch`; the result is a teacher's encoder as any other:

        module = AssistantModule(Encoder(model), teacher, OptimizerSettings(lr=2e-5), total_steps=1000)
        pl.Trainer(max_steps=1000).fit(module, datamodule=data)

    `total_steps`: optimizer steps of the whole schedule. `temperature` tau; `label_weight` w in [0, 1]. `ledger`: counts
    queries, FLOPs and seconds (None: nothing is counted). `seed`: of dropout. `score` evaluates a model (None: masked-LM
    loss and accuracy). `chunk`: units with logits over a vocabulary at a time. `part_tokens`: a batch of more tokens is taken in
    parts (`LossByParts`; None: never).
    """

    __setattr__ = set_attribute
    _call_batch_hook = call_batch_hook

    def __init__(
        self,
        assistant: Encoder,
        teacher: Teacher,
        optim: OptimizerSettings,
        total_steps: int,
        temperature: float = 1.0,
        label_weight: float = 0.5,
        ledger: Ledger | None = None,
        seed: int = 0,
        score: Scorer | None = None,
        chunk: int = 256,
        part_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.assistant = assistant
        self.ledger = ledger
        self.score = score or text_score(assistant.head, chunk)
        terms = {
            "label": WeightedTerm(label_loss, label_weight),
            "soft": WeightedTerm(partial(soft_loss, temperature=temperature), 1 - label_weight),
        }
        terms = {name: w for name, w in terms.items() if w.weight > 0}
        self.distillation = DistillationLoss(assistant, terms, [teacher], seed=seed, chunk=chunk)
        self._loss = LossByParts(self.distillation, part_tokens)
        self.optimization = Optimization(optim, total_steps, seed)
        self.losses: dict[str, Tensor] = {}  # the last step's loss and terms, detached

    @property
    def health(self) -> StepHealth:
        """The finite checks of the steps."""
        return self.optimization.health

    @property
    def needs_teacher(self) -> bool:
        """True unless labels alone count (`label_weight` 1)."""
        return self.distillation.needs_teacher

    @property
    def teacher(self) -> Teacher:
        """The frozen teacher. No submodule: not in checkpoints, not in the optimizer."""
        return self.distillation.teachers[0]

    def on_fit_start(self) -> None:
        self.distillation.queries.share_run_id()
        self.teacher.hold(str(self.trainer.precision))
        self.teacher.to(self.device)  # it is no submodule, so Lightning does not move it

    def configure_optimizers(self) -> Any:
        return self.optimization.configure(self.parameters())

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.optimization.clip(self, optimizer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.optimization.begin_batch(batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, self.losses = self._loss(batch, ledger=self.ledger)
        self.health.note(loss, batch.rows, batch.real, self.distillation.finite_answers())
        return loss

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Scores of the assistant over this rank's `batches`, exact over all ranks (collective)."""
        with inference_mode(self.assistant, self.trainer):
            return self.score(self.assistant, batches, self.device)
