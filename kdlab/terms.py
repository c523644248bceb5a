"""Knowledge terms: what a student learns from, each a pure function (student, teacher) to one number a unit or row.

Terms on logits give (U,), one number a unit (a masked position, or a classified row); terms on hidden states give
(k,), one number a row. The distiller weights, averages and adds them, in one place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdlab.types import Outputs

Term = Callable[..., Tensor]


def reads(on: str, teacher: bool = True) -> Callable[[Term], Term]:
    """Mark what a term reads: `on` "logits" or "hidden", and whether it needs the teacher's answer."""

    def mark(term: Term) -> Term:
        term.on, term.teacher = on, teacher  # pyright: ignore[reportFunctionMemberAccess]
        return term

    return mark


def _function(term: Any) -> Any:
    return _function(term.func) if isinstance(term, functools.partial) else term


def on_logits(term: Term) -> bool:
    """Whether a term (or a partial of one) gives one number a unit; otherwise it gives one a row."""
    return _function(term).on == "logits"


def asks_teacher(term: Term) -> bool:
    """Whether a term (or a partial of one) reads the teacher's answer."""
    return _function(term).teacher


@reads("logits")
def soft_cross_entropy(student: Outputs, teacher: Outputs, temperature: float = 1.0) -> Tensor:
    """temperature^2 * KL(softmax(t / temperature) || softmax(s / temperature)), (U,), in nats.

    Hinton et al. 2015; CE_soft of DistilBERT's published script, which takes the divergence (the teacher's entropy is
    a constant for the student). Logits (U, C) of both.
    """
    s = F.log_softmax(student.logits.float() / temperature, -1)  # pyright: ignore[reportOptionalMemberAccess]
    t = F.log_softmax(teacher.logits.float() / temperature, -1)  # pyright: ignore[reportOptionalMemberAccess]
    return temperature**2 * F.kl_div(s, t, reduction="none", log_target=True).sum(-1)


@reads("logits", teacher=False)
def label_cross_entropy(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """Cross-entropy of logits (U, C) with labels (U,), in nats: the masked-LM loss, or FinK of KSM. Asks no teacher."""
    return F.cross_entropy(student.logits.float(), student.labels, reduction="none")  # pyright: ignore


@reads("hidden")
def cosine(student: Outputs, teacher: Outputs) -> Tensor:
    """1 - cos between the last hidden states of student and teacher, mean over each row's real tokens, (k,).

    DistilBERT (Sanh et al. 2019). Hidden states (k, L, H) of equal H, mask (k, L).
    """
    distance = 1 - F.cosine_similarity(student.hidden.float(), teacher.hidden.float(), dim=-1)  # pyright: ignore
    mask = student.mask.to(distance.dtype)  # pyright: ignore[reportOptionalMemberAccess]
    return (distance * mask).sum(1) / mask.sum(1).clamp_min(1)
