"""All strategies of kdlab by name, and evidence for tests of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdlab.methods.marks import marks_of
from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies import Strategy
from kdlab.types import Evidence

MARKED = {name: value for name, value in vars(strategies).items() if hasattr(value, "marks")}
STRATEGIES: dict[str, Strategy] = {  # of a class, which keeps a state, one object
    name.lower(): value() if isinstance(value, type) else value for name, value in MARKED.items()
}
ON_LOGITS = {  # those whose score of a row is of its own logits
    name: strategy
    for name, strategy in STRATEGIES.items()
    if "logits" in marks_of(strategy).needs and marks_of(strategy).rowwise
}


def evidence(logits: Any, labels: Any = None, order: Sequence[int] | None = None, **more: Any) -> Evidence:
    """Evidence of logits (N, C) or (N, P, C); labels, the teacher's logits and a reference's loss are derived from these
    unless they are given, each row's from its own.

    `order` (C,) permutes the classes, of the labels too. `more`: other fields of Evidence.
    """
    logits = torch.as_tensor(np.asarray(logits) if not isinstance(logits, torch.Tensor) else logits)
    if labels is None:
        labels = logits[..., -1].nan_to_num(0, 0, 0).abs().mul(1000).long() % max(logits.shape[-1], 1)
    labels = torch.as_tensor(labels)
    more.setdefault("reference_loss", _reference_loss(logits, more.get("mask")))
    more.setdefault("teacher", logits.nan_to_num(0, 0, 0).double().sin() * 4)
    if order is not None:
        logits, labels = logits[..., list(order)], torch.as_tensor(np.argsort(order))[labels]
        more["teacher"] = more["teacher"][..., list(order)]
    return Evidence(rows=torch.arange(len(logits)), logits=logits, labels=labels, **more)


def _reference_loss(logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Numbers (N,) that only the logits of a row decide, and not their order."""
    units = logits.nan_to_num(0, 0, 0).abs().clamp(max=9).double().mean(-1)
    if units.ndim == 1:
        return units
    here = torch.ones_like(units) if mask is None else mask.double()
    return (units * here).sum(1) / here.sum(1).clamp(min=1)
