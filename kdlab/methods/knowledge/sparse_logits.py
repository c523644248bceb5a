"""Sparse teacher logits: k of the V tokens of an answer, and logits over the whole vocabulary rebuilt from them.

Anshumann et al. 2025 (Sparse Logit Sampling, arXiv 2503.16870): the k most likely tokens give the student a biased
gradient, since the other tokens never count; k tokens drawn from the teacher's distribution give the exact gradient in
expectation. Both are rebuilt as logits whose softmax is the stored distribution, so every term on logits reads them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ABSENT = -1e4  # the logit of a token that is not stored: finite, so that 0 * log 0 is 0


def top_tokens(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of logits (U, V), descending, and their tokens: (U, k) each, values in the type of `logits`."""
    largest = logits.topk(k, dim=-1)
    return largest.values, largest.indices


def logits_of_top(values: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    """Logits (U, V) float32 from the k largest: at any temperature their softmax is the teacher's over these k
    tokens."""
    whole = torch.full((len(values), vocabulary), ABSENT, device=values.device)
    return whole.scatter_(1, tokens, values.float())


def sample_tokens(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """k tokens (U, k) drawn with replacement from softmax(logits / temperature), (U, V), by inverting its sums.

    `uniform` (U, k) float64 in [0, 1) decides the draw: Random Sampling KD with the teacher's own distribution as the
    proposal, where every importance weight is 1.
    """
    sums = F.softmax(logits.float() / temperature, -1).double().cumsum(-1)
    drawn = torch.searchsorted(sums, uniform.to(sums.device) * sums[:, -1:], right=True)
    return drawn.clamp_max(logits.shape[-1] - 1)


def logits_of_sample(tokens: Tensor, vocabulary: int, temperature: float) -> Tensor:
    """Logits (U, V) float32 whose softmax at `temperature` is the share of each token in the draw (U, k)."""
    ones = torch.full(tokens.shape, 1 / tokens.shape[1], device=tokens.device)
    share = torch.zeros(len(tokens), vocabulary, device=tokens.device).scatter_add_(1, tokens, ones)
    return torch.where(share > 0, temperature * share.clamp_min(1e-38).log(), ABSENT)
