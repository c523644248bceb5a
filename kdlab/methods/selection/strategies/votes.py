"""Disagreement of several versions of the student: dropout passes, or the exits of its layers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from torch import Tensor

from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.base import FEW, double, row_means
from kdlab.methods.selection.strategies.uncertainty import entropy_of
from kdlab.types import Evidence


@needs("votes", rowwise=True)
def committee(evidence: Evidence, measure: Literal["bald", "vote_entropy"] = "bald") -> Tensor:
    """(N,) disagreement in nats of the V members whose logits are `evidence.votes`; 0 where they agree.

    `measure` "bald": H(mean p) - mean H(p), the information that the members share about the answer (Houlsby et al. 2011,
    arXiv 1112.5745, Eq. 2; with dropout passes Gal et al. 2017, arXiv 1703.02910), which is the mean divergence from the
    committee's answer (McCallum and Nigam 1998). "vote_entropy": the entropy of the share of votes for each class, a vote
    being a member's most probable class (Dagan and Engelson 1995). At most log min(V, C).
    """
    votes = evidence.votes
    if votes is None:
        raise ValueError("committee needs votes, found none in the evidence")
    if votes.ndim not in (3, 4):
        raise ValueError(f"votes must be (V, N, C) or (V, N, P, C), found shape {tuple(votes.shape)}")
    function = _bald if measure == "bald" else _vote_entropy
    first = replace(evidence, logits=votes[0])
    return row_means(first, lambda _, units: function(_cast(units)), votes.movedim(0, -2))


def _bald(votes: Tensor) -> Tensor:
    """(U,) of the logits (U, V, C)."""
    log_p = votes.log_softmax(-1)
    mean = log_p.logsumexp(1) - math.log(votes.shape[1])
    return (entropy_of(mean) - entropy_of(log_p).mean(1)).clamp(min=0)


def _vote_entropy(votes: Tensor) -> Tensor:
    """(U,) of the logits (U, V, C). The votes of V members are counted without a tensor of C classes."""
    choice = votes.argmax(-1)
    share = (choice[:, :, None] == choice[:, None, :]).to(votes.dtype).mean(2)  # of the votes that equal each vote
    return -share.log().mean(1).clamp(max=0)


def _cast(votes: Tensor) -> Tensor:
    return double(votes) if votes.shape[-1] <= FEW else votes.float()
