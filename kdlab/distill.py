"""The distiller: carries a batch's plan out. It knows no paper and no strategy, only rows, units and weighted terms."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from kdlab import attention, flops, ranks
from kdlab.chunked import chunked_loss
from kdlab.errors import UserError
from kdlab.ledger import Ledger
from kdlab.models import Encoder
from kdlab.scoring import MaskedLMScore, Scorer
from kdlab.seeding import reseed
from kdlab.teacher import Teacher
from kdlab.terms import Term, asks_teacher, on_logits, wants
from kdlab.types import Batch, Evidence, Outputs


@dataclass(frozen=True)
class Weighted:
    """A knowledge term, its fixed weight, the units it looks at, and the share of the training in which it counts.

    `at` "labelled": where a label stands (masked positions; rows whose class is known); "all": every unit (each real
    token; each row); "tokens": each row weighs as many as its real tokens. From `since` to before `until`, shares of
    the steps.
    """

    term: Term
    weight: float
    at: str = "labelled"
    since: float = 0.0
    until: float = 1.0


@dataclass(frozen=True)
class Optim:
    """AdamW with linear warm-up and linear decay to zero; `warmup` is a share of the steps, `clip` a gradient norm.

    `restarts` are shares of the training at which the schedule begins anew (the phases of TinyBERT). `fused` must be
    off where gradients are scaled (float16): the fused step would unscale them after they are clipped.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    fused: bool = True
    restarts: tuple[float, ...] = ()

    def factor(self, step: int, total_steps: int) -> float:
        """The learning rate at `step`, as a share of `lr`."""
        # the first step n with n / total_steps >= share, as terms decide it
        begins = (
            bisect.bisect_left(range(total_steps), share, key=lambda n: n / total_steps) for share in self.restarts
        )
        bounds = sorted({0, *begins, total_steps})
        start = max(bound for bound in bounds[:-1] if bound <= step)
        steps = min(bound for bound in bounds[1:] if bound > start) - start
        warmup = max(1, round(self.warmup * steps))
        step -= start
        return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))


class Distiller(pl.LightningModule):
    """Trains a student on a weighted sum of knowledge terms, on the rows that the batch's plan keeps.

    With label terms alone it needs no teacher, and is ordinary training (how teachers are prepared and fine-tuned).
    `reduce` "tokens": a term is the mean over the units of all rows (the published scripts' way); "rows": the mean
    over rows of row means. Either way the mean is over all ranks' rows, whatever each rank holds. `labels_on` "all":
    the labels of rows that the plan leaves out are learnt as well (Dynamic KD's public code). `score` measures a model.
    Where student and teacher differ in width, learnt projections carry the student's states over (TinyBERT Eq. 8, 9).
    `chunk` bounds how many units have logits over a vocabulary at one moment.
    """

    def __init__(
        self,
        student: Encoder,
        terms: Mapping[str, Weighted],
        optim: Optim,
        total_steps: int,
        teacher: Teacher | None = None,
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
        self.by_rows = reduce == "rows"
        self.labels_on_all = labels_on == "all"
        self.seed = seed
        self.chunk = chunk
        self.score = score or MaskedLMScore(chunk)
        self.needs_teacher = any(asks_teacher(w.term) for w in self.terms.values())
        if self.needs_teacher and teacher is None:
            raise UserError("these knowledge terms read a teacher's answer, and there is no teacher")
        self._teacher = (teacher,)  # a tuple, so that it is no submodule: not in checkpoints, not in the optimizer
        self.ledger = ledger
        self.shape = shape_of(student)
        self.teacher_shape = shape_of(teacher.encoder) if teacher else None
        self.report: dict[str, Tensor] = {}  # this rank's share of the last step's loss and terms, detached
        self.bridges = nn.ModuleDict()
        if self.needs_teacher and teacher is not None:
            self._meet(student, teacher)

    def _meet(self, student: Encoder, teacher: Teacher) -> None:
        """Make student and teacher comparable where terms read more than logits."""
        read = frozenset().union(*(wants(w.term) for w in self.terms.values()))
        if read & {"scores", "values"}:
            attention.prepare(student.model)
            attention.prepare(teacher.encoder.model)
        widths = self.shape.hidden, flops.shape_of(teacher.encoder.model.config).hidden
        if widths[0] != widths[1] and any(not on_logits(w.term) for w in self.terms.values()):
            reseed(self.seed, "projections")
            self.bridges["states"] = nn.Linear(*widths)
            if "states" in read:
                self.bridges["embeddings"] = nn.Linear(*widths)

    @property
    def teacher(self) -> Teacher | None:
        return self._teacher[0]

    @property
    def phased(self) -> bool:
        """Whether some parameters may have no gradient in some steps."""
        logits = [w for w in self.terms.values() if on_logits(w.term)]
        return bool(self.bridges) or not any((w.since, w.until) == (0.0, 1.0) for w in logits)

    @property
    def trained_by(self) -> dict[str, Weighted]:
        """The terms that count at this step."""
        if all((w.since, w.until) == (0.0, 1.0) for w in self.terms.values()):
            return self.terms
        progress = self.trainer.global_step / self.total_steps
        return {name: w for name, w in self.terms.items() if w.since <= progress < w.until}

    # ---- training

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)  # it is no submodule, so Lightning does not move it

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        # Lightning refuses to clip for a fused optimizer under any mixed precision, though only float16 is scaled
        torch.nn.utils.clip_grad_norm_([p for p in self.parameters() if p.grad is not None], self.optim.clip)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        reseed(self.seed, "step", batch_idx, ranks.rank())  # dropout: the same in a resumed run

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        plan = batch.plan
        rows = None if plan is None else plan.rows
        kept = batch if rows is None or self.labels_on_all else batch.take(rows)
        loss = self.loss(kept, asked=rows if self.labels_on_all else None)
        if ranks.all_any(not bool(torch.isfinite(loss))):
            found = ranks.gather_rows(kept.rows[kept.real]).tolist()
            raise UserError(
                f"the loss is {float(loss.detach())} at step {self.trainer.global_step}; rows of the batch: {found}"
            )
        return loss

    def loss(self, batch: Batch, alone: bool = False, asked: Tensor | None = None) -> Tensor:
        """The distillation loss on every row of `batch`, a scalar with gradient.

        Scaled so that the mean of it over ranks is the mean over the global batch. `alone`: of this rank's rows only,
        with no word to other ranks or to the ledger (probes). `asked`: the rows (k,) that the teacher is asked about,
        while labels are learnt on all of them (None: all rows).
        """
        meter = None if alone else self.ledger
        terms = self.trained_by
        wanted = frozenset().union(*(wants(w.term) for w in terms.values()))
        taught = {name: w for name, w in terms.items() if asks_teacher(w.term)}
        query, report, answer = batch, {}, None
        with _time(meter, "student_forward"):
            shown = self.student.encode(batch, wanted)
            total = batch.attention_mask.new_zeros((), dtype=torch.float32)
            if asked is not None:
                own = {name: w for name, w in terms.items() if name not in taught}
                total = self._weigh(own, batch, shown, None, alone)
                report, terms = self.report, taught
                some = asked if len(asked) else torch.zeros_like(batch.rows[:1])  # no row: one that does not count
                query = batch.take(some)
                query.real = query.real & bool(len(asked))
                shown = shown.take(some, query.input_ids.shape[1])
        if taught:
            assert self.teacher is not None
            with _time(meter, "teacher_forward"):
                answer = self.teacher.ask(query, count=meter is not None, wants=wanted)
        with _time(meter, "student_forward"):
            total = total + self._weigh(terms, query, shown, answer, alone)
        self.report = {**report, **self.report, "loss": total.detach()}
        if meter is not None:
            student, teacher = self.cost(batch, query)
            meter.flops("student_forward", student)
            meter.flops("student_backward", 2 * student)
            meter.flops("teacher_forward", teacher)
        return total

    def _weigh(
        self, terms: Mapping[str, Weighted], batch: Batch, shown: Outputs, answer: Outputs | None, alone: bool
    ) -> Tensor:
        hidden = shown.hidden
        assert hidden is not None
        real = batch.real.to(torch.float32)
        units = {w.at: self._units(batch, w.at) for w in terms.values()}  # a dict: all ranks in the same order
        per_row = {at: torch.bincount(u[0], minlength=len(batch)) * real for at, u in units.items()}
        # rows that have such a unit at all: the labels of augmented rows are unknown
        counted = {at: (n > 0).sum() for at, n in per_row.items()}
        sums = torch.stack([real.sum(), *(n.sum() for n in per_row.values()), *(n.to(real) for n in counted.values())])
        if not alone:
            sums = ranks.all_sum(sums.double()).to(sums) / ranks.world()  # DDP will take the mean over ranks
        sizes = dict(zip(per_row, sums[1 : 1 + len(per_row)], strict=True))
        rows = dict(zip(per_row, sums[1 + len(per_row) :], strict=True))
        # share of one unit in each term's mean; rows that only keep an idle rank in step have none
        share = {
            at: real / (rows[at].clamp_min(1e-9) * n.clamp_min(1)) if self.by_rows else real / sizes[at].clamp_min(1e-9)
            for at, n in per_row.items()
        }
        report = {name: hidden.new_zeros((), dtype=torch.float32) for name in terms}
        total = hidden.new_zeros((), dtype=torch.float32)
        for at, (row, place) in units.items():
            logit_terms = {name: w for name, w in terms.items() if w.at == at and on_logits(w.term)}
            if logit_terms:
                total = total + self._on_logits(logit_terms, batch, shown, answer, row, place, share[at], report)
        student = self._bridged(shown) if any(not on_logits(w.term) for w in terms.values()) else shown
        for name, w in terms.items():
            if not on_logits(w.term):
                value = (w.term(student, answer) * share[w.at] * per_row[w.at]).sum()
                report[name] = value.detach()
                total = total + w.weight * value
        self.report = {"loss": total.detach(), **report}
        return total

    def _bridged(self, shown: Outputs) -> Outputs:
        if not self.bridges:
            return shown
        states = shown.states
        if states is not None:
            states = (self.bridges["embeddings"](states[0]), *(self.bridges["states"](state) for state in states[1:]))
        return replace(shown, hidden=self.bridges["states"](shown.hidden), states=states)

    def _on_logits(
        self,
        terms: Mapping[str, Weighted],
        batch: Batch,
        shown: Outputs,
        answer: Outputs | None,
        row: Tensor,
        place: Tensor,
        share: Tensor,
        report: dict[str, Tensor],
    ) -> Tensor:
        labels = batch.labels[row] if self.student.per_row else batch.labels[row, place]
        weights = share[row]
        told = None
        if answer is not None and self.teacher is not None and any(asks_teacher(w.term) for w in terms.values()):
            told = self.teacher.encoder.vectors(answer, row, place)

        def loss_of(logits: Tensor, chunk: slice) -> Tensor:
            student = Outputs(logits=logits, labels=labels[chunk])
            teacher = None
            if told is not None and self.teacher is not None:
                teacher = Outputs(logits=self.teacher.project(told[chunk]))
            loss = logits.new_zeros((), dtype=torch.float32)
            for name, w in terms.items():
                value = (w.term(student, teacher) * weights[chunk]).sum()
                report[name] += value.detach()
                loss = loss + w.weight * value
            return loss

        vectors = self.student.vectors(shown, row, place)
        parameters = self.student.head_parameters()
        return chunked_loss(self.student.project, loss_of, vectors, parameters, self.chunk, self._piece)

    @property
    def _piece(self) -> int:
        """How many units' logits the terms are given at once: few of a vocabulary, many of some classes."""
        return max(32, 2**20 // (self.shape.outputs or self.shape.vocab))

    @staticmethod
    def _units(batch: Batch, at: str) -> tuple[Tensor, Tensor]:
        """Row and token (U,) of each unit; a row's own unit stands at its first token."""
        if batch.labels.ndim == 1 and at != "tokens":
            rows = torch.arange(len(batch), device=batch.rows.device)
            rows = rows[batch.labelled()] if at == "labelled" else rows
            return rows, torch.zeros_like(rows)
        row, place = (batch.labelled() if at == "labelled" else batch.attention_mask.bool()).nonzero(as_tuple=True)
        return row, place

    def cost(self, batch: Batch, query: Batch | None = None) -> tuple[int, int]:
        """FLOPs of one forward of the student on `batch`, and of the teacher on `query` (None: the same rows), heads
        included, at their padded size."""
        query = query or batch
        terms = self.trained_by.values()
        at = {w.at for w in terms if on_logits(w.term)}
        told = {w.at for w in terms if on_logits(w.term) and asks_teacher(w.term)}
        student = self._forward(self.shape, batch, at)
        asked = self.teacher_shape is not None and any(asks_teacher(w.term) for w in terms)
        return student, self._forward(self.teacher_shape, query, told) if asked and self.teacher_shape else 0

    def _forward(self, shape: flops.Shape, batch: Batch, at: Iterable[str]) -> int:
        found = flops.forward(shape, *batch.input_ids.shape)
        if self.student.per_row:
            return found
        return found + flops.masked_lm_head(shape, sum(int(self._units(batch, a)[0].numel()) for a in at))

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.optim.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
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

    def answer(self, batch: Batch, count: bool = True) -> Outputs:
        """What the teacher shows for `batch`; `count` False: the ledger has these already."""
        assert self.teacher is not None
        if count:
            self.spent("teacher_forward", self.cost(batch)[1])
        wanted = frozenset().union(*(wants(w.term) for w in self.terms.values()))  # also what counts later: it is kept
        with self.metered("teacher_forward"), self.quiet():
            return self.teacher.ask(batch, count=count, wants=wanted)

    def show(self, batch: Batch, part: str = "", wanted: frozenset[str] = frozenset()) -> Outputs:
        """What the student's layers make of `batch`; call within `quiet`. FLOPs go to `part`, if named."""
        shape = replace(self.shape, outputs=None)  # the head runs when it is asked for logits
        self.spent(part, flops.forward(shape, *batch.input_ids.shape))
        return self.student.encode(batch, wanted)

    def evidence(self, batch: Batch, shown: Outputs, part: str = "") -> Iterator[Evidence]:
        """Evidence with logits for a few rows at a time, so that at most `chunk` units have logits at one moment."""
        if self.student.per_row:
            every = torch.arange(len(batch), device=batch.rows.device)
            vectors = self.student.vectors(shown, every, every)
            self.spent(part, flops.classifier_head(self.shape, len(batch), self.shape.outputs or 1))
            yield Evidence(logits=self.student.project(vectors), features=vectors, labels=batch.labels)
            return
        hidden, features = shown.hidden, self.student.features(shown)
        assert hidden is not None
        masked = batch.labelled()
        counts = masked.sum(1)
        widest = max(1, int(counts.max()))
        order = masked.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :widest]
        exists = torch.arange(widest, device=order.device) < counts.unsqueeze(1)
        step = max(1, self.chunk // widest)
        for start in range(0, len(batch), step):
            some = slice(start, start + step)
            vectors = hidden[some].gather(1, order[some].unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            self.spent(part, flops.masked_lm_head(self.shape, vectors.shape[0] * widest))
            yield Evidence(
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
                batches,
                self.device,
                lambda batch, units: self.spent(part, self._scored(batch, units)),
                teacher.project if teacher else None,
            )

    def _scored(self, batch: Batch, units: int) -> int:
        found = flops.forward(self.shape, *batch.input_ids.shape)
        return found if self.student.per_row else found + flops.masked_lm_head(self.shape, units)

    def distillation_loss(self, batches: Iterable[tuple[Batch, Outputs]], part: str = "") -> float:
        """Mean distillation loss over batches and their teacher's answers, without gradient, over all ranks."""
        sums = torch.zeros(2, dtype=torch.float64)
        terms = self.trained_by
        wanted = frozenset().union(*(wants(w.term) for w in terms.values()))
        with self.quiet():
            report = self.report
            for batch, answer in batches:
                value = self._weigh(terms, batch, self.show(batch, part, wanted), answer, alone=True)
                sums += torch.tensor([float(value) * len(batch), len(batch)], dtype=torch.float64)
            self.report = report
        total, count = ranks.all_sum(sums).tolist()
        return total / count

    # ---- what the last step reported survives a resume

    def mean_report(self) -> dict[str, float]:
        """Loss and terms of the last step, as means over the global batch (collective)."""
        if not self.report:
            return {}
        values = ranks.all_sum(torch.stack([v.double() for v in self.report.values()])) / ranks.world()
        return dict(zip(self.report, values.tolist(), strict=True))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["report"] = self.mean_report()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.report = {name: torch.tensor(value, dtype=torch.float64) for name, value in checkpoint["report"].items()}


def shape_of(encoder: Encoder) -> flops.Shape:
    """What the FLOPs of an encoder depend on, its classifier included where it has one."""
    return flops.shape_of(encoder.model.config, encoder.model.config.num_labels if encoder.per_row else None)


@contextlib.contextmanager
def _time(meter: Ledger | None, part: str) -> Iterator[None]:
    if meter is None:
        yield
    else:
        with meter.time(part):
            yield
