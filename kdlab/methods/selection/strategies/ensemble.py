"""Several strategies as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import function_of
from kdlab.methods.selection.strategies.base import Strategy, double
from kdlab.methods.selection.top_k import refuse_nan
from kdlab.types import Evidence


class Ensemble:
    """Mean of the members' normalised ranks (AdaDS Table 5): 0 for the row a member keeps last, 1 for its first.

    Equal scores share their mean rank. `members` maps names to strategies (for a sequence, the functions' names). The
    caller may score members in chunks and `combine` the whole columns; ranks depend on all rows, so the ensemble itself
    is not rowwise. UserError for no member, or two of one name.
    """

    def __init__(self, strategies: Mapping[str, Strategy] | Sequence[Strategy]):
        if not isinstance(strategies, Mapping):
            names = [_name(strategy) for strategy in strategies]
            repeated = [name for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise UserError(
                    f"two ensemble members are called {repeated[0]}: give a mapping from names to strategies"
                )
            strategies = dict(zip(names, strategies, strict=True))
        if not strategies:
            raise UserError("an ensemble needs at least one strategy, found none")
        self.members = dict(strategies)

    def __call__(self, evidence: Evidence) -> Tensor:
        return self.combine(torch.stack([double(member(evidence)) for member in self.members.values()]))

    def combine(self, scores: Tensor) -> Tensor:
        """Mean (N,) of the normalised ranks of the members' scores (S, N). ValueError for NaN."""
        refuse_nan(scores)
        ordered = scores.sort(dim=1).values
        below = torch.searchsorted(ordered, scores.contiguous(), right=False)
        up_to = torch.searchsorted(ordered, scores.contiguous(), right=True)
        ranks = double(below + up_to - 1) / 2  # mean rank of equal scores, counted from 0
        return (ranks / max(scores.shape[1] - 1, 1)).mean(dim=0)


def _name(strategy: Strategy) -> str:
    strategy = function_of(strategy)
    return getattr(strategy, "__name__", type(strategy).__name__.lower())
