"""Weighing rules: how much each of M knowledge terms counts at a step, on top of the terms' fixed weights.

A rule is any function `(seen: Situation, terms: their names in order) -> (M,) weights`, or (k, M), one set a row. It
carries one mark, `@looks(...)`: the parts of `WeighingContext` that cost something and that it looks at ("uncertainty";
"features", the models' [CLS] states), so that nothing is computed in vain. Rules draw from `seen.rng` alone, so a
resumed run repeats their draws. Weights are float32. The rule that learns is `kdlab.methods.ksm.module.KSM`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from kdlab.errors import UserError, nearest
from kdlab.types import WeighingContext

Weighing = Callable[[WeighingContext, Sequence[str]], Tensor]
Rule = TypeVar("Rule", bound=Callable[..., Any])

FIELDS = frozenset({"uncertainty", "features"})


def looks(*fields: str) -> Callable[[Rule], Rule]:
    """Declare which of `FIELDS` a rule looks at: a function, or a class whose instances are rules."""

    def declare(rule: Rule) -> Rule:
        rule.looks = frozenset(fields)  # type: ignore[attr-defined]
        return rule

    return declare


def looks_of(rule: Callable[..., Any]) -> frozenset[str]:
    """The fields `rule` (or the function of a partial) looks at; one that declares nothing is taken to look at all."""
    while not hasattr(rule, "looks") and isinstance(rule, functools.partial):
        rule = rule.func
    return frozenset(getattr(rule, "looks", FIELDS))


@looks()
def fixed(seen: WeighingContext, terms: Sequence[str]) -> Tensor:
    """(M,) ones: the fixed weights alone, at every step."""
    return torch.ones(len(terms), device=_device(seen))


@looks("uncertainty")
def uncertainty(
    seen: WeighingContext, terms: Sequence[str], certain: Sequence[str] = (), uncertain: Sequence[str] = ()
) -> Tensor:
    """(k, M): 1 - u for the terms named in `certain`, u for those in `uncertain`, 1 for all others.

    u is the row's uncertainty, entropy / log C, in [0, 1]. Dynamic KD's supervision adjustment: a certain student learns
    the teacher's answer, an uncertain one its hidden states (`certain` the KL, `uncertain` the patient term). Raises
    UserError for a name that is no term or stands in both lists, and where the student has no uncertainty.
    """
    for given, names in (("certain", certain), ("uncertain", uncertain)):
        if isinstance(names, str):
            raise UserError(f"{given} must be a list of knowledge terms, found {names!r}")
        for name in names:
            if name not in terms:
                raise UserError(f"no knowledge term is called {name} ({given}): {nearest(str(name), terms)}")
    both = [name for name in certain if name in uncertain]
    if both:
        raise UserError(f"a knowledge term is weighed by certainty or by uncertainty, {both[0]} stands in both lists")
    u = seen.uncertainty
    if u is None:
        raise UserError("weights by uncertainty need a student that is uncertain: with one output (regression) none is")
    weights = torch.ones(len(u), len(terms), device=u.device)
    for column, name in enumerate(terms):
        if name in certain:
            weights[:, column] = 1 - u
        elif name in uncertain:
            weights[:, column] = u
    return weights


@looks()
def random_soft(seen: WeighingContext, terms: Sequence[str]) -> Tensor:
    """(M,) weights, each uniform in [0, 1): a soft action of KSM at random (Random-Soft of KSM Table 3)."""
    return torch.rand(len(terms), generator=seen.rng, device=seen.rng.device).to(_device(seen))


@looks()
def random_hard(seen: WeighingContext, terms: Sequence[str], epochs: int | None = None) -> Tensor:
    """(M,) of 0 and 1: a set of terms drawn uniformly from the 2^M - 1 that are not empty, anew at each step.

    A hard action of KSM at random (Random-Hard of KSM Table 3). KSM section 4.2 "randomly selects knowledge at each
    training step" of all epochs (Random-All of Table 2) or of the first one (Random-One): the same draw, of which Table
    2 reports the best and the worst of 200 runs. So Random-All is this rule, and Random-One is this rule with `epochs`
    1. After so many first epochs all terms count, as in a fixed set (the paper does not say what comes then; ours).
    """
    if len(terms) > 62:
        raise UserError(f"random_hard draws from 62 knowledge terms at most, found {len(terms)}")
    if epochs is not None and seen.epoch >= epochs:
        return fixed(seen, terms)
    drawn = torch.randint(1, 2 ** len(terms), (), generator=seen.rng, device=seen.rng.device)
    bits = torch.arange(len(terms), device=drawn.device)
    return ((drawn >> bits) & 1).to(_device(seen), torch.float32)


def _device(seen: WeighingContext) -> torch.device:
    for found in (seen.heed, seen.uncertainty, seen.student):
        if found is not None:
            return found.device
    return seen.rng.device
