"""Knowledge terms: what a student learns from, each a pure function (student, teacher) to one number a unit or row.

Terms on logits, here, give (U,), one number a unit (a masked position, or a classified row); all others give (k,), one
number a row: means over a row's real tokens and heads, sums over layers as in the papers (`kdlab.methods.knowledge.hidden_states`,
`kdlab.methods.knowledge.attention`). Terms that read all teachers at once and learn projections are modules (`kdlab.methods.knowledge.joint`).
The distiller weights, averages and adds them, in one place. Everything is computed in float32; the teacher's answer
comes detached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdlab.errors import UserError
from kdlab.types import Outputs

Term = Callable[..., Tensor]


def reads(
    *on: str, teacher: bool = True, chooses: Callable[[Outputs, Outputs], Tensor] | None = None
) -> Callable[[Term], Term]:
    """Mark what a term reads: `on` fields of Outputs, and whether it needs the teacher's answer.

    `chooses`: for a term that chooses among the teacher's N layers, (student, teacher) -> (k, N) bool, which of them
    each row learns from.
    """

    def mark(term: Term) -> Term:
        term.on, term.teacher, term.chooses = frozenset(on), teacher, chooses  # pyright: ignore
        return term

    return mark


def function_of(term: Any) -> Any:
    """The function (or module) below partials, which carries a term's marks."""
    return function_of(term.func) if isinstance(term, functools.partial) else term


def is_joint(term: Term) -> bool:
    """Whether a term reads the answers of all teachers at once, and has learnt parameters (`kdlab.methods.knowledge.joint`)."""
    return getattr(function_of(term), "joint", False)


def on_logits(term: Term) -> bool:
    """Whether a term (or a partial of one) gives one number a unit; otherwise it gives one a row."""
    return "logits" in function_of(term).on


def asks_teacher(term: Term) -> bool:
    """Whether a term (or a partial of one) reads the teacher's answer."""
    return function_of(term).teacher


def wants(term: Term) -> frozenset[str]:
    """What a term (or a partial of one) reads besides logits: of "hidden", "states", "scores", "values"."""
    return function_of(term).on - {"logits"}


# ---- on logits: (U,)


@reads("logits")
def soft_cross_entropy(student: Outputs, teacher: Outputs, temperature: float = 1.0) -> Tensor:
    """temperature^2 * KL(softmax(t / temperature) || softmax(s / temperature)), (U,), in nats.

    Hinton et al. 2015; CE_soft of DistilBERT's published script, which takes the divergence (the teacher's entropy is
    a constant for the student). Logits (U, C) of both. Raises UserError for C = 1, where it would always be 0.
    """
    if student.logits.shape[-1] < 2:  # pyright: ignore[reportOptionalMemberAccess]
        raise UserError(
            "a soft cross-entropy needs two classes or more, the student has one output: for regression take mean_squared_error"
        )
    s = F.log_softmax(student.logits.float() / temperature, -1)  # pyright: ignore[reportOptionalMemberAccess]
    t = F.log_softmax(teacher.logits.float() / temperature, -1)  # pyright: ignore[reportOptionalMemberAccess]
    return temperature**2 * F.kl_div(s, t, reduction="none", log_target=True).sum(-1)


@reads("logits")
def mean_squared_error(student: Outputs, teacher: Outputs) -> Tensor:
    """Mean over the C outputs of (s - t)^2, (U,): distillation of logits (U, C) without a temperature, and of regression."""
    return (student.logits.float() - teacher.logits.float()).square().mean(-1)  # pyright: ignore


@reads("logits", teacher=False)
def label_cross_entropy(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """Cross-entropy of logits (U, C) with labels (U,), in nats: the masked-LM loss, or FinK of KSM. Asks no teacher."""
    return F.cross_entropy(student.logits.float(), student.labels, reduction="none")  # pyright: ignore


@reads("logits", teacher=False)
def label_squared_error(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """(s - y)^2 of one output (U, 1) and real-valued labels (U,), (U,): the loss of regression. Asks no teacher."""
    return (student.logits[:, 0].float() - student.labels.float()).square()  # pyright: ignore


@reads("logits", teacher=False)
def label_loss(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """What labels teach, (U,): cross-entropy where they are classes, the squared error where they are numbers."""
    numbers = student.labels.is_floating_point()  # pyright: ignore[reportOptionalMemberAccess]
    return label_squared_error(student) if numbers else label_cross_entropy(student)


@reads("logits")
def soft_loss(student: Outputs, teacher: Outputs, temperature: float = 1.0) -> Tensor:
    """What a teacher's answer teaches, (U,): the softened divergence over classes, the squared error of one output."""
    one = student.logits.shape[-1] == 1  # pyright: ignore[reportOptionalMemberAccess]
    return mean_squared_error(student, teacher) if one else soft_cross_entropy(student, teacher, temperature)
