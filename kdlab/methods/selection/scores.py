"""Scores of the rows of a batch by one arm: a strategy, or an ensemble of strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdlab.methods.marks import marks_of, members_of
from kdlab.methods.selection.strategies import Strategy
from kdlab.types import Evidence

PARTS = frozenset(
    {"logits", "votes", "teacher", "reference_loss"}
)  # fields of Evidence that come for a few rows at a time
Gather = Callable[..., Tensor]  # (rows (n, ...), value to pad with) -> rows (N, ...)


def _as_they_are(rows: Tensor, pad: float | None = None) -> Tensor:
    return rows


def arm_scores(arm: Strategy, whole: Evidence, parts: Iterable[Evidence], gather: Gather = _as_they_are) -> Tensor:
    """Scores (N,) by `arm` of the rows of `whole`; the highest are selected.

    `whole` has what its strategies need besides `PARTS`; `parts` have these for a few rows at a time, and the rest of
    `whole`, and are read only for a strategy that needs them. Rowwise strategies score part by part; a strategy with a
    `summary` gets that of all parts; for the others `whole` gets the logits of all parts. `gather` joins what parts or
    ranks have of the rows, in their order.
    """
    members = members_of(arm)
    marks = {name: marks_of(member) for name, member in members.items()}
    in_parts = {name for name in members if marks[name].needs & PARTS}
    rowwise = [name for name in members if name in in_parts and marks[name].rowwise]
    summed = {name: marks[name].summary for name in members if name in in_parts and name not in rowwise}
    by_part: dict[str, list[Tensor]] = {name: [] for name in members}
    kept: list[Evidence] = []
    for part in parts if in_parts else ():
        for name in rowwise:
            by_part[name].append(members[name](part.only(marks[name].needs)))
        for name, summary in summed.items():
            by_part[name] += [] if summary is None else [summary(part.only(marks[name].needs))]
        kept += [part] if None in summed.values() else []
    if kept:
        _join(whole, kept, gather)
    rows: list[Tensor] = []
    for name, member in members.items():
        found = gather(torch.cat(by_part[name])) if by_part[name] else None
        rows.append(found if name in rowwise else member(replace(whole.only(marks[name].needs), summary=found)))  # pyright: ignore
    return combined(arm, rows)


def _join(whole: Evidence, parts: list[Evidence], gather: Gather) -> None:
    """Give `whole` what all parts have."""
    for field in ("logits", "teacher", "reference_loss"):
        if getattr(parts[0], field) is not None:
            setattr(whole, field, gather(torch.cat([getattr(part, field) for part in parts]), 0.0))
    if parts[0].mask is not None:
        whole.mask = gather(torch.cat([part.mask for part in parts]), 0)  # pyright: ignore
    if parts[0].votes is not None:  # rows are their second dimension, and ranks may differ in the number of positions
        votes = torch.cat([part.votes.movedim(0, -2) for part in parts])  # pyright: ignore
        whole.votes = gather(votes, 0.0).movedim(-2, 0)


def combined(arm: Any, scores: list[Tensor]) -> Tensor:
    """The arm's scores (N,) from those of its members. ValueError for members of other shapes."""
    combine = getattr(arm, "combine", None)
    if combine is None:
        return scores[0]
    for one in scores:
        if not isinstance(one, Tensor) or one.shape != scores[-1].shape:
            shape = tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__
            raise ValueError(f"returned {shape}; a tensor {tuple(scores[-1].shape)} is expected, a score a row")
    return combine(torch.stack(scores))
