"""Distillation steps that benchmarks compare: kdlab's own, and a plain loop on transformers models.

All have the same student, teacher, dropout, trained embeddings and AdamW; random weights; bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from kdlab.methods.knowledge import logits as terms
from kdlab.methods.selection import strategies
from kdlab.methods.selection.top_k import top_k
from kdlab.models.encoder import Encoder
from kdlab.models.student import freeze
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Evidence


@dataclass(frozen=True)
class Sizes:
    """Sizes of the models: width, layers of student and teacher, words; a head for every 32 of the width. `freeze`: parts of
    the student that are not trained; `device`: where they run."""

    hidden: int = 384
    student: int = 3
    teacher: int = 6
    vocab: int = 30522
    freeze: tuple[str, ...] = ()
    dropout: float = 0.1
    device: str = "cpu"

    @classmethod
    def of(cls, arguments: argparse.Namespace, device: str = "cpu") -> Sizes:
        student, teacher = (int(n) for n in arguments.layers.split(","))
        freeze = tuple(arguments.freeze)
        return cls(arguments.hidden, student, teacher, arguments.vocab, freeze, arguments.dropout, device)

    def config(self, layers: int) -> transformers.BertConfig:
        return transformers.BertConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=layers,
            num_attention_heads=self.hidden // 32,
            intermediate_size=4 * self.hidden,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            num_labels=2,  # pyright: ignore[reportCallIssue]
        )

    def built(self) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]:
        """A student to train and a frozen teacher, the same at each call."""
        torch.manual_seed(0)
        made = transformers.AutoModelForSequenceClassification.from_config
        student, teacher = (made(self.config(layers)).to(self.device) for layers in (self.student, self.teacher))
        freeze(student, self.freeze)
        return student.train(), teacher.eval().requires_grad_(False)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16)


def soft(s: Tensor, t: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(s.float(), -1), F.log_softmax(t.float(), -1), reduction="batchmean", log_target=True)


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
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class Ours:
    """kdlab's own kernels in a loop without Lightning: label and soft cross-entropy, the teacher held in bfloat16."""

    def __init__(self, sizes: Sizes, execution: str = "packed") -> None:
        self.sizes = sizes
        self.student, teacher = sizes.built()
        self.encoder = Encoder(self.student, execution)
        told = Teacher("teacher", Encoder(teacher, execution)).hold("bf16-mixed").to(torch.device(sizes.device))
        knowledge = {
            "label": WeightedTerm(terms.label_cross_entropy, 0.5),
            "soft": WeightedTerm(functools.partial(terms.soft_cross_entropy, temperature=1.0), 0.5, "all"),
        }
        self.module = StudentModule(self.encoder, knowledge, OptimizerSettings(lr=1e-5), 10**6, [told])
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

    def best(self, b: Batch, ratio: float) -> Batch:
        """The most uncertain rows of `b`."""
        return b.take(top_k(strategies.entropy(self.evidence(b)), ratio))

    def learn(self, b: Batch) -> None:
        """Forward, teacher, backward and update on every row of `b`."""
        with self.sizes.autocast():
            loss = self.module.loss(b, local=True)
        loss.backward()
        self.update()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def select(self, b: Batch, ratio: float) -> None:
        """Look at all rows, learn from the best: in-batch selection, or, where `b` is a pool, pooled."""
        self.learn(self.best(b, ratio))

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
