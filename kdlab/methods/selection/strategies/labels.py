"""Strategies on the student's answer and the label."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.base import row_means
from kdlab.types import Evidence


@needs("logits", "labels", rowwise=True)
def gradient_norm(evidence: Evidence) -> Tensor:
    """(N,) ||p - onehot(label)||, the norm of the cross-entropy's gradient in the logits, from 0 to sqrt(2); a row
    without a label gets -inf. EL2N (Paul et al. 2021, arXiv 2107.07075)."""
    if evidence.labels is None:
        raise ValueError("gradient_norm needs labels, found none in the evidence")
    return row_means(evidence, _gradient_norm, evidence.labels)


def _gradient_norm(logits: Tensor, labels: Tensor) -> Tensor:
    log_p, column = logits.log_softmax(-1), labels.clamp(min=0).unsqueeze(-1)
    difference = log_p.exp().scatter(-1, column, log_p.gather(-1, column).expm1())  # p_y - 1, exact where p_y is near 1
    return torch.where(labels >= 0, difference.norm(dim=-1), -torch.inf)
