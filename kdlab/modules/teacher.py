"""The LightningModule that trains a teacher on labels or masked tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from kdlab.methods.knowledge.base import Term
from kdlab.methods.knowledge.logits import label_cross_entropy, label_loss
from kdlab.models.encoder import Encoder
from kdlab.modules.batch_parts import LossByParts
from kdlab.modules.distillation_loss import DistillationLoss
from kdlab.modules.evaluation import Scorer, inference_mode, text_score
from kdlab.modules.finite_checks import StepHealth
from kdlab.modules.lightning_options import call_batch_hook, set_attribute
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import Optimization, OptimizerSettings
from kdlab.runtime.ledger import Ledger
from kdlab.types import Batch


class TeacherModule(pl.LightningModule):
    """Trains an encoder, the teacher to be, on labels: fine-tuning of a classifier, or of a masked-LM head.

    Use it with any `pl.Trainer` and a data module that yields `Batch`; save the result with
    `module.teacher.model.save_pretrained(folder)`:

        module = TeacherModule(Encoder(model), OptimizerSettings(lr=2e-5), total_steps=1000, score=TaskScore(shape))
        pl.Trainer(max_steps=1000).fit(module, datamodule=data)

    `total_steps`: optimizer steps of the whole schedule. `term`: a knowledge term on labels (None: cross-entropy, or
    squared error in regression). `ledger`: counts FLOPs and seconds (None: nothing is counted). `seed`: of dropout.
    `score` evaluates a model (None: masked-LM loss and accuracy). `chunk`: units with logits at a time. `part_tokens`: a batch of
    more tokens is taken in parts (`LossByParts`; None: never).
    """

    __setattr__ = set_attribute
    _call_batch_hook = call_batch_hook
    needs_teacher = False

    def __init__(
        self,
        teacher: Encoder,
        optim: OptimizerSettings,
        total_steps: int,
        term: Term | None = None,
        ledger: Ledger | None = None,
        seed: int = 0,
        score: Scorer | None = None,
        chunk: int = 256,
        part_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.ledger = ledger
        self.score = score or text_score(teacher.head, chunk)
        term = term or (label_loss if teacher.per_row else label_cross_entropy)
        label_loss_of = DistillationLoss(teacher, {"label": WeightedTerm(term, 1.0)}, seed=seed, chunk=chunk)
        self.label_loss = LossByParts(label_loss_of, part_tokens)
        self.optimization = Optimization(optim, total_steps, seed)
        self.losses: dict[str, Tensor] = {}  # the last step's "loss" and "label", detached

    @property
    def health(self) -> StepHealth:
        """The finite checks of the steps."""
        return self.optimization.health

    def configure_optimizers(self) -> Any:
        return self.optimization.configure(self.parameters())

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.optimization.clip(self, optimizer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.optimization.begin_batch(batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, self.losses = self.label_loss(batch, ledger=self.ledger)
        self.health.note(loss, batch.rows, batch.real)
        return loss

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Scores of the teacher over this rank's `batches`, exact over all ranks (collective)."""
        with inference_mode(self.teacher, self.trainer):
            return self.score(self.teacher, batches, self.device)
