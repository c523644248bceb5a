"""The distiller: carries a batch's plan out. It knows no paper and no strategy, only rows, units and weighted terms."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import fields_beyond_logits, is_joint, on_logits, queries_teacher
from kdlab.methods.marks import marks_of
from kdlab.models import attention_capture, flops
from kdlab.models.encoder import Encoder
from kdlab.modules.evaluation import MaskedLMScore, Scorer
from kdlab.modules.finite_checks import StepHealth
from kdlab.modules.flop_accounting import FlopCounter
from kdlab.modules.objective import Objective, TeacherAnswer, WeightedTerm, wanted_by
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.teacher_queries import TeacherQueries
from kdlab.modules.term_weights import TermWeights
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import generator, reseed
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Evidence, Outputs, Plan


class Distiller(pl.LightningModule):
    """Trains a student on a weighted sum of knowledge terms, on the rows that the batch's plan keeps.

    With label terms alone it needs no teacher, and is ordinary training (how teachers are prepared and fine-tuned).
    `teachers` come from small to large; without an adoption rule each row asks the last one, or all of them where they
    are specialists for some classes each. `teacher`, the last, is what plain distillation would ask.
    `reduce` "tokens": a term is the mean over the units of all rows (the published scripts' way); "rows": the mean
    over rows of row means. Either way the mean is over all ranks' rows, whatever each rank holds. `labels_on` "all":
    the labels of rows that the plan leaves out are learnt as well (Dynamic KD's public code). `score` measures a model.
    Where student and teacher differ in width, learnt projections carry the student's states over (TinyBERT Eq. 8, 9).
    `chunk` bounds how many units have logits over a vocabulary at one moment.
    """

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
    ) -> None:
        super().__init__()
        self.student = student
        self.terms = dict(terms)
        self.optim = optim
        self.total_steps = total_steps
        self.labels_on_all = labels_on == "all"
        self.seed = seed
        self.chunk = chunk
        self.score = score or MaskedLMScore(chunk)
        self.needs_teacher = any(queries_teacher(w.term) for w in self.terms.values())
        if self.needs_teacher and not teachers:
            raise UserError("these knowledge terms read a teacher's answer, and there is no teacher")
        # a tuple, so that they are no submodules: not in checkpoints, not in the optimizer
        self.teachers = tuple(teachers)
        self.ledger = ledger
        joint = any(is_joint(w.term) for w in self.terms.values())
        self.together = joint or any(teacher.classes is not None for teacher in teachers)
        self.spending = FlopCounter(student, self.teachers, self.together)
        self.shape, self.teacher_shapes = self.spending.shape, self.spending.teacher_shapes
        self.hearing = TeacherQueries(student, self.teachers, self.together, joint, chunk)
        self.report: dict[str, Tensor] = {}  # this rank's share of the last step's loss and terms, detached
        self.micro_step = 0
        self._trained: list[nn.Parameter] = []
        self.health = StepHealth()
        self.bridges = nn.ModuleDict()
        if self.needs_teacher:
            self._meet(student)
        # how many units' logits the terms are given at once: few of a vocabulary, many of some classes
        piece = max(32, 2**20 // (self.shape.outputs or self.shape.vocab))
        self.objective = Objective(student, self.bridges, reduce == "rows", chunk, piece)
        self.rules = TermWeights(
            self.terms, self.hearing, self.objective, [shape.layers for shape in self.teacher_shapes]
        )

    def _meet(self, student: Encoder) -> None:
        """Make student and teachers comparable where terms read more than logits."""
        taught = [w.term for w in self.terms.values() if queries_teacher(w.term)]
        read = frozenset().union(*(fields_beyond_logits(term) for term in taught))
        if read & {"scores", "values"}:
            for encoder in (student, *(teacher.encoder for teacher in self.teachers)):
                attention_capture.prepare(encoder.model)
        widths = [flops.shape_of(teacher.encoder.model.config).hidden for teacher in self.teachers]
        for name, w in self.terms.items():
            if is_joint(w.term):
                w.term.build(self.shape.hidden, widths, self.seed)  # pyright: ignore[reportFunctionMemberAccess]
                self.bridges[f"term {name}"] = w.term  # pyright: ignore[reportArgumentType]
        if not any(not on_logits(term) and not is_joint(term) for term in taught):
            return
        for i, width in enumerate(widths):
            if width != self.shape.hidden:
                reseed(self.seed, "projections", *((i,) if i else ()))
                bridge = nn.ModuleDict({"states": nn.Linear(self.shape.hidden, width)})
                if "states" in read:
                    bridge["embeddings"] = nn.Linear(self.shape.hidden, width)
                self.bridges[str(i)] = bridge

    @property
    def teacher(self) -> Teacher | None:
        """The one that plain distillation asks: the largest."""
        return self.teachers[-1] if self.teachers else None

    @property
    def phased(self) -> bool:
        """Whether some parameters may have no gradient in some steps."""
        logits = [w for w in self.terms.values() if on_logits(w.term)]
        return bool(self.bridges) or not any((w.since, w.until) == (0.0, 1.0) for w in logits)

    @property
    def trained_by(self) -> dict[str, WeightedTerm]:
        """The terms that count at this step."""
        if all((w.since, w.until) == (0.0, 1.0) for w in self.terms.values()):
            return self.terms
        return {name: w for name, w in self.terms.items() if w.since <= self.progress < w.until}

    @property
    def progress(self) -> float:
        """Share of the steps done (0 outside of a training)."""
        return 0.0 if self._trainer is None else self.trainer.global_step / self.total_steps

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # noted at every hook, forty times a step; a module's own way takes far longer
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # ---- training

    def on_fit_start(self) -> None:
        self.hearing.agree()
        for teacher in self.teachers:
            teacher.hold(str(self.trainer.precision))
            teacher.to(self.device)  # they are no submodules, so Lightning does not move them

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        # Lightning refuses to clip for a fused optimizer under any mixed precision, though only float16 is scaled
        known = self._trained or self.parameters()
        norm = torch.nn.utils.clip_grad_norm_([p for p in known if p.grad is not None], self.optim.clip)
        if self._trainer is not None:
            scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
            self.health.judge(norm, optimizer, self.trainer.global_step, scaled)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.micro_step = batch_idx
        reseed(self.seed, "step", batch_idx, distributed.rank())  # dropout: the same in a resumed run

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        plan = batch.plan
        rows = None if plan is None else plan.rows
        kept = batch if rows is None or self.labels_on_all else batch.take(rows)
        loss = self.loss(kept, asked=rows if self.labels_on_all else None, plan=plan)
        self.health.note(loss, kept.rows, kept.real)
        return loss

    def loss(self, batch: Batch, alone: bool = False, asked: Tensor | None = None, plan: Plan | None = None) -> Tensor:
        """The distillation loss on every row of `batch`, a scalar with gradient.

        Scaled so that the mean of it over ranks is the mean over the global batch. `alone`: of this rank's rows only,
        with no word to other ranks or to the ledger (probes). `asked`: the rows (k,) that the teachers are asked about,
        while labels are learnt on all of them (None: all rows). `plan`: the rules of adoption and weighing.
        """
        meter = None if alone else self.ledger
        plan = plan or Plan()
        terms = self.trained_by
        wanted = wanted_by(terms.values(), self.student.per_row)
        taught = {name: w for name, w in terms.items() if queries_teacher(w.term)}
        query, heard, index = batch, [], None
        with _time(meter, "student_forward"):
            shown = seen = self.student.encode(batch, wanted)
            if asked is not None:
                index = asked if len(asked) else torch.zeros_like(batch.rows[:1])  # no row: one that does not count
                query = batch.take(index)
                query.real = query.real & bool(len(asked))
                seen = shown.take(index, query.input_ids.shape[1])
        with _time(meter, self.hearing.spends):
            if taught:
                heard, heed = self.hearing.hear(plan.adopt, query, seen, wanted, meter is not None, alone, not alone)
            else:
                heed = torch.zeros(len(query), 0, device=query.rows.device)
        with _time(meter, "student_forward"):
            scales = self.rules.scales(plan.weigh, query, seen, heard, heed, self.progress, self._draws(), alone)
            mixed = plan.adopt is not None and marks_of(plan.adopt).mixes == "answers"
            if index is None:
                total, self.report = self.objective(terms, batch, shown, heard, scales, mixed, alone)
            else:
                own = {name: w for name, w in terms.items() if name not in taught}
                spread = {name: torch.ones(len(batch)).to(s).index_copy(0, index, s) for name, s in scales.items()}
                labels, first = self.objective(own, batch, shown, (), spread, alone=alone)
                soft, second = self.objective(taught, query, seen, heard, scales, mixed, alone)
                total = labels + soft
                self.report = {**first, **second, "loss": total.detach()}
        if not alone:
            self.rules.note(terms, heed, query, seen, heard)
        if meter is not None:
            self.spending.step(meter, terms, batch, heard, wanted)
            theirs = plan.adopt is not None and "teachers" in marks_of(plan.adopt).needs
            doubted = self.hearing.doubted
            self.spending.doubts(meter, query, doubted, seen.uncertainty is not None, heard if theirs else ())
        return total

    def _draws(self) -> torch.Generator:
        return generator(self.seed, "weigh", self.micro_step)

    def cost(self, batch: Batch) -> tuple[int, int]:
        """FLOPs of one forward of plain distillation on `batch`, the student's and the teachers', heads included, of the
        tokens that are run (padding too, where there is some)."""
        return self.spending.plain(self.trained_by.values(), batch)

    def configure_optimizers(self) -> Any:
        self._trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self._trained if p.ndim >= 2], "weight_decay": self.optim.weight_decay},
            {"params": [p for p in self._trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=self.optim.lr, betas=self.optim.betas, eps=self.optim.eps, fused=self.optim.fused
        )

        def factor(step: int) -> float:
            return self.optim.factor(step, self.total_steps)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- what the student shows, for selection strategies

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """No gradient, no dropout, the trainer's precision: how the student is scored, observed and evaluated."""
        training = self.student.training
        self.student.eval()
        try:
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                yield
        finally:
            self.student.train(training)

    def metered(self, part: str) -> contextlib.AbstractContextManager[None]:
        """Seconds of the block go to `part` of the ledger."""
        return _time(self.ledger, part)

    def spent(self, part: str, amount: int) -> None:
        """FLOPs that go to `part` of the ledger."""
        if self.ledger is not None and part:
            self.ledger.flops(part, amount)

    def answer(self, batch: Batch, count: bool = True) -> list[TeacherAnswer]:
        """What plain distillation's teachers show for `batch`; `count` False: the ledger has these already."""
        wanted = wanted_by(self.terms.values(), self.student.per_row)  # also what counts later: it is kept
        with self.metered(self.hearing.spends), self.quiet():
            heard = self.hearing.hear(None, batch, Outputs(), wanted, count, alone=True)[0]
        if count:
            self.spent("teacher_forward", self.spending.answers(self.trained_by.values(), heard, wanted))
        return heard

    def show(self, batch: Batch, part: str = "", wanted: frozenset[str] = frozenset()) -> Outputs:
        """What the student's layers make of `batch`; call within `quiet`. FLOPs go to `part`, if named."""
        self.spent(part, self.spending.layers(batch, wanted))  # the head runs when it is asked
        return self.student.encode(batch, wanted)

    def evidence(self, batch: Batch, shown: Outputs, part: str = "") -> Iterator[Evidence]:
        """Evidence with logits for a few rows at a time, so that at most `chunk` units have logits at one moment. In
        masked-LM its features are those of `shown` with "hidden" wanted."""
        if self.student.per_row:
            every = torch.arange(len(batch), device=batch.rows.device)
            vectors = self.student.vectors(shown, every, every)
            self.spent(part, self.spending.head(len(batch)))
            logits = self.student.project(vectors)
            yield Evidence(rows=batch.rows, logits=logits, features=vectors, labels=batch.labels)
            return
        hidden, features = shown.hidden, self.student.features(shown)
        assert hidden is not None
        order, exists = batch.label_places()  # where none exists, token 0, whose hidden state is always there
        widest = order.shape[1]
        step = max(1, self.chunk // widest)
        for start in range(0, len(batch), step):
            some = slice(start, start + step)
            vectors = hidden[some].gather(1, order[some].unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            self.spent(part, self.spending.head(vectors.shape[0] * widest))
            yield Evidence(
                rows=batch.rows[some],
                logits=self.student.project(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2]),
                features=features[some],
                labels=batch.labels[some].gather(1, order[some]),
                mask=exists[some],
            )

    # ---- evaluation

    def measure(self, batches: Iterable[Batch], part: str = "", teacher: Teacher | None = None) -> dict[str, float]:
        """The scores (`self.score`) of the student, or of a teacher, over this rank's `batches`, exact over all ranks.

        FLOPs go to `part`, if named.
        """
        with self.quiet():
            return self.score(
                teacher.encoder if teacher else self.student,
                teacher.over(batches) if teacher else batches,
                self.device,
                lambda batch, units: self.spent(part, self.spending.layers(batch) + self.spending.head(units)),
                teacher.project if teacher else None,
            )

    def distillation_loss(self, batches: Iterable[tuple[Batch, Sequence[TeacherAnswer]]], part: str = "") -> float:
        """Mean distillation loss over batches and what teachers said of them, without gradient, over all ranks."""
        sums = torch.zeros(2, dtype=torch.float64)
        terms = self.trained_by
        wanted = wanted_by(terms.values(), self.student.per_row)
        with self.quiet():
            for batch, heard in batches:
                value, _ = self.objective(terms, batch, self.show(batch, part, wanted), heard, alone=True)
                sums += torch.tensor([float(value) * len(batch), len(batch)], dtype=torch.float64)
        total, count = distributed.all_sum(sums).tolist()
        return total / count

    # ---- what the last step reported survives a resume

    def mean_report(self) -> dict[str, float]:
        """Loss and terms of the last step, as means over the global batch; those that are finite (collective)."""
        if not self.report:
            return {}
        values = distributed.all_sum(torch.stack([v.double() for v in self.report.values()])) / distributed.world()
        return {name: value for name, value in zip(self.report, values.tolist(), strict=True) if math.isfinite(value)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["report"] = self.mean_report()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.report = {name: torch.tensor(value, dtype=torch.float64) for name, value in checkpoint["report"].items()}


@contextlib.contextmanager
def _time(meter: Ledger | None, part: str) -> Iterator[None]:
    if meter is None:
        yield
    else:
        with meter.time(part):
            yield
