"""Sparse teacher logits: k of the V tokens of an answer, and logits over the whole vocabulary rebuilt from them.

Anshumann et al. 2025 (Sparse Logit Sampling, arXiv 2503.16870): the k most likely tokens give the student a biased
gradient, since the other tokens never count; k tokens drawn from the teacher's distribution give the exact gradient in
expectation. Both are read as logits (U, k) of tokens (U, k), whose softmax is the stored distribution: a term marked
`sparse` reads these alone, any other has them spread over the vocabulary (`whole_logits`).
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


def sample_tokens(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """k tokens (U, k) drawn with replacement from softmax(logits / temperature), (U, V), by inverting its sums.

    `uniform` (U, k) float64 in [0, 1) decides the draw: Random Sampling KD with the teacher's own distribution as the
    proposal, where every importance weight is 1.
    """
    sums = F.softmax(logits.float() / temperature, -1).double().cumsum(-1)
    drawn = torch.searchsorted(sums, uniform.to(sums.device) * sums[:, -1:], right=True)
    return drawn.clamp_max(logits.shape[-1] - 1)


def logits_of_sample(tokens: Tensor, temperature: float) -> Tensor:
    """Logits (U, k) float32 of drawn tokens (U, k): their softmax at `temperature` is the share of each in the draw.

    The share stands at the first place of a token; a place that repeats one has `ABSENT`.
    """
    same = tokens.unsqueeze(2) == tokens.unsqueeze(1)
    share = same.sum(2).float() / tokens.shape[1]
    return torch.where(same.tril(-1).any(2), ABSENT, temperature * share.log())


def whole_logits(logits: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    """Logits (U, V) float32 of `logits` (U, k) at `tokens` (U, k), `ABSENT` at all others. Their softmax is the same at
    any temperature."""
    whole = torch.full((len(logits), vocabulary), ABSENT, device=logits.device)
    return whole.scatter_reduce_(1, tokens, logits.float(), "amax")
