"""Strategies on the answers of student and teacher."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.base import row_means
from kdlab.methods.selection.strategies.uncertainty import entropy_of
from kdlab.types import Evidence

REACH = 16  # tokens that a student is taken to reach: the K of TA-OPD's diagnostics
TAILS = (0.05, 0.95)  # quantiles between which a quantity is brought to [0, 1]


@needs("logits", "teacher", rowwise=True)
def disagreement(evidence: Evidence) -> Tensor:
    """(N,) Jensen-Shannon divergence of the student's and the teacher's distribution in nats, from 0 (the same) to log 2;
    in masked-LM its mean over the masked tokens.

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2 (Lin 1991): the disagreement of a committee of two, measured
    by KL divergence to the mean (McCallum and Nigam 1998). It is bounded, so one token on which the teacher is sure does
    not decide the mean of a row, as it would under KL(teacher || student), and it is finite for any logits.
    """
    return row_means(evidence, _jensen_shannon, _teacher(evidence, "disagreement"))


def entropy_and_divergence(evidence: Evidence) -> Tensor:
    """(N, 2) the student's entropy and KL(teacher || student) in nats, or their means over a row's positions."""
    teacher = _teacher(evidence, "tip")
    return torch.stack([row_means(evidence, _entropy), row_means(evidence, _divergence, teacher)], 1)


def divergence_and_reach(evidence: Evidence) -> Tensor:
    """(N, 2) KL(teacher || student) in nats, and the teacher's probability of the `REACH` tokens that the student finds
    most likely; or their means over a row's positions."""
    teacher = _teacher(evidence, "teachability")
    return torch.stack([row_means(evidence, one, teacher) for one in (_divergence, _within_reach)], 1)


@needs("logits", "teacher", summary=entropy_and_divergence)
def tip(evidence: Evidence) -> Tensor:
    """(N,) h + d - h d, in [0, 1]: high where the student is uncertain, or sure and unlike the teacher, or both.

    The Soft-OR of TIP (Xu et al. 2026, arXiv 2604.14084): h is the student's entropy and d KL(teacher || student), each
    brought to [0, 1] over all N. The full text could not be had here: the score is that of the code of a later paper
    (TA-OPD, arXiv 2605.26844), which scales by the 5 % and the 95 % quantile, as this does.
    """
    h, d, exists = _scaled(evidence, entropy_and_divergence)
    return torch.where(exists, h + d - h * d, -torch.inf)


@needs("logits", "teacher", summary=divergence_and_reach)
def teachability(evidence: Evidence) -> Tensor:
    """(N,) d c, in [0, 1]: high where the student differs from the teacher, whose answer it can reach.

    Token teachability of TA-OPD (Wang et al. 2026, arXiv 2605.26844): d is KL(teacher || student), c the teacher's
    probability of the 16 tokens that the student finds most likely, each brought to [0, 1] over all N, by the 5 % and the
    95 % quantile. By the paper's abstract and the code of its diagnostics; the full text could not be had here.
    """
    d, c, exists = _scaled(evidence, divergence_and_reach)
    return torch.where(exists, d * c, -torch.inf)


def _teacher(evidence: Evidence, strategy: str) -> Tensor:
    """The teacher's logits. ValueError without them, and where they do not fit the student's."""
    if evidence.teacher is None:
        raise ValueError(f"{strategy} needs the teacher's logits, found none in the evidence")
    if evidence.logits is not None and evidence.teacher.shape != evidence.logits.shape:
        found, ours = tuple(evidence.teacher.shape), tuple(evidence.logits.shape)
        raise ValueError(f"the teacher's logits {found} do not fit the student's {ours}")
    return evidence.teacher


def _scaled(evidence: Evidence, measure: Callable[[Evidence], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Two quantities (N,) of `measure`, each 0 at the lower of the `TAILS` and below, 1 at the upper and above, 0
    throughout where these are equal; and the mask (N,) of the rows that have positions."""
    found = measure(evidence) if evidence.summary is None else evidence.summary
    exists = found[:, 0] != -torch.inf
    if not bool(exists.any()):
        return found[:, 0], found[:, 1], exists
    low, high = found[exists].quantile(torch.tensor(TAILS, dtype=found.dtype, device=found.device), dim=0)
    scaled = ((found - low) / torch.where(high > low, high - low, torch.inf)).clamp(0, 1)
    return scaled[:, 0], scaled[:, 1], exists


def _entropy(student: Tensor) -> Tensor:
    return entropy_of(student.log_softmax(-1))


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    log_p, log_q = teacher.to(student.dtype).log_softmax(-1), student.log_softmax(-1)
    least = torch.finfo(log_p.dtype).min  # so that 0 * -inf is 0
    return F.kl_div(log_q.clamp_(min=least), log_p.clamp_(min=least), reduction="none", log_target=True).sum(-1)


def _within_reach(student: Tensor, teacher: Tensor) -> Tensor:
    reached = student.topk(min(REACH, student.shape[-1])).indices
    return teacher.to(student.dtype).softmax(-1).gather(-1, reached).sum(-1)


def _jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    log_p, log_q = student.log_softmax(-1), teacher.to(student.dtype).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    log_p, log_q, log_m = (
        each.clamp_(min=torch.finfo(p.dtype).min)  # so that 0 * -inf is 0
        for each in (log_p, log_q, torch.logaddexp(log_p, log_q) - math.log(2))
    )
    return (p * (log_p - log_m) + q * (log_q - log_m)).sum(-1).clamp_(min=0) / 2
