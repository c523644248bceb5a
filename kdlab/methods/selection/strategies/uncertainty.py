"""Strategies on the student's uncertainty: entropy, margin, least confidence, and their opposite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.base import logits_of, row_means
from kdlab.types import Evidence


@needs("logits", rowwise=True)
def entropy(evidence: Evidence) -> Tensor:
    """(N,) -sum p log p in nats, from 0 (certain) to log C; 0 log 0 = 0. AdaDS Eq. 4."""
    return row_means(evidence, _entropy)


@needs("logits", rowwise=True)
def scaled_entropy(evidence: Evidence) -> Tensor:
    """(N,) entropy / log C, in [0, 1]; ranks as `entropy` does. DeKD section 3.2."""
    return entropy(evidence) / math.log(logits_of(evidence).shape[-1])


@needs("logits", rowwise=True)
def margin(evidence: Evidence) -> Tensor:
    """(N,) p2 - p1, the negated margin of the two largest probabilities, from -1 (certain) to 0.

    AdaDS Eq. 5 prints p1 - p2 and "top"; the uncertain rows are those of small margin, hence the sign.
    """
    return row_means(evidence, _margin)


@needs("logits", rowwise=True)
def least_confidence(evidence: Evidence) -> Tensor:
    """(N,) 1 - p1, from 0 (certain) to 1 - 1/C. AdaDS Eq. 6."""
    return row_means(evidence, _least_confidence)


@needs("logits", rowwise=True)
def certainty(evidence: Evidence) -> Tensor:
    """(N,) sum p log p, the negated entropy, from -log C to 0 (certain). AdaDS Eq. 7."""
    return row_means(evidence, lambda logits: -_entropy(logits))


def entropy_of(log_p: Tensor) -> Tensor:
    """Entropy (...,) in nats of log probabilities (..., C), which it overwrites."""
    p = log_p.exp()
    log_p.clamp_(min=torch.finfo(log_p.dtype).min)  # so that 0 * -inf is 0
    return -p.mul_(log_p).sum(-1)


def _entropy(logits: Tensor) -> Tensor:
    return entropy_of(logits.log_softmax(-1))


def _margin(logits: Tensor) -> Tensor:
    first, second = (logits.topk(2).values - logits.logsumexp(-1, keepdim=True)).exp().unbind(-1)
    return second - first


def _least_confidence(logits: Tensor) -> Tensor:
    return -torch.expm1(logits.amax(-1) - logits.logsumexp(-1))
