"""Distillation steps that benchmarks compare: kdlab's own, and a plain loop on transformers models.

All have the same student, teacher, dropout, trained embeddings and AdamW; random weights; bfloat16 autocast, unless models
are made with another precision.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from kdlab.methods.knowledge import logits as terms
from kdlab.methods.selection import strategies
from kdlab.methods.selection.candidates import candidates
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.models.attention import varlen
from kdlab.models.encoder import Encoder
from kdlab.models.student import freeze
from kdlab.modules.evidence.outputs import evidence_of
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Evidence

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits of student and teacher, labels -> mean


class Models(Protocol):
    """A student and a teacher, where and in which precision (Lightning's name) they run, and what the student learns."""

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def built(self) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]: ...

    def autocast(self) -> contextlib.AbstractContextManager[Any]: ...

    def knowledge(self) -> dict[str, WeightedTerm]: ...


@dataclass(frozen=True)
class Sizes:
    """Sizes of the models: width, layers of student and teacher, words, width of an attention head. `freeze`: parts of
    the student that are not trained; `device`: where they run; `masked_lm`: they predict masked tokens, not two classes;
    `attention_dropout`: of attention weights (None: `dropout`)."""

    hidden: int = 384
    student: int = 3
    teacher: int = 6
    vocab: int = 30522
    freeze: tuple[str, ...] = ()
    dropout: float = 0.1
    device: str = "cpu"
    head_width: int = 32
    masked_lm: bool = False
    attention_dropout: float | None = None
    precision: str = "bf16-mixed"

    @classmethod
    def of(cls, arguments: argparse.Namespace, device: str = "cpu") -> Sizes:
        student, teacher = (int(n) for n in arguments.layers.split(","))
        freeze = tuple(arguments.freeze)
        dropout, width, attention = arguments.dropout, arguments.head_width, arguments.attention_dropout
        made = cls(arguments.hidden, student, teacher, arguments.vocab, freeze, dropout, device, width)
        return replace(made, attention_dropout=attention)

    def config(self, layers: int) -> transformers.BertConfig:
        return transformers.BertConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=layers,
            num_attention_heads=self.hidden // self.head_width,
            intermediate_size=4 * self.hidden,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout if self.attention_dropout is None else self.attention_dropout,
            num_labels=2,  # pyright: ignore[reportCallIssue]
        )

    def built(self) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]:
        """A student to train and a frozen teacher, the same at each call."""
        torch.manual_seed(0)
        kind = transformers.AutoModelForMaskedLM if self.masked_lm else transformers.AutoModelForSequenceClassification
        made = kind.from_config
        student, teacher = (made(self.config(layers)).to(self.device) for layers in (self.student, self.teacher))
        freeze(student, self.freeze)
        return student.train(), teacher.eval().requires_grad_(False)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def knowledge(self) -> dict[str, WeightedTerm]:
        return {
            "label": WeightedTerm(terms.label_cross_entropy, 0.5),
            "soft": WeightedTerm(
                functools.partial(terms.soft_cross_entropy, temperature=1.0),
                0.5,
                "labelled" if self.masked_lm else "all",
            ),
        }


def fastest_execution(device: str) -> str:
    """The execution mode without padding that kdlab's runs take on a device."""
    return "varlen" if varlen.available(torch.device(device)) else "packed"


def soft(s: Tensor, t: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(s.float(), -1), F.log_softmax(t.float(), -1), reduction="batchmean", log_target=True)


def label_and_soft(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Half of the labels' cross-entropy, half of the divergence from the teacher; logits (n, C), labels (n,)."""
    return 0.5 * F.cross_entropy(s.float(), labels) + 0.5 * soft(s, t)


def updated(trained: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    """Take the step of the optimizer, with clipping; the loss before it."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def looped(models: Models, loss_of: Loss, fused: bool | None = None) -> Callable[[Batch], float]:
    """The step as one writes it with transformers: the whole padded batch; `fused`: AdamW's kernel (None: torch's default)."""
    student, teacher = models.built()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=fused)

    def step(b: Batch) -> float:
        with models.autocast():
            given = {"input_ids": b.input_ids, "attention_mask": b.attention_mask}
            logits = student(**given).logits
            with torch.no_grad():
                told = teacher(**given).logits
            loss = loss_of(logits, told, b.labels)
        return updated(student, optimizer, loss)

    return step


def plain(sizes: Sizes, ratio: float = 1.0) -> Callable[[Batch], None]:
    """The step as public code has it: student forward and backward on the whole padded batch; below ratio 1 ("reference")
    the teacher answers for the most uncertain rows alone."""
    student, teacher = sizes.built()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)

    def step(b: Batch) -> None:
        with sizes.autocast():
            logits = student(input_ids=b.input_ids, attention_mask=b.attention_mask).logits
            asked = b
            if ratio < 1:
                scores = torch.special.entr(logits.detach().float().softmax(-1)).sum(-1)
                rows = scores.topk(max(1, round(ratio * len(scores)))).indices
                asked = Batch(rows, 0, b.input_ids[rows], b.attention_mask[rows], b.labels[rows], b.real[rows])
            with torch.no_grad():
                told = teacher(input_ids=asked.input_ids, attention_mask=asked.attention_mask).logits
            mine = logits if asked is b else logits[asked.rows]
            loss = 0.5 * F.cross_entropy(logits.float(), b.labels) + 0.5 * soft(mine, told)
        updated(student, optimizer, loss)

    return step


class Ours:
    """kdlab's own kernels in a loop without Lightning, the teacher held in the precision of the training."""

    def __init__(self, sizes: Models, execution: str = "packed") -> None:
        self.sizes = sizes
        self.student, teacher = sizes.built()
        self.encoder = Encoder(self.student, execution)
        told = Teacher("teacher", Encoder(teacher, execution)).hold(sizes.precision).to(torch.device(sizes.device))
        self.module = StudentModule(self.encoder, sizes.knowledge(), OptimizerSettings(lr=1e-5), 10**6, [told])
        self.optimizer = self.module.configure_optimizers()["optimizer"]

    def evidence(self, b: Batch) -> Evidence:
        """The student's evidence of every row, without gradient and dropout."""
        self.student.eval()
        with torch.no_grad(), self.sizes.autocast():
            every = torch.arange(len(b), device=b.rows.device)
            vectors = self.encoder.vectors(self.encoder.encode(b), every, every)
            shown = Evidence(logits=self.encoder.project(vectors), features=vectors, labels=b.labels)
        self.student.train()
        return shown

    def scores(self, b: Batch, count: Callable[[int], None] = lambda units: None) -> Tensor:
        """The entropy (N,) of every row of `b`, of text too; `count` receives the units of each run of the head."""
        self.student.eval()
        with torch.no_grad(), self.sizes.autocast():
            shown = evidence_of(self.encoder, b, self.encoder.encode(b), self.module.chunk, count)
            found = torch.cat([strategies.entropy(part) for part in shown])
        self.student.train()
        return found

    @staticmethod
    def drawn(b: Batch, ratio: float, look: float) -> Batch:
        """The rows of `b` that are scored where `ratio` of them are learnt: a random share `look`, or all."""
        return (
            b if look == 1 else b.take(candidates(len(b), look, selection_size(len(b), ratio), torch.default_generator))
        )

    def best(self, b: Batch, ratio: float, look: float = 1.0) -> Batch:
        """The most uncertain rows of `b`, among those that are scored."""
        drawn = self.drawn(b, ratio, look)
        return drawn.take(top_k(self.scores(drawn), ratio, len(b)))

    def learn(self, b: Batch) -> float:
        """Forward, teacher, backward and update on every row of `b`; the loss before the update."""
        with self.sizes.autocast():
            loss = self.module.loss(b, local=True)
        return updated(self.module, self.optimizer, loss)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def select(self, b: Batch, ratio: float, look: float = 1.0) -> None:
        """Look at the rows, or at a share of them, learn from the best: in-batch selection, or, where `b` is a pool, pooled."""
        self.learn(self.best(b, ratio, look))

    def phases(self, b: Batch) -> dict[str, float]:
        """Seconds of the phases of one step on all rows of `b`, by the ledger's names, and of scoring them."""
        ledger = Ledger(len(b))
        with ledger.time("scoring"):
            strategies.entropy(self.evidence(b))
        self.module.ledger = ledger
        with self.sizes.autocast():
            loss = self.module.loss(b)
        self.module.ledger = None
        with ledger.time("student_backward"):
            loss.backward()
        with ledger.time("optimizer"):
            self.update()
        return ledger.totals()["seconds"]
