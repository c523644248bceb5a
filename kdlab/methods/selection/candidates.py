"""The rows of a batch that are scored: a random share of it (`select.look`), among which a strategy selects.

The best k of n random rows of N: the power of a few random choices (Mitzenmacher, Richa and Sitaraman 2001). RHO-LOSS does
the same with N the data set (arXiv 2206.07137: a large batch is drawn, its best rows are trained on).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import FORWARD, marks_of, members_of
from kdlab.methods.selection.strategies import Strategy
from kdlab.methods.selection.top_k import selection_size


def candidate_count(rows: int, look: float, keep: int) -> int:
    """Number n = max(keep, floor(rows * look)) of `rows` rows that are scored, at least 1, at most `rows`.

    UserError unless 0 < look <= 1.
    """
    if isinstance(look, bool) or not isinstance(look, int | float) or not 0 < look <= 1:
        raise UserError(f"look must be a number in (0, 1], found {look!r}")
    return min(rows, max(keep, selection_size(rows, look)))


def candidates(rows: int, look: float, keep: int, rng: torch.Generator) -> Tensor:
    """Indices (n,) int64, ascending, of n = `candidate_count` rows of `rows`, a uniform draw without replacement."""
    count = candidate_count(rows, look, keep)
    return torch.randperm(rows, generator=rng)[:count].sort().values


def reads_student(arm: Strategy) -> bool:
    """True if a strategy reads outputs of the student, so that scoring a row costs a forward."""
    return any(marks_of(member).needs & FORWARD for member in members_of(arm).values())


def require_choice(rows: int, look: float, ratio: float) -> None:
    """UserError if of `rows` rows no more are scored than are kept, so that scores decide nothing."""
    keep = selection_size(rows, ratio)
    scored = int(rows * look * (1 + 1e-12))
    if look < 1 and scored <= keep < rows:
        found = "less than one row is" if scored == 0 else f"{scored} {'row is' if scored == 1 else 'rows are'}"
        raise UserError(
            f"select.look={look:g}: {found} scored of a batch of {rows:,}, and {keep:,} kept (select.ratio={ratio:g}), so "
            "nothing is left to choose: a larger select.look, or select=random, which needs no scores"
        )
