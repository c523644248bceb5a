"""Facts of a training for contextual policies, from numbers that are there anyway: no forward is run for them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdlab.runtime import distributed
from kdlab.types import Context

DIGITS = 6  # of spread and balance: sums over ranks differ in the last bits


class RunFacts:
    """Gathers what a `Context` holds: the observed losses, the last scores, the classes predicted last.

    `predicted` may be called for a few rows at a time; `scored` closes a batch, on all ranks (collective).
    """

    def __init__(self) -> None:
        self._first: float | None = None  # observed losses
        self._loss = 1.0
        self._spread = self._balance = 0.5
        self._counts: Tensor | None = None  # of predicted classes in the batch under way

    def observed(self, loss: float) -> None:
        """Take an observed loss."""
        if self._first is None:
            self._first = loss
        self._loss = min(2.0, max(0.0, loss / self._first)) if self._first > 0 else 1.0

    def restart(self) -> None:
        """From here on another loss is observed."""
        self._first, self._loss = None, 1.0

    def predicted(self, logits: Tensor, kept: Tensor | None = None) -> None:
        """Take logits (..., C) of rows or positions; `kept` (...) bool: those that count (None: all)."""
        if logits.shape[-1] < 2:
            return  # a number, not classes
        classes = logits.argmax(-1)
        classes = classes.flatten() if kept is None else classes[kept.to(classes.device)]
        counts = torch.bincount(classes, minlength=logits.shape[-1]).cpu()
        self._counts = counts if self._counts is None else self._counts + counts

    def scored(self, scores: Tensor | None) -> None:
        """Close a batch with its scores (N,), None for none (collective)."""
        spreads = [] if scores is None or len(scores) < 2 else [_spread(scores)]
        sums = torch.tensor([sum(spreads), len(spreads)], dtype=torch.float64)
        total, ranks = distributed.all_sum(sums).tolist()
        if ranks:
            self._spread = round(total / ranks, DIGITS)
        counts, self._counts = self._counts, None
        if distributed.world() > 1:
            size = int(distributed.all_max(torch.tensor(0 if counts is None else len(counts))))
            counts = distributed.all_sum(torch.zeros(size, dtype=torch.long) if counts is None else counts)
        if counts is not None and int(counts.sum()) > 1:
            self._balance = round(_balance(counts), DIGITS)

    def context(self, progress: float) -> Context:
        """The context of a choice."""
        return Context(progress, self._loss, self._spread, self._balance)

    def state_dict(self) -> dict[str, Any]:
        """The facts in plain Python values, between two batches."""
        return {"first": self._first, "loss": self._loss, "spread": self._spread, "balance": self._balance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._first, self._loss = state["first"], state["loss"]
        self._spread, self._balance = state["spread"], state["balance"]


def _spread(scores: Tensor) -> float:
    """The distance of the quartiles of scores (N,) as a share of their range; 0 where all are equal."""
    values = scores.detach().double().cpu()
    values = values[values.isfinite()]
    width = float(values.max() - values.min()) if len(values) else 0.0
    quarters = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=torch.float64)) if width > 0 else None
    return 0.0 if quarters is None else float(quarters[1] - quarters[0]) / width


def _balance(counts: Tensor) -> float:
    """Entropy of predicted classes as a share of that of as even a spread as their number allows."""
    total = int(counts.sum())
    share = counts[counts > 0].double() / total
    return float(-(share * share.log()).sum()) / math.log(min(len(counts), total))
