"""Strategies on the student's answer and the label; a row without a label is kept last."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.base import double, row_means
from kdlab.types import Evidence


@needs("logits", "labels", rowwise=True)
def loss(evidence: Evidence) -> Tensor:
    """(N,) -log p(label) in nats, the cross-entropy of the label, or its mean over the masked tokens; a row without a
    label gets -inf. Loshchilov and Hutter 2015 (arXiv 1511.06343): rows of high loss first."""
    return row_means(evidence, label_loss, _labels(evidence, "loss"))


@needs("logits", "labels", rowwise=True)
def gradient_norm(evidence: Evidence) -> Tensor:
    """(N,) ||p - onehot(label)||, the norm of the cross-entropy's gradient in the logits, from 0 to sqrt(2), or its mean
    over the masked tokens; a row without a label gets -inf. EL2N (Paul et al. 2021, arXiv 2107.07075)."""
    return row_means(evidence, _gradient_norm, _labels(evidence, "gradient_norm"))


@needs("logits", "labels", "reference_loss", rowwise=True)
def reducible(evidence: Evidence) -> Tensor:
    """(N,) the student's loss of the label minus a reference's, in nats; a row without a label gets -inf. RHO-LOSS
    (Mindermann et al. 2022, arXiv 2206.07137) Eq. 3: L[y | x; D_t] - L[y | x; D_ho].

    High where the student is wrong and the reference is not; low where the label is noise, which no model predicts, and
    where the student knows it already. UserError for a reference loss that is not finite.
    """
    if evidence.reference_loss is None:
        raise ValueError("reducible needs a reference's loss, found none in the evidence")
    own = row_means(evidence, label_loss, _labels(evidence, "reducible"))
    known = own != -torch.inf  # NaN stays: a row of a broken student is no row without a label
    reference = double(evidence.reference_loss)
    if not bool(reference[known].isfinite().all()):
        raise UserError("the reference's loss of some rows is not finite: take another reference")
    return torch.where(known, own - reference, -torch.inf)


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(U,) -log p(label) of each unit by logits (U, C); -inf without a label."""
    column = labels.clamp(min=0).unsqueeze(-1)
    given = -logits.log_softmax(-1).gather(-1, column).squeeze(-1)
    return torch.where(labels >= 0, given, -torch.inf)


def _gradient_norm(logits: Tensor, labels: Tensor) -> Tensor:
    log_p, column = logits.log_softmax(-1), labels.clamp(min=0).unsqueeze(-1)
    difference = log_p.exp().scatter(-1, column, log_p.gather(-1, column).expm1())  # p_y - 1, exact where p_y is near 1
    return torch.where(labels >= 0, difference.norm(dim=-1), -torch.inf)


def _labels(evidence: Evidence, strategy: str) -> Tensor:
    if evidence.labels is None:
        raise ValueError(f"{strategy} needs labels, found none in the evidence")
    return evidence.labels
