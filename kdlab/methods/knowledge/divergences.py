"""Divergences of student and teacher on logits, (U,): reverse, Jensen-Shannon and skewed KL, TAID's moving target.

The forward KL is `kdlab.methods.knowledge.logits.soft_cross_entropy`. p is the teacher's distribution
softmax(t / temperature), q the student's. All are multiplied by temperature^2, as the forward KL is, so that gradients
keep their size (Hinton et al. 2015); the papers have temperature 1. They need the teacher's probability of every class:
an answer that stores a few tokens does not serve (`whole`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import needs
from kdlab.ranges import InnerShare, Share, Temperature
from kdlab.types import Outputs


@needs("logits", whole=True)
def reverse_kl(student: Outputs, teacher: Outputs, temperature: Temperature = 1.0) -> Tensor:
    """temperature^2 * KL(q || p), (U,), in nats: the student covers what the teacher finds likely, and no more.

    MiniLLM (Gu et al. 2024, arXiv 2306.08543) and GKD (Agarwal et al. 2024, arXiv 2306.13649). Logits (U, C) of both.
    """
    log_p, log_q = _log_probabilities(student, teacher, temperature)
    return temperature**2 * _kl(log_q, log_p)


@needs("logits", whole=True)
def jensen_shannon(
    student: Outputs, teacher: Outputs, temperature: Temperature = 1.0, beta: InnerShare = 0.5
) -> Tensor:
    """temperature^2 * (beta KL(p || m) + (1 - beta) KL(q || m)) with m = beta p + (1 - beta) q, (U,), in nats.

    GKD's generalised Jensen-Shannon divergence (Agarwal et al. 2024, arXiv 2306.13649, section 2). Divided by beta it
    tends to the forward KL as beta tends to 0; divided by 1 - beta, to the reverse KL as beta tends to 1.
    """
    log_p, log_q = _log_probabilities(student, teacher, temperature)
    log_m = _log_mixture(log_p, log_q, beta)
    return temperature**2 * (beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m))


@needs("logits", whole=True)
def skewed_kl(student: Outputs, teacher: Outputs, temperature: Temperature = 1.0, skew: InnerShare = 0.1) -> Tensor:
    """temperature^2 * KL(p || skew p + (1 - skew) q), (U,), in nats: a forward KL whose gradient is bounded.

    DistiLLM (Ko et al. 2024, arXiv 2402.03898), skew KL with alpha = `skew`.
    """
    log_p, log_q = _log_probabilities(student, teacher, temperature)
    return temperature**2 * _kl(log_p, _log_mixture(log_p, log_q, skew))


@needs("logits", whole=True)
def skewed_reverse_kl(
    student: Outputs, teacher: Outputs, temperature: Temperature = 1.0, skew: InnerShare = 0.1
) -> Tensor:
    """temperature^2 * KL(q || (1 - skew) p + skew q), (U,), in nats.

    DistiLLM (Ko et al. 2024, arXiv 2402.03898), skew reverse KL with alpha = `skew`.
    """
    log_p, log_q = _log_probabilities(student, teacher, temperature)
    return temperature**2 * _kl(log_q, _log_mixture(log_q, log_p, skew))


@needs("logits", whole=True)
def interpolated_kl(
    student: Outputs, teacher: Outputs, temperature: Temperature = 1.0, start: Share = 0.4, end: Share = 1.0
) -> Tensor:
    """temperature^2 * KL(p_t || q), (U,), in nats, with p_t = softmax of (1 - t) s + t times the teacher's logits.

    TAID (Shing et al. 2025, arXiv 2501.16937): the target moves from the student's own answer s, through which no
    gradient flows, to the teacher's. t grows linearly with the training, from `start` to `end`; the paper's own update of t,
    which goes by the loss and is at least this line, is not there.
    """
    if not start <= end:
        raise UserError(f"interpolated_kl: start={start:g} is above end={end:g}")
    t = start + (end - start) * student.progress
    own, theirs = (outputs.logits.float() / temperature for outputs in (student, teacher))  # pyright: ignore
    target = F.log_softmax((1 - t) * own.detach() + t * theirs, -1)
    return temperature**2 * _kl(target, F.log_softmax(own, -1))


def _log_probabilities(student: Outputs, teacher: Outputs, temperature: float) -> tuple[Tensor, Tensor]:
    """Logarithms of p and q, (U, C) each. UserError for one class, whose divergences are always 0."""
    if student.logits.shape[-1] < 2:  # pyright: ignore[reportOptionalMemberAccess]
        raise UserError("a divergence needs two classes or more, the student has one output: mean_squared_error")
    log_p, log_q = (F.log_softmax(one.logits.float() / temperature, -1) for one in (teacher, student))  # pyright: ignore
    return log_p, log_q


def _log_mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """Logarithm of share a + (1 - share) b."""
    return torch.logaddexp(log_a + math.log(share), log_b + math.log(1 - share))


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b), (U,)."""
    return F.kl_div(log_b, log_a, reduction="none", log_target=True).sum(-1)
