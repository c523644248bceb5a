"""Strategies on the answers of student and teacher."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.base import row_means
from kdlab.types import Evidence


@needs("logits", "teacher", rowwise=True)
def disagreement(evidence: Evidence) -> Tensor:
    """(N,) Jensen-Shannon divergence of the student's and the teacher's distribution in nats, from 0 (the same) to log 2;
    in masked-LM its mean over the masked tokens.

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2 (Lin 1991): the disagreement of a committee of two, measured
    by KL divergence to the mean (McCallum and Nigam 1998). It is bounded, so one token on which the teacher is sure does
    not decide the mean of a row, as it would under KL(teacher || student), and it is finite for any logits.
    """
    if evidence.teacher is None:
        raise ValueError("disagreement needs the teacher's logits, found none in the evidence")
    if evidence.logits is not None and evidence.teacher.shape != evidence.logits.shape:
        found, ours = tuple(evidence.teacher.shape), tuple(evidence.logits.shape)
        raise ValueError(f"the teacher's logits {found} do not fit the student's {ours}")
    return row_means(evidence, _jensen_shannon, evidence.teacher)


def _jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    log_p, log_q = student.log_softmax(-1), teacher.to(student.dtype).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    log_p, log_q, log_m = (
        each.clamp_(min=torch.finfo(p.dtype).min)  # so that 0 * -inf is 0
        for each in (log_p, log_q, torch.logaddexp(log_p, log_q) - math.log(2))
    )
    return (p * (log_p - log_m) + q * (log_q - log_m)).sum(-1).clamp_(min=0) / 2
