"""Weighing rules: factors of the M knowledge terms at a step, on top of the terms' fixed weights.

A rule is a function `(context: WeighingContext, terms: their names in order) -> (M,) weights`, or (k, M), one set a
row.
`@needs` (`kdlab.methods.marks`) declares the parts of `WeighingContext` that cost something: "uncertainty"; "features",
the models' [CLS] states. Rules draw from `context.rng` alone, so a resumed run repeats their draws. Weights are
float32. The rule that learns is `kdlab.methods.ksm.module.KSM`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdlab.errors import UserError, nearest
from kdlab.methods.marks import needs
from kdlab.ranges import Count
from kdlab.types import WeighingContext

Weighing = Callable[[WeighingContext, Sequence[str]], Tensor]


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


def _device(context: WeighingContext) -> torch.device:
    for tensor in (context.teacher_weights, context.uncertainty, context.student):
        if tensor is not None:
            return tensor.device
    return context.rng.device
