"""Checks of weighing rules of single units (`kdlab.methods.knowledge.weighing.UnitWeights`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import is_joint, on_logits, queries_teacher
from kdlab.methods.knowledge.weighing import UnitWeights
from kdlab.methods.marks import marks_of
from kdlab.types import WeighingContext

if TYPE_CHECKING:
    from kdlab.stages.base import Stage


def check(stage: Stage, name: str, arm: Any) -> None:
    """UserError where the rule `name` has no positions with logits of one teacher to compare, or fails on an example."""
    where, terms = f"weigh.arms.{name}", stage.inputs.terms()
    taught = {term: w for term, w in terms.items() if queries_teacher(w.term)}
    if stage.inputs.head.per_row:
        raise UserError(f"{where} weighs the positions of text, and a row of a task has none; weigh=fixed")
    if not taught:
        raise UserError(
            f"{where} compares student and teacher, and knowledge={stage.config.knowledge.name} queries none"
        )
    for term, w in taught.items():
        if not on_logits(w.term) or is_joint(w.term) or w.at != "labelled":
            raise UserError(
                f"{where} weighs each position by its logits, and knowledge.terms.{term} is no term on the logits of one "
                f"teacher at labelled positions; knowledge=causal, or knowledge.terms.{term}.weight=0"
            )
    if len(stage.teacher_pool.members) > 1:
        raise UserError(f"{where} compares the student with one teacher, and there are several; adopt=single")
    if stage.config.teachers.cache != "off" and stage.config.teachers.cache_vocabulary != "full":
        raise UserError(f"{where} compares all logits: teachers.cache_vocabulary=full, or teachers.cache=off")
    measure = marks_of(arm).summary
    assert measure is not None
    logits = torch.linspace(-1, 1, 12).view(3, 4)
    try:
        found = arm(WeighingContext(units=measure(logits, logits.sin())), tuple(terms))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where} is no weighing rule: {str(error).splitlines()[0]}") from error
    if not isinstance(found, UnitWeights) or found.factors.shape != (3,):
        raise UserError(f"{where}: of 3 units it returned {type(found).__name__}, and UnitWeights of 3 are expected")
