"""The LightningModule that distils a student. It knows no paper and no strategy, only rows, units and weighted terms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.models import flops, lora
from kdlab.models.encoder import Encoder, dropout_mode
from kdlab.models.sharding.trained import in_step
from kdlab.modules.distillation_loss import DistillationLoss, record_positions, timed
from kdlab.modules.evaluation import Answers, Scorer, inference_mode, text_score
from kdlab.modules.evidence.outputs import evidence_of, unit_evidence
from kdlab.modules.evidence.teacher_answers import TeacherRows
from kdlab.modules.finite_checks import StepHealth
from kdlab.modules.lightning_options import call_batch_hook, set_attribute
from kdlab.modules.objective import TeacherAnswer, WeightedTerm
from kdlab.modules.optimizer import Optimization, OptimizerSettings
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher, teacher_dtype
from kdlab.types import Batch, Evidence, Outputs, Plan

FROZEN = "frozen"  # key of a checkpoint without frozen weights: their hash


class StudentModule(pl.LightningModule):
    """Trains a student on a weighted sum of knowledge terms, on the rows that the batch's `Plan` selects.

    A `kdlab.modules.views.StudentView`, so `Select`, `Adopt`, `Weigh` and the other callbacks work on it; without them it distils
    plainly, on all rows from the last teacher. Use it with any `pl.Trainer` and a data module that yields `Batch`:

        module = StudentModule(student, terms, OptimizerSettings(lr=2e-5), total_steps=1000, teachers=[teacher])
        pl.Trainer(max_steps=1000, callbacks=[select]).fit(module, datamodule=data)

    `terms`, `teachers`, `reduce`, `chunk` and `mc_dropout` are those of `DistillationLoss`; terms on labels alone need no teacher.
    `total_steps`: optimizer steps of the whole schedule. `ledger`: counts queries, FLOPs and seconds (None: nothing is
    counted). `seed`: of dropout and projections. `score` evaluates a model (None: masked-LM loss and accuracy).
    `labels_on` "all": labels of rows that are not selected are learnt too (Dynamic KD's public code); else "selected".
    """

    __setattr__ = set_attribute
    _call_batch_hook = call_batch_hook

    def __init__(
        self,
        student: Encoder,
        terms: Mapping[str, WeightedTerm],
        optim: OptimizerSettings,
        total_steps: int,
        teachers: Sequence[Teacher] = (),
        ledger: Ledger | None = None,
        reduce: str = "tokens",
        seed: int = 0,
        chunk: int = 256,
        score: Scorer | None = None,
        labels_on: str = "selected",
        mc_dropout: int = 0,
    ) -> None:
        super().__init__()
        self.student = student
        self.total_steps = total_steps
        self.ledger = ledger
        self.labels_on_all = labels_on == "all"
        self.chunk = chunk
        self.score = score or text_score(student.head, chunk)
        self.distillation = DistillationLoss(student, terms, teachers, reduce, seed, chunk, mc_dropout)
        self.bridges = self.distillation.bridges  # the student's projections are trained and saved with it
        self.optimization = Optimization(optim, total_steps, seed)
        self.losses: dict[str, Tensor] = {}  # this rank's share of the last step's loss and terms, detached
        self.trained_rows = torch.zeros(())  # this rank's rows in the last step's loss
        self.micro_step = 0
        self._hash = ""  # of frozen weights beside adapters, as they were loaded

    # ---- read by callbacks (`StudentView`)

    @property
    def terms(self) -> dict[str, WeightedTerm]:
        """The knowledge terms by name."""
        return self.distillation.terms

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The frozen teachers, from small to large. No submodules: not in checkpoints, not in the optimizer."""
        return self.distillation.teachers

    @property
    def teacher_names(self) -> list[str]:
        """The teachers' names in the ledger, from small to large."""
        return [teacher.name for teacher in self.teachers]

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of the scores that `evaluate` returns."""
        return self.score.names

    @property
    def answers(self) -> Answers | None:
        """The answers that `evaluate` scored last; None on text."""
        return self.score.answers

    @property
    def needs_teacher(self) -> bool:
        """True where a knowledge term reads a teacher's answer."""
        return self.distillation.needs_teacher

    @property
    def has_idle_parameters(self) -> bool:
        """True where some parameters may have no gradient in some steps (DDP must search for them)."""
        return self.distillation.has_idle_parameters

    @property
    def health(self) -> StepHealth:
        """The finite checks of the steps."""
        return self.optimization.health

    @property
    def shape(self) -> flops.EncoderShape:
        """The student's sizes."""
        return self.distillation.flops.shape

    @property
    def per_row(self) -> bool:
        """True where the student is a classifier, with one answer a row."""
        return self.student.per_row

    @property
    def progress(self) -> float:
        """Share of the optimizer steps done, in [0, 1] (0 without a trainer)."""
        return 0.0 if self._trainer is None else self.trainer.global_step / self.total_steps

    @property
    def decisions(self) -> dict[str, Tensor]:
        """The decisions of the last step's rules (`TermWeights.decisions`)."""
        return self.distillation.term_weights.decisions

    def decision_columns(self, kinds: Iterable[str]) -> list[str]:
        """The keys that `decisions` may have under rules of these kinds ("adopt", "weigh")."""
        return self.distillation.term_weights.columns(kinds)

    # ---- adapters (`kdlab.models.lora`)

    def merge_adapters(self) -> None:
        """Add the student's adapters to its weights, after its training: a plain model, in float32. Nothing without them."""
        if self.shape.adapters:
            lora.merge(self.student.model)
            self.student.float()
            self.distillation.flops.shape = replace(self.shape, adapters=0)

    def _left_out(self) -> list[str]:
        """Names of the frozen parameters that checkpoints leave out: beside adapters, those that the student starts with."""
        return [name for name, p in self.named_parameters() if not p.requires_grad] if self.shape.adapters else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if names := self._left_out():
            state = checkpoint["state_dict"]
            tied = {state[name].data_ptr() for name in names}
            checkpoint["state_dict"] = {name: x for name, x in state.items() if x.data_ptr() not in tied}
            checkpoint[FROZEN] = self._frozen_hash()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if FROZEN in checkpoint:
            if checkpoint[FROZEN] != self._frozen_hash():
                raise UserError(
                    "the checkpoint holds adapters of other weights than those that the student starts with now: the model "
                    "that it is made from has changed; resume=false starts anew"
                )
            checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

    def _frozen_hash(self) -> str:
        self._hash = self._hash or lora.frozen_hash(self._left_out(), self)
        return self._hash

    # ---- training

    def on_fit_start(self) -> None:
        self.distillation.queries.share_run_id()
        for teacher in self.teachers:
            teacher.hold(str(self.trainer.precision))
            teacher.to(self.device)  # they are no submodules, so Lightning does not move them
        if self.shape.adapters and (dtype := teacher_dtype(str(self.trainer.precision))) is not None:
            self._frozen_hash()
            self.student.cast_weights(dtype)

    def configure_optimizers(self) -> Any:
        return self.optimization.configure(self.parameters())

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.optimization.clip(self, optimizer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.micro_step = batch_idx
        self.optimization.begin_batch(batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rows = None if batch.plan is None else batch.plan.rows
        if self.labels_on_all and batch.plan is not None and batch.plan.selects_positions_alone:
            rows = torch.arange(len(batch))  # labels of all their positions are learnt
        trained = batch if rows is None or self.labels_on_all else batch.take(rows)  # `plan.select`: labels on all
        if batch.plan is not None and batch.plan.replayed is not None:
            trained = Batch.joined([trained, batch.plan.replayed])
        self.trained_rows = trained.real.sum()
        loss = self.loss(trained, queried=rows if self.labels_on_all else None, plan=batch.plan)
        self.health.note(loss, trained.rows, trained.real, self.distillation.finite_answers())
        return loss

    def loss(
        self, batch: Batch, local: bool = False, queried: Tensor | None = None, plan: Plan | None = None
    ) -> Tensor:
        """The distillation loss on every row of `batch`, a scalar with gradient (`DistillationLoss`).

        `local`: of this rank's rows only, without collectives, and not counted in the ledger (probes). `queried`: the
        rows (k,) that query the teachers, where labels are learnt on all (None: all). `plan`: adoption and weighing.
        """
        loss, self.losses = self.distillation(
            batch,
            plan,
            queried,
            progress=self.progress,
            step=self.micro_step,
            ledger=None if local else self.ledger,
            local=local,
        )
        return loss

    def plain_flops(self, batch: Batch) -> tuple[int, int]:
        """FLOPs of a step of plain distillation on `batch`, the student's, its backward included, and the teachers', with
        heads and with those padding tokens that are run."""
        return self.distillation.flops.plain_step(self.distillation.active_terms(self.progress), batch)

    def begin_queries(self, micro_step: int) -> None:
        """Assign the teacher queries from here on to a micro-step."""
        self.distillation.queries.begin_step(micro_step)

    # ---- inference for callbacks: scoring, observation, evaluation

    def inference_mode(self) -> contextlib.AbstractContextManager[None]:
        """No gradient, no dropout, the trainer's precision."""
        return inference_mode(self.student, self.trainer)

    def dropout(self, seed: int) -> contextlib.AbstractContextManager[None]:
        """Dropout inside `inference_mode`, drawn from `seed`; torch's global generators are as before after it."""
        return dropout_mode(self.student, seed)

    def timed(self, part: str) -> contextlib.AbstractContextManager[None]:
        """Add the seconds of the block to `part` of the ledger."""
        return timed(self.ledger, part)

    def count_flops(self, part: str, amount: int) -> None:
        """Add FLOPs to `part` of the ledger; nothing if it has no name."""
        if self.ledger is not None and part:
            self.ledger.flops(part, amount)

    def encode(self, batch: Batch, part: str = "", needed: frozenset[str] = frozenset()) -> Outputs:
        """The student's hidden states for `batch`, within `inference_mode`; FLOPs go to `part`, if named."""
        self.count_flops(part, self.distillation.flops.student_layers(batch, needed))  # the head counts when it runs
        return self.student.encode(batch, needed)

    def features(self, outputs: Outputs) -> Tensor:
        """Features (k, H) of the rows of `outputs` for selection strategies."""
        return self.student.features(outputs)

    def evidence(self, batch: Batch, outputs: Outputs, part: str = "", units: bool = False) -> Iterator[Evidence]:
        """Evidence with logits for a few rows at a time (`evidence_of`), or with `units` for a few positions
        (`unit_evidence`); the head's FLOPs go to `part`, if named."""

        def count(units: int) -> None:
            self.count_flops(part, self.distillation.flops.student_head(units))

        of = unit_evidence if units else evidence_of
        return of(self.student, batch, outputs, self.chunk, count)

    def query_teachers(self, batch: Batch, count: bool = True) -> list[TeacherAnswer]:
        """The answers of plain distillation's teachers for `batch`; `count`: enter queries and FLOPs into the ledger."""
        loss = self.distillation
        needed = loss.needed(self.terms)  # of later terms too: the answers are stored
        with self.timed(loss.queries.ledger_part), self.inference_mode():
            answers = loss.queries.query(None, batch, Outputs(), needed, count, local=True)[0]
        if count:  # without heads: these run in each observation
            self.count_flops("teacher_forward", loss.flops.teacher_forwards(answers, needed))
        return answers

    def teacher_rows(self, batch: Batch | None) -> TeacherRows | None:
        """The largest teacher's logits for the rows of `batch`, within `inference_mode`: from its cache, if there is one;
        rows that it lacks are queried, counted and stored. None: no rows; joins other ranks' queries to a shared teacher.
        UserError without a teacher."""
        loss = self.distillation
        if not self.teachers:
            raise UserError("a strategy reads the teacher's answers, and the module has no teacher")
        teacher, number = self.teachers[-1], len(self.teachers) - 1
        if batch is None:
            teacher.catch_up()
            return None
        with self.timed(loss.queries.ledger_part):
            lookup = teacher.answer(batch, count=self.ledger is not None)
        if self.ledger is not None:
            answer = TeacherAnswer(number, teacher, lookup.outputs, batch, None, None, lookup.logits, lookup.forwards)
            self.count_flops("teacher_forward", loss.flops.teacher_forwards([answer], frozenset()))
            loss.flops.record_uncertainty(self.ledger, batch, loss.queries.uncertainty_units, False, [answer])
            record_positions(self.ledger, None, [answer])
        return TeacherRows(teacher, lookup, batch, self.per_row, self.chunk)

    def share_queried_rows(self) -> None:
        """Tell the ranks which rows each has queried the largest teacher for at this step (collective)."""
        cache = self.teachers[-1].cache if self.teachers else None
        if cache is not None:
            cache.share_step()

    def catch_up(self) -> None:
        """Join other ranks' queries to shared teachers, without a batch (collective)."""
        self.distillation.queries.catch_up()

    def evaluate(self, batches: Iterable[Batch], part: str = "", teacher: Teacher | None = None) -> dict[str, float]:
        """Scores of the student, or of a teacher, over this rank's `batches`, exact over all ranks (collective).

        FLOPs go to `part`, if named.
        """
        counter = self.distillation.flops

        def count(batch: Batch, units: int) -> None:
            self.count_flops(part, counter.student_layers(batch) + counter.student_head(units))

        with self.inference_mode():
            if teacher is None:
                return self.score(self.student, in_step(self.student, batches), self.device, count)
            return self.score(teacher.encoder, teacher.over(batches), self.device, count, teacher.project)

    def distillation_loss(self, batches: Iterable[tuple[Batch, Sequence[TeacherAnswer]]], part: str = "") -> float:
        """Mean distillation loss over batches with stored answers, without gradient, over all ranks (collective)."""
        sums = torch.zeros(2, dtype=torch.float64)
        terms, counter = self.distillation.active_terms(self.progress), self.distillation.flops
        needed = self.distillation.needed(terms)
        with self.inference_mode():
            for batch, answers in in_step(self.student, batches):
                outputs = self.encode(batch, part, needed)
                outputs.progress = self.progress
                queried = [(answer.number, answer.queried) for answer in answers]
                heads = counter.objective(terms.values(), batch, queried, needed)
                self.count_flops(part, heads + counter.teacher_heads(terms.values(), answers))
                value, _ = self.distillation.objective(terms, batch, outputs, answers, local=True)
                sums += torch.tensor([float(value) * len(batch), len(batch)], dtype=torch.float64)
        total, count = distributed.all_sum(sums).tolist()
        return total / count
