"""Scores of the rows of a batch by one arm: a strategy, or an ensemble of strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from kdlab.methods.marks import marks_of, members_of
from kdlab.methods.selection.strategies import Strategy
from kdlab.types import Evidence

Gather = Callable[..., Tensor]  # (rows (n, ...), value to pad with) -> rows (N, ...)


def _as_they_are(rows: Tensor, pad: float | None = None) -> Tensor:
    return rows


def arm_scores(arm: Strategy, whole: Evidence, parts: Iterable[Evidence], gather: Gather = _as_they_are) -> Tensor:
    """Scores (N,) by `arm` of the rows of `whole`; the highest are selected.

    `whole` has what its strategies need besides logits; `parts` have logits for a few rows at a time, and the rest of
    `whole`, and are read only for a strategy that needs logits. Rowwise strategies score part by part; for the others
    `whole` gets the logits of all parts. `gather` joins what parts or ranks have of the rows, in their order.
    """
    members = members_of(arm)
    needs = {name: marks_of(member).needs for name, member in members.items()}
    rowwise = [name for name, member in members.items() if marks_of(member).rowwise and "logits" in needs[name]]
    all_logits = any("logits" in needs[name] for name in members if name not in rowwise)
    scores: dict[str, list[Tensor]] = {name: [] for name in rowwise}
    kept: list[Evidence] = []
    if rowwise or all_logits:
        for part in parts:
            for name in rowwise:
                scores[name].append(members[name](part.only(needs[name])))
            kept += [part] if all_logits else []
    if kept:
        whole.logits = gather(torch.cat([part.logits for part in kept]), 0.0)  # pyright: ignore
        if kept[0].mask is not None:
            whole.mask = gather(torch.cat([part.mask for part in kept]), 0)  # pyright: ignore
    rows = [
        gather(torch.cat(scores[name])) if name in rowwise else member(whole.only(needs[name]))
        for name, member in members.items()
    ]
    return combined(arm, rows)


def combined(arm: Any, scores: list[Tensor]) -> Tensor:
    """The arm's scores (N,) from those of its members."""
    combine = getattr(arm, "combine", None)
    return scores[0] if combine is None else combine(torch.stack(scores))
