"""Knowledge terms on logits, (U,): one number a unit (`kdlab.methods.knowledge.base` has the contract of a term)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import needs
from kdlab.ranges import Temperature
from kdlab.types import Outputs


@needs("logits", sparse=True)
def soft_cross_entropy(student: Outputs, teacher: Outputs, temperature: Temperature = 1.0) -> Tensor:
    """temperature^2 * KL(softmax(t / temperature) || softmax(s / temperature)), (U,), in nats.

    Hinton et al. 2015; CE_soft of DistilBERT's published script, which takes the divergence (the teacher's entropy is
    a constant for the student). The teacher is the target. Dynamic KD (Eq. 1), KSM (Eq. 14) and DeKD (Eq. 1) print
    KL(student || teacher) without temperature^2; Dynamic KD's public code computes what stands here. The factor is 1 at
    temperature 1, and 25 at DeKD's 5. Logits (U, C) of both; of the teacher also (U, k), of its `tokens` (U, k) alone: the
    target has the probability 0 elsewhere. Raises UserError for C = 1, where it would always be 0.
    """
    if student.logits.shape[-1] < 2:  # pyright: ignore[reportOptionalMemberAccess]
        raise UserError(
            "a soft cross-entropy needs two classes or more, the student has one output: for regression take mean_squared_error"
        )
    s = student.logits.float() / temperature  # pyright: ignore[reportOptionalMemberAccess]
    if teacher.tokens is None:
        s = F.log_softmax(s, -1)
    else:
        s = s.gather(-1, teacher.tokens) - torch.logsumexp(s, -1, keepdim=True)
    t = F.log_softmax(teacher.logits.float() / temperature, -1)  # pyright: ignore[reportOptionalMemberAccess]
    return temperature**2 * F.kl_div(s, t, reduction="none", log_target=True).sum(-1)


@needs("logits")
def mean_squared_error(student: Outputs, teacher: Outputs) -> Tensor:
    """Mean over the C outputs of (s - t)^2, (U,): distillation of logits (U, C) without a temperature, and of
    regression."""
    return (student.logits.float() - teacher.logits.float()).square().mean(-1)  # pyright: ignore


@needs("logits", teacher=False)
def label_cross_entropy(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """Cross-entropy of logits (U, C) with labels (U,), in nats: the masked-LM loss, or FinK of KSM. Queries no
    teacher."""
    return F.cross_entropy(student.logits.float(), student.labels, reduction="none")  # pyright: ignore


@needs("logits", teacher=False)
def label_squared_error(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """(s - y)^2 of one output (U, 1) and real-valued labels (U,), (U,): the loss of regression. Queries no teacher."""
    return (student.logits[:, 0].float() - student.labels.float()).square()  # pyright: ignore


@needs("logits", teacher=False)
def label_loss(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """Loss of the labels, (U,): `label_cross_entropy` of classes, `label_squared_error` of real numbers."""
    regression = student.labels.is_floating_point()  # pyright: ignore[reportOptionalMemberAccess]
    return label_squared_error(student) if regression else label_cross_entropy(student)


@needs("logits", sparse=True)
def soft_loss(student: Outputs, teacher: Outputs, temperature: Temperature = 1.0) -> Tensor:
    """Loss of the teacher's answer, (U,): `soft_cross_entropy` over classes, `mean_squared_error` of one output."""
    regression = student.logits.shape[-1] == 1  # pyright: ignore[reportOptionalMemberAccess]
    return mean_squared_error(student, teacher) if regression else soft_cross_entropy(student, teacher, temperature)
