"""Adoption rules: which teachers speak to each row, and with what weight.

A rule is a function `(own, theirs, count) -> (k, T)`: `own` (k,) the student's uncertainty of each row, entropy / log C
in [0, 1]; `theirs` (k, T) the teachers' own, each over the classes it knows, or None; `count` T. Teachers come from
small to large. Weights are 0 or more; a teacher is asked only about rows whose weight for it is above 0. Marks of
`@adopts`: `mixes` "losses" (each teacher's loss, times its weight, added) or "answers" (the teachers' probabilities,
times their weights, are one answer for terms on logits); `reads` what the rule looks at: "own", "theirs" (then every
teacher answers first); `fewest` how many teachers it needs.
Sources: Dynamic KD (Li et al. 2021) section 3.1; DeKD section 3.3; METHODS sections 5 and 7.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor | None, int], Tensor]


def adopts(*reads: str, mixes: str = "losses", fewest: int = 2) -> Callable[[Rule], Rule]:
    """Mark a rule: what it looks at ("own", "theirs"), what it mixes, how many teachers it needs at least."""

    def mark(rule: Rule) -> Rule:
        rule.reads, rule.mixes, rule.fewest = frozenset(reads), mixes, fewest  # pyright: ignore
        return rule

    return mark


def marks_of(rule: Any) -> Any:
    """The function (of a partial, too) that carries a rule's marks; a plain function mixes losses and may read all."""
    while not hasattr(rule, "mixes") and isinstance(rule, functools.partial):
        rule = rule.func
    return rule if hasattr(rule, "mixes") else adopts("own", "theirs", fewest=1)(lambda own, theirs, count: own)


@adopts(mixes="answers", fewest=1)
def ensemble(own: Tensor, theirs: Tensor | None, count: int) -> Tensor:
    """1 / T for each: the mean of the teachers' probabilities is the answer (the baseline of Dynamic KD Table 1)."""
    return own.new_full((len(own), count), 1 / count)


@adopts(fewest=1)
def every(own: Tensor, theirs: Tensor | None, count: int) -> Tensor:
    """1 for each: the losses of all teachers, added. With specialists this is UHC (Vongkulbhisal et al. 2019): each
    teacher's answer against the student's over that teacher's classes."""
    return own.new_ones(len(own), count)


@adopts(fewest=1)
def alone(own: Tensor, theirs: Tensor | None, count: int, place: int = -1) -> Tensor:
    """Every row heeds the teacher number `place` alone: 0 the smallest, -1 the largest (baselines of Dynamic KD Table 1)."""
    weights = own.new_zeros(len(own), count)
    weights[:, place] = 1
    return weights


@adopts("own")
def hard(own: Tensor, theirs: Tensor | None, count: int) -> Tensor:
    """The batch in T equal parts by the student's uncertainty: the most uncertain rows heed the smallest teacher alone.

    Two teachers: the uncertain half asks the small one, the certain half the large one (Dynamic KD section 3.1.2; DeKD
    section 3.3, where the small one is the assistant). Of a number of rows that T does not divide, the smaller teachers
    take one more. Equals stay in their order.
    """
    order = own.argsort(descending=True, stable=True)
    weights = own.new_zeros(len(own), count)
    for teacher, part in enumerate(order.tensor_split(count)):
        weights[part, teacher] = 1
    return weights


@adopts("own")
def soft(own: Tensor, theirs: Tensor | None, count: int) -> Tensor:
    """Each row's weights by its uncertainty u: u for the small teacher, 1 - u for the large one (Dynamic KD section 3.1.2).

    More than two: linear between neighbours, so that u = 1 heeds the smallest alone, u = 0 the largest (ours).
    """
    place = (1 - own) * (count - 1)
    teachers = torch.arange(count, device=own.device, dtype=own.dtype)
    return (1 - (place.unsqueeze(1) - teachers).abs()).clamp_min(0)


@adopts("theirs", mixes="answers")
def least_uncertain(own: Tensor, theirs: Tensor | None, count: int) -> Tensor:
    """The teacher that is surest of a row answers alone: MUKI, hard (Li et al. 2022, as METHODS section 7 puts it)."""
    assert theirs is not None
    return torch.nn.functional.one_hot(theirs.argmin(1), count).to(theirs.dtype)


@adopts("theirs", mixes="answers")
def by_certainty(own: Tensor, theirs: Tensor | None, count: int) -> Tensor:
    """Weights in proportion to 1 - the teacher's uncertainty, equal where no teacher knows: MUKI, soft.

    Li et al. 2022 weigh by model uncertainty over Monte Carlo dropout; here it is the entropy of one answer, which
    costs one forward (METHODS section 7 leaves it open).
    """
    assert theirs is not None
    sure = (1 - theirs).clamp_min(0)
    total = sure.sum(1, keepdim=True)
    return torch.where(total > 1e-6, sure / total.clamp_min(1e-6), 1 / count)
