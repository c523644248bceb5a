"""Rows drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.base import device_of, double
from kdlab.types import Evidence


@needs(rowwise=True)
def random(evidence: Evidence) -> Tensor:
    """(N,) uniform draws in [0, 1) from `evidence.rng`: the k best are a uniform choice without replacement."""
    rng = evidence.rng
    return double(torch.rand(len(evidence), generator=rng, device=rng.device).to(device_of(evidence)))
