"""The distiller: carries a batch's plan out. It knows no paper and no strategy, only rows, units and weighted terms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from kdlab import flops, models, ranks
from kdlab.chunked import chunked_loss
from kdlab.errors import UserError
from kdlab.ledger import Ledger
from kdlab.models import Encoder
from kdlab.seeding import reseed
from kdlab.teacher import Teacher
from kdlab.terms import Term, asks_teacher, label_cross_entropy, on_logits
from kdlab.types import IGNORE, Batch, Evidence, Outputs


@dataclass(frozen=True)
class Weighted:
    """A knowledge term, its fixed weight, and the units it looks at: "masked", "all" real tokens, or "tokens"."""

    term: Term
    weight: float
    at: str = "masked"


@dataclass(frozen=True)
class Optim:
    """AdamW with linear warm-up and linear decay to zero; `warmup` is a share of the steps, `clip` a gradient norm.

    `fused` must be off where gradients are scaled (float16): the fused step would unscale them after they are clipped.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    fused: bool = True


class Distiller(pl.LightningModule):
    """Trains a student on a weighted sum of knowledge terms, on the rows that the batch's plan keeps.

    With label terms alone it needs no teacher, and is ordinary masked-LM training (how teachers are prepared).
    `reduce` "tokens": a term is the mean over the units of all rows (the published scripts' way); "rows": the mean
    over rows of row means. Either way the mean is over all ranks' rows, whatever each rank holds.
    `chunk` bounds how many units have logits over the vocabulary at one moment.
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
    ) -> None:
        super().__init__()
        self.student = student
        self.terms = dict(terms)
        self.optim = optim
        self.total_steps = total_steps
        self.by_rows = reduce == "rows"
        self.seed = seed
        self.chunk = chunk
        self.needs_teacher = any(asks_teacher(w.term) for w in self.terms.values())
        if self.needs_teacher and teacher is None:
            raise UserError("these knowledge terms read a teacher's answer, and there is no teacher")
        self._teacher = (teacher,)  # a tuple, so that it is no submodule: not in checkpoints, not in the optimizer
        self.ledger = ledger
        self.shape = flops.shape_of(student.model.config)
        self.teacher_shape = flops.shape_of(teacher.encoder.model.config) if teacher else None
        self.report: dict[str, Tensor] = {}  # this rank's share of the last step's loss and terms, detached

    @property
    def teacher(self) -> Teacher | None:
        return self._teacher[0]

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
        kept = batch if plan is None or plan.rows is None else batch.take(plan.rows)
        loss = self.loss(kept)
        if ranks.all_any(not bool(torch.isfinite(loss))):
            rows = ranks.gather_rows(kept.rows[kept.real]).tolist()
            raise UserError(
                f"the loss is {float(loss.detach())} at step {self.trainer.global_step}; rows of the batch: {rows}"
            )
        return loss

    def loss(self, batch: Batch, alone: bool = False) -> Tensor:
        """The distillation loss on every row of `batch`, a scalar with gradient.

        Scaled so that the mean of it over ranks is the mean over the global batch. `alone`: of this rank's rows only,
        with no word to other ranks or to the ledger (probes).
        """
        meter = None if alone else self.ledger
        answer = None
        with _time(meter, "student_forward"):
            hidden = self.student.encode(batch.input_ids, batch.attention_mask)
        if self.needs_teacher:
            assert self.teacher is not None
            with _time(meter, "teacher_forward"):
                answer = self.teacher.ask(batch, count=meter is not None)
        with _time(meter, "student_forward"):
            total = self._weigh(batch, hidden, answer, alone)
        if meter is not None:
            self._count(meter, batch)
        return total

    def _weigh(self, batch: Batch, hidden: Tensor, answer: Tensor | None, alone: bool) -> Tensor:
        real = batch.real.to(torch.float32)
        units = {w.at: self._units(batch, w.at) for w in self.terms.values()}  # a dict: all ranks in the same order
        per_row = {at: torch.bincount(u[0], minlength=len(batch)) * real for at, u in units.items()}
        sums = torch.stack([real.sum(), *(n.sum() for n in per_row.values())])
        if not alone:
            sums = ranks.all_sum(sums.double()).to(sums) / ranks.world()  # DDP will take the mean over ranks
        rows, *sizes = sums
        size = dict(zip(per_row, sizes, strict=True))
        # share of one unit in each term's mean; rows that only keep an idle rank in step have none
        share = {
            at: real / (rows.clamp_min(1e-9) * n.clamp_min(1)) if self.by_rows else real / size[at].clamp_min(1e-9)
            for at, n in per_row.items()
        }
        report = {name: hidden.new_zeros((), dtype=torch.float32) for name in self.terms}
        total = hidden.new_zeros((), dtype=torch.float32)
        for at, (row, place) in units.items():
            logit_terms = {name: w for name, w in self.terms.items() if w.at == at and on_logits(w.term)}
            if logit_terms:
                total = total + self._on_logits(logit_terms, batch, hidden, answer, row, place, share[at], report)
        student = Outputs(hidden=hidden, mask=batch.attention_mask)
        teacher = Outputs(hidden=answer, mask=batch.attention_mask)
        for name, w in self.terms.items():
            if not on_logits(w.term):
                value = (w.term(student, teacher) * share[w.at] * per_row[w.at].clamp_min(1)).sum()
                report[name] = value.detach()
                total = total + w.weight * value
        self.report = {"loss": total.detach(), **report}
        return total

    def _on_logits(
        self,
        terms: Mapping[str, Weighted],
        batch: Batch,
        hidden: Tensor,
        answer: Tensor | None,
        row: Tensor,
        place: Tensor,
        share: Tensor,
        report: dict[str, Tensor],
    ) -> Tensor:
        labels = batch.labels[row, place]
        weights = share[row]
        asked = any(asks_teacher(w.term) for w in terms.values())
        told = answer[row, place] if asked and answer is not None else None

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

        vectors = hidden[row, place]
        return chunked_loss(self.student.project, loss_of, vectors, self.student.head_parameters(), self.chunk)

    @staticmethod
    def _units(batch: Batch, at: str) -> tuple[Tensor, Tensor]:
        where = batch.labels != IGNORE if at == "masked" else batch.attention_mask.bool()
        row, place = where.nonzero(as_tuple=True)
        return row, place

    def _count(self, meter: Ledger, batch: Batch) -> None:
        student, teacher = self.cost(batch)
        meter.flops("student_forward", student)
        meter.flops("student_backward", 2 * student)
        meter.flops("teacher_forward", teacher)

    def cost(self, batch: Batch) -> tuple[int, int]:
        """FLOPs of one forward of student and of teacher on `batch`, heads included, at its padded size."""
        at = {w.at for w in self.terms.values() if on_logits(w.term)}
        told = {w.at for w in self.terms.values() if on_logits(w.term) and asks_teacher(w.term)}
        units = {a: int(self._units(batch, a)[0].numel()) for a in at}
        rows, length = batch.input_ids.shape
        student = flops.forward(self.shape, rows, length)
        student += flops.masked_lm_head(self.shape, sum(units.values()))
        teacher = 0
        if self.needs_teacher and self.teacher_shape is not None:
            teacher = flops.forward(self.teacher_shape, rows, length)
            teacher += flops.masked_lm_head(self.teacher_shape, sum(units[a] for a in told))
        return student, teacher

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.optim.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=self.optim.lr, betas=self.optim.betas, eps=self.optim.eps, fused=self.optim.fused
        )
        warmup = max(1, round(self.optim.warmup * self.total_steps))

        def factor(step: int) -> float:
            return min((step + 1) / warmup, max(0.0, (self.total_steps - step) / max(1, self.total_steps - warmup)))

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

    def answer(self, batch: Batch, count: bool = True) -> Tensor:
        """The teacher's last hidden states (k, L, H) for `batch`; `count` False: the ledger has these already."""
        assert self.teacher is not None
        if count:
            self.spent("teacher_forward", self.cost(batch)[1])
        with self.metered("teacher_forward"), self.quiet():
            return self.teacher.ask(batch, count=count)

    def show(self, batch: Batch, part: str = "") -> Tensor:
        """The student's last hidden states (B, L, H) on `batch`; call within `quiet`. FLOPs go to `part`, if named."""
        self.spent(part, flops.forward(self.shape, *batch.input_ids.shape))
        return self.student.encode(batch.input_ids, batch.attention_mask)

    def evidence(self, batch: Batch, hidden: Tensor, part: str = "") -> Iterator[Evidence]:
        """Evidence with logits for a few rows at a time, so that at most `chunk` units have logits at one moment."""
        masked = batch.labels != IGNORE
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
                features=models.features(hidden[some], batch.attention_mask[some]),
                labels=batch.labels[some].gather(1, order[some]),
                mask=exists[some],
            )

    # ---- evaluation

    def task_loss(self, batches: Iterable[Batch], encoder: Encoder | None = None, part: str = "") -> dict[str, float]:
        """Masked-LM loss (nats) and accuracy of the student (or `encoder`) over `batches`, exact over all ranks.

        Each rank passes its own batches; the mean is over all masked positions of all real rows. FLOPs go to `part`.
        """
        with self.quiet():
            return masked_lm_score(
                encoder or self.student,
                batches,
                self.device,
                self.chunk,
                lambda batch, units: self.spent(
                    part, flops.forward(self.shape, *batch.input_ids.shape) + flops.masked_lm_head(self.shape, units)
                ),
            )

    def distillation_loss(self, batches: Iterable[tuple[Batch, Tensor]], part: str = "") -> float:
        """Mean distillation loss over batches and their teacher's answers, without gradient, over all ranks."""
        sums = torch.zeros(2, dtype=torch.float64)
        with self.quiet():
            report = self.report
            for batch, answer in batches:
                value = self._weigh(batch, self.show(batch, part), answer, alone=True)
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


@torch.no_grad()
def masked_lm_score(
    encoder: Encoder,
    batches: Iterable[Batch],
    device: torch.device | None = None,
    chunk: int = 256,
    spent: Callable[[Batch, int], None] = lambda batch, units: None,
) -> dict[str, float]:
    """Masked-LM loss (nats) and accuracy over all masked positions of all real rows, exact over all ranks.

    Each rank passes its own batches. `spent` is told each batch and how many positions were projected.
    UserError where no position is masked.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        batch = batch.to(device or torch.device("cpu"))
        row, place = (batch.labels != IGNORE).nonzero(as_tuple=True)
        row, place = row[batch.real[row]], place[batch.real[row]]
        vectors = encoder.encode(batch.input_ids, batch.attention_mask)[row, place]
        labels = batch.labels[row, place]
        spent(batch, len(labels))
        for start in range(0, len(labels), chunk):
            some = slice(start, start + chunk)
            logits = encoder.project(vectors[some])
            loss = label_cross_entropy(Outputs(logits=logits, labels=labels[some]))
            sums[0] += loss.sum().double().cpu()
            sums[1] += (logits.argmax(-1) == labels[some]).sum().cpu()
            sums[2] += len(loss)
    loss, right, count = ranks.all_sum(sums).tolist()
    if count == 0:
        raise UserError("nothing to evaluate: no masked position in the held-out text")
    return {"loss": loss / count, "accuracy": right / count}


@contextlib.contextmanager
def _time(meter: Ledger | None, part: str) -> Iterator[None]:
    if meter is None:
        yield
    else:
        with meter.time(part):
            yield
