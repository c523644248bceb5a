"""The k of N scored rows that are kept: the best, the best of each class, a sample by score, and some at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import members_of, needs
from kdlab.methods.selection.scores import combined
from kdlab.methods.selection.strategies import Strategy
from kdlab.methods.selection.top_k import refuse_nan, selection_size, top_k
from kdlab.ranges import Probability, Temperature, checked
from kdlab.types import IGNORE, Evidence

CLASS = " class"  # name of the member of a `ClassedArm` that gives the classes; no strategy's name has a space


class Kept(NamedTuple):
    """The rows kept, (k,) int64 ascending, and their importance weights (k,) float64 (None: without)."""

    rows: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class Keeping:
    """Keeps k = `selection_size(N, ratio)` of N rows by their scores; as it is, the k highest (`top_k`).

    `explore`: the share of the kept rows that are drawn uniformly from all the others, those of score -inf included. A
    share of k that is no whole number is rounded up or down at random, so that it is exact on average.
    `balance` "predicted" or "label": the classes keep equally many rows: each gives its best row in turn, and what a
    class of few rows lacks goes to the others; of the last turn the best rows are kept. Rows without a class come last.
    `temperature` T: sample without replacement instead, a row with weight exp(r / T), where r is its normalised rank, 0
    for the lowest score and 1 for the highest, equal scores sharing their mean rank; ranks mean the same for every
    strategy. Near 0 the best k are kept; at T = 1 the best row has e times the weight of the worst (Efraimidis and
    Spirakis 2006; Gumbel top-k: Kool et al. 2019, arXiv 1903.06059). Rows of score -inf fill up what is left.
    `importance`: weights w such that (1 / N) sum over kept rows of w f is an unbiased estimate of the mean of f over all N
    rows. With threshold kappa, the (k+1)-th largest perturbed log weight, w = 1 / P(row's own > kappa) (arXiv
    1903.06059). Every row can then be kept: one of score -inf has r = 0. With random rows among the kept,
    the estimate is mixed with that by which rows kept by score count once and the random ones stand for all others.
    UserError for values out of range, `importance` without `temperature` or with `balance`.
    """

    explore: Probability = 0.0
    balance: Literal["none", "predicted", "label"] = "none"
    temperature: Temperature | None = None
    importance: bool = False

    def __post_init__(self) -> None:
        _checked(self.explore, self.balance, self.temperature, self.importance)

    @property
    def draws(self) -> bool:
        """True where random numbers decide, besides the strategy's own."""
        return self.explore > 0 or self.temperature is not None

    def keep(self, scores: Tensor, ratio: float, rng: torch.Generator, classes: Tensor | None = None) -> Kept:
        """The rows to keep of N with `scores` (N,) and, for `balance`, `classes` (N,), -1 where unknown.

        `rng`: a CPU generator. ValueError for NaN scores.
        """
        if not self.draws and self.balance == "none":
            return Kept(top_k(scores, ratio))
        refuse_nan(scores)
        scores = scores.detach().cpu().double()
        k = selection_size(len(scores), ratio)
        chance = self._random_rows(k, rng)
        keys, logs = self._keys(scores, rng)
        order = keys.argsort(descending=True, stable=True)
        if classes is not None and self.balance != "none":
            order = balanced(order, classes.cpu(), keys)
        chosen, others = order[: k - chance].sort().values, order[k - chance :].sort().values
        drawn = others[torch.randperm(len(others), generator=rng)[:chance]] if chance else others[:0]
        rows, place = torch.cat([chosen, drawn]).sort()
        if not self.importance or logs is None:
            return Kept(rows)
        weights = torch.cat([_weights(chosen, others, keys, logs, chance), scores.new_full((chance,), len(others) / k)])
        return Kept(rows, weights[place])

    def _random_rows(self, k: int, rng: torch.Generator) -> int:
        """Number of the k rows that are drawn at random: `explore` of them on average."""
        if self.explore in (0, 1):
            return int(self.explore * k)
        return min(k, int(self.explore * k + float(torch.rand((), generator=rng, dtype=torch.float64))))

    def _keys(self, scores: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Keys (N,) of which the highest are kept, and the log weights (N,) of the sampling (None: there is none)."""
        if self.temperature is None:
            return scores, None
        scored = scores > -torch.inf
        logs = torch.where(scored, 0.0, 0.0 if self.importance else -torch.inf).double()
        logs[scored] = normalised_ranks(scores[scored]) / self.temperature
        gumbel = -torch.empty(len(scores), dtype=torch.float64).exponential_(generator=rng).log()
        keys = logs + gumbel
        return keys, logs


@checked
def _checked(
    explore: Probability,
    balance: Literal["none", "predicted", "label"],
    temperature: Temperature | None,
    importance: bool,
) -> None:
    """UserError for settings of a `Keeping` that are out of range or contradict each other."""
    if importance and temperature is None:
        raise UserError(
            "importance=true temperature=null: weights make up for the chance by which a row was kept, and the best rows are "
            "kept by no chance; give a temperature"
        )
    if importance and balance != "none":
        raise UserError(
            f"importance=true balance={balance}: the chance by which balanced rows are kept is not known; balance=none, or "
            "importance=false"
        )


def keep_of_groups(keeping: Keeping, scores: Tensor, ratio: float, rng: torch.Generator, group: Tensor | None) -> Kept:
    """The units that `keeping` keeps by `scores` (U,): the share `ratio` of all, or of each `group` (U,) int64.

    Of a group at least one is kept. Indices ascending.
    """
    if group is None:
        return keeping.keep(scores, ratio, rng)
    scores, group = scores.cpu(), group.cpu()  # many short sorts
    members = [(group == number).nonzero().flatten() for number in group.unique()]
    each = [keeping.keep(scores[places], ratio, rng) for places in members]
    kept, order = torch.cat([places[one.rows] for places, one in zip(members, each, strict=True)]).sort()
    weights = [one.weights for one in each if one.weights is not None]
    return Kept(kept, torch.cat(weights)[order] if weights else None)


def normalised_ranks(scores: Tensor) -> Tensor:
    """Ranks (N,) float64 of scores (N,) without NaN: 0 for the lowest, 1 for the highest; equal scores share their mean."""
    ordered = scores.sort().values
    below = torch.searchsorted(ordered, scores.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, scores.contiguous(), right=True)
    return (below + up_to - 1).double() / 2 / max(len(scores) - 1, 1)


def balanced(order: Tensor, classes: Tensor, keys: Tensor) -> Tensor:
    """The rows `order` (N,), best first, in turns: the best row of each class by `keys` (N,), then the second best, ...

    Rows of the class -1, and those of key -inf, come after all others.
    """
    last = (classes < 0) | (keys == -torch.inf)
    turn = torch.zeros_like(order)
    for one in classes[~last].unique():
        rows = order[(classes == one)[order] & ~last[order]]
        turn[rows] = torch.arange(len(rows))
    turn[last] = len(order)
    return order[turn[order].argsort(stable=True)]


def _weights(chosen: Tensor, others: Tensor, keys: Tensor, logs: Tensor, chance: int) -> Tensor:
    """Importance weights (n,) of the n rows kept by score, beside `chance` random ones of the `others`."""
    threshold = keys[others].max() if len(others) else torch.tensor(-torch.inf)
    inclusion = -torch.expm1(-(logs[chosen] - threshold).exp())
    share = len(chosen) / max(1, len(chosen) + chance)
    return share / inclusion + (1 - share)


# ---- the classes of rows


@needs("logits", rowwise=True)
def predicted_class(evidence: Evidence) -> Tensor:
    """(N,) the class that the student predicts. UserError for masked text and for regression, which have none."""
    logits = evidence.logits
    if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
        raise UserError("balance=predicted: rows have no class on text and in regression; balance=none")
    return logits.argmax(1).double()


@needs("labels", rowwise=True)
def label_class(evidence: Evidence) -> Tensor:
    """(N,) the label of each row, -1 where it is unknown. UserError for masked text, regression, and no label at all."""
    labels = evidence.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        raise UserError("balance=label: rows have no class on text and in regression; balance=none")
    known = (labels != IGNORE) & (labels >= 0)
    if not known.any():
        raise UserError("balance=label: no row of the batch has a label; balance=predicted, or balance=none")
    return torch.where(known, labels, -1).double()


def classed(arm: Strategy, balance: str) -> Strategy:
    """The arm with what `balance` needs: as it is, or a `ClassedArm`."""
    return arm if balance == "none" else ClassedArm(arm, balance)


class ClassedArm:
    """An arm that also gives the classes of its rows: what `balance` needs is computed with the scores."""

    def __init__(self, arm: Strategy, balance: str) -> None:
        self.arm = arm
        self.members = {**members_of(arm), CLASS: predicted_class if balance == "predicted" else label_class}

    def __call__(self, evidence: Evidence) -> Tensor:
        return self.combine(torch.stack([member(evidence).double() for member in self.members.values()]))

    def combine(self, scores: Tensor) -> Tensor:
        """(2, N) the arm's scores and the classes, from those (S + 1, N) of the members."""
        return torch.stack([combined(self.arm, list(scores[:-1])), scores[-1]])
