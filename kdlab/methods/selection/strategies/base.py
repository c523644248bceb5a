"""Parts of several strategies: the evidence that they read, and the mean over the masked positions of a row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.types import Evidence

Strategy = Callable[[Evidence], Tensor]

SLICE = 2**20  # logits scored at a time: 4 MB of float32 stay in the cache, twice as fast as 78 MB at once
FEW = 1024  # up to this many classes are scored in float64, at no cost that matters


def row_means(evidence: Evidence, token: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Row scores (N,): the means over a row's masked positions of what `token` returns for units (one unit a row in
    classification).

    `token` maps logits (U, C) and its other inputs to scores (U,). `inputs`: (N, ...), or (N, P, ...) in masked-LM.
    Memory is bounded: `token` gets `SLICE` logits at a time.
    """
    logits = logits_of(evidence)
    classes = logits.shape[-1]
    # With few classes in float64, or rows so certain that p1 rounds to 1 would tie under margin but not under entropy.
    cast = double if classes <= FEW else torch.Tensor.float
    units, more = logits.flatten(0, -2), [values.flatten(0, logits.ndim - 2) for values in inputs]
    mask = evidence.mask if logits.ndim == 3 else None
    if mask is not None and mask.shape != logits.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit logits {tuple(logits.shape)}")
    size = max(1, SLICE // classes)
    if mask is None:
        parts = zip(units.split(size), *(values.split(size) for values in more), strict=True)
        scores = torch.cat([double(token(cast(part), *rest)) for part, *rest in parts]).view(logits.shape[:-1])
        return scores if logits.ndim == 2 else mean_of(scores, logits.shape[1])
    mask = mask.bool()
    scores = double(torch.zeros(logits.shape[:2], device=logits.device))
    places = mask.flatten().nonzero().squeeze(1) if evidence.places is None else evidence.places
    for index in places.split(size):
        scores.view(-1)[index] = double(token(cast(units[index]), *(values[index] for values in more)))
    return mean_of(scores, mask.sum(1))


def mean_of(scores: Tensor, count: Tensor | int) -> Tensor:
    """Sums of (N, P) over P, divided by `count`; -inf where that is 0."""
    total = scores.sum(1)
    count = torch.as_tensor(count, device=scores.device).expand_as(total)
    return torch.where(count > 0, total / count.clamp(min=1), -torch.inf)


def logits_of(evidence: Evidence) -> Tensor:
    """The student's logits. ValueError without them, UserError for one output (regression)."""
    if evidence.logits is None:
        raise ValueError("this strategy needs the student's logits, found none in the evidence")
    if evidence.logits.ndim not in (2, 3):
        raise ValueError(f"logits must be (N, C) or (N, P, C), found shape {tuple(evidence.logits.shape)}")
    classes = evidence.logits.shape[-1]
    if classes < 2:
        raise UserError(
            f"this strategy needs two classes or more, found {classes} output (a regression task): "
            "take random, cluster or density"
        )
    return evidence.logits


def features_of(evidence: Evidence) -> Tensor:
    """The student's features, float32. ValueError without them."""
    if evidence.features is None:
        raise ValueError("this strategy needs the student's features, found none in the evidence")
    return evidence.features.float()


def double(values: Tensor) -> Tensor:
    """Float64; float32 on Apple's GPUs, which have no float64."""
    return values.float() if values.device.type == "mps" else values.double()


def device_of(evidence: Evidence) -> torch.device:
    """The device of the evidence."""
    return next(value.device for value in evidence.columns() if value is not None)
