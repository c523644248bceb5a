"""Weighing rules: factors of the M knowledge terms at a step, on top of the terms' fixed weights.

A rule is a function `(context: WeighingContext, terms: their names in order) -> (M,) weights`, or (k, M), one set a
row. A rule with a `summary` weighs single units (positions of text) instead: it returns `UnitWeights`.
`@needs` (`kdlab.methods.marks`) declares the parts of `WeighingContext` that cost something: "uncertainty"; "features",
the models' [CLS] states. Rules draw from `context.rng` alone, so a resumed run repeats their draws. Weights are
float32. The rule that learns is `kdlab.methods.ksm.module.KSM`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdlab.errors import UserError, nearest
from kdlab.methods.marks import needs
from kdlab.ranges import Count, Probability, Temperature, Weight
from kdlab.types import WeighingContext


class UnitWeights(NamedTuple):
    """Decisions about U units: `factors` (U,) of the terms that compare logits with a teacher's, and `temperatures` (U,) by
    which both are divided there, beside the terms' own (None: 1)."""

    factors: Tensor
    temperatures: Tensor | None = None


Weighing = Callable[[WeighingContext, Sequence[str]], "Tensor | UnitWeights"]


@needs()
def fixed(context: WeighingContext, terms: Sequence[str]) -> Tensor:
    """(M,) ones: the fixed weights alone, at every step."""
    return torch.ones(len(terms), device=_device(context))


@needs("uncertainty")
def uncertainty(
    context: WeighingContext, terms: Sequence[str], certain: Sequence[str] = (), uncertain: Sequence[str] = ()
) -> Tensor:
    """(k, M): 1 - u for the terms named in `certain`, u for those in `uncertain`, 1 for all others.

    u is the row's uncertainty, entropy / log C, in [0, 1]. Dynamic KD's supervision adjustment: a certain student
    learns the teacher's answer, an uncertain one its hidden states (`certain` the KL, `uncertain` the patient term).
    UserError for a name that is no term or is in both lists, and if the student has no uncertainty (regression).
    """
    for argument, names in (("certain", certain), ("uncertain", uncertain)):
        if isinstance(names, str):
            raise UserError(f"{argument} must be a list of knowledge terms, found {names!r}")
        for name in names:
            if name not in terms:
                raise UserError(f"no knowledge term is called {name} ({argument}): {nearest(str(name), terms)}")
    both = [name for name in certain if name in uncertain]
    if both:
        raise UserError(f"a knowledge term is weighed by certainty or by uncertainty, {both[0]} is in both lists")
    u = context.uncertainty
    if u is None:
        raise UserError("weights by uncertainty need two classes or more; one output (regression) has no uncertainty")
    weights = torch.ones(len(u), len(terms), device=u.device)
    for column, name in enumerate(terms):
        if name in certain:
            weights[:, column] = 1 - u
        elif name in uncertain:
            weights[:, column] = u
    return weights


@needs()
def random_soft(context: WeighingContext, terms: Sequence[str]) -> Tensor:
    """(M,) weights, each uniform in [0, 1): a soft action of KSM at random (Random-Soft of KSM Table 3)."""
    return torch.rand(len(terms), generator=context.rng, device=context.rng.device).to(_device(context))


@needs()
def random_hard(context: WeighingContext, terms: Sequence[str], epochs: Count | None = None) -> Tensor:
    """(M,) of 0 and 1: a set of terms drawn uniformly from the 2^M - 1 that are not empty, anew at each step.

    A hard action of KSM at random (Random-Hard of KSM Table 3). KSM section 4.2 "randomly selects knowledge at each
    training step" of all epochs (Random-All of Table 2) or of the first one (Random-One): the same draw, of which Table
    2 reports the best and the worst of 200 runs. So Random-All is this rule, and Random-One is this rule with `epochs`
    1. After that many epochs all terms count, as in a fixed set (ours; the paper does not describe later epochs).
    """
    if len(terms) > 62:
        raise UserError(f"random_hard draws from 62 knowledge terms at most, found {len(terms)}")
    if epochs is not None and context.epoch >= epochs:
        return fixed(context, terms)
    drawn = torch.randint(1, 2 ** len(terms), (), generator=context.rng, device=context.rng.device)
    bits = torch.arange(len(terms), device=drawn.device)
    return ((drawn >> bits) & 1).to(_device(context), torch.float32)


def hellinger(student: Tensor, teacher: Tensor) -> Tensor:
    """(n, 1) Hellinger distance of the two distributions of logits (n, C), in [0, 1]."""
    q, p = (one.float().softmax(-1).sqrt() for one in (student, teacher))
    return (p - q).norm(dim=-1, keepdim=True) / 2**0.5


@needs(summary=hellinger)
def token_temperature(
    context: WeighingContext, terms: Sequence[str], base: Temperature = 1.0, scale: Weight = 0.5
) -> UnitWeights:
    """Temperatures T = base exp(-scale tanh(log(s / median s))) of the units, and the factors T^2: low where a unit is hard,
    so that errors are corrected, high where it is easy.

    s is the Hellinger distance of student and teacher, the median that of all units of the batch. Inverse difficulty
    temperature scaling of AdaKD (Xie et al. 2026, arXiv 2510.11615), by its public code, whose defaults these are. Its
    other half, a share of the hardest tokens that follows the loss, is a selection of positions.
    """
    assert context.units is not None
    distance = context.units[:, 0]
    relative = (distance / distance.median().clamp_min(1e-8)).clamp_min(1e-8)
    temperatures = base * torch.exp(-scale * torch.tanh(relative.log()))
    return UnitWeights(temperatures.square(), temperatures)


def rank_of_proposal(student: Tensor, teacher: Tensor) -> Tensor:
    """(n, 1) number of classes that the teacher finds more likely than the one that the student finds most likely."""
    proposed = teacher.gather(-1, student.argmax(-1, keepdim=True))
    return (teacher > proposed).sum(-1, keepdim=True).float()


@needs(summary=rank_of_proposal)
def accepted(context: WeighingContext, terms: Sequence[str], k: Count = 5, beta: Probability = 0.0) -> UnitWeights:
    """Factors 1 of units where the student's most likely token is among the teacher's `k` most likely, `beta` of all others:
    0 leaves them out.

    The greedy Top-k verification of SelecTKD (Huang et al. 2026, arXiv 2510.24021), by its abstract: accepted tokens have
    the full loss, rejected ones are masked or have less weight. The full text could not be had here, so `k` and `beta` are
    ours; its second variant, Spec-k, which draws, is not there.
    """
    assert context.units is not None
    return UnitWeights(torch.where(context.units[:, 0] < k, 1.0, beta))


def _device(context: WeighingContext) -> torch.device:
    for tensor in (context.teacher_weights, context.uncertainty, context.student):
        if tensor is not None:
            return tensor.device
    return context.rng.device
