"""Dry run of terms and adoption rules on tensors of the right shapes: contradictions are refused before anything is loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import Term, fields_beyond_logits, is_joint
from kdlab.methods.marks import marks_of
from kdlab.models import attention_capture
from kdlab.teachers.specs import TeacherSpec
from kdlab.types import Outputs


@dataclass(frozen=True)
class ModelShape:
    """A model as far as a term can tell: its layers, attention heads and width, its config."""

    layers: int
    heads: int
    width: int
    config: Any

    @classmethod
    def of(cls, config: Any, layers: int | None = None, width: int | None = None) -> ModelShape:
        return cls(layers or config.num_hidden_layers, config.num_attention_heads, width or config.hidden_size, config)

    def shown(self, outputs: int, label: Tensor, width: int = 1) -> Outputs:
        """One row of two tokens with `outputs` logits; of width one where projections make widths equal."""
        state = torch.ones(1, 2, width)
        return Outputs(
            logits=torch.zeros(1, outputs),
            labels=label,
            hidden=state,
            mask=torch.ones(1, 2, dtype=torch.long),
            states=(state,) * (self.layers + 1),
            scores=(torch.zeros(1, self.heads, 2, 2),) * self.layers,
            values=(torch.ones(1, self.heads, 2, 1),) * self.layers,
        )


def rehearse(
    terms: Iterable[Term], student: ModelShape, members: Sequence[TeacherSpec], outputs: int, label: Tensor, head: Any
) -> None:
    """Let every term read what the student and each teacher would show; joint terms all teachers at once.

    `outputs` of a prediction and a `label` (1,) of one; `head` the auto class of the models. UserError for terms that
    cannot compare them.
    """
    terms = list(terms)
    casts = [ModelShape.of(member.config) for member in members]
    if frozenset().union(*(fields_beyond_logits(term) for term in terms)) & {"scores", "values"}:
        for one in {id(c): c for c in (student.config, *(member.source.config for member in members))}.values():
            with torch.device("meta"):
                attention_capture.prepare(head.from_config(copy.deepcopy(one)))
    known = [outputs if member.classes is None else len(member.classes) for member in members]
    for term in terms:
        if is_joint(term):
            term.build(student.width, [cast.width for cast in casts], 0)  # pyright: ignore[reportFunctionMemberAccess]
            theirs = [cast.shown(n, label, cast.width) for cast, n in zip(casts, known, strict=True)]
            term(student.shown(outputs, label, student.width), theirs)
            continue
        for cast, n in zip(casts, known, strict=True):
            term(student.shown(n, label), cast.shown(n, label))


def check_adoption(
    name: str, arms: Mapping[str, Any], members: Sequence[TeacherSpec], joint: Sequence[str], regression: bool
) -> None:
    """UserError unless the adoption rules `arms` of adopt=`name` can choose among the teachers.

    `joint`: the terms that read all teachers at once. With these, or with specialists, several teachers need no rule.
    """
    together = bool(joint) or any(member.classes is not None for member in members)
    known = ", ".join(member.name for member in members)
    if not arms and len(members) > 1 and not together:
        raise UserError(
            f"adopt={name}: there are {len(members)} teachers ({known}), and nothing says which of them a row heeds: "
            "adopt=ensemble, hard, soft or every"
        )
    for arm, rule in arms.items():
        marks = marks_of(rule) if callable(rule) else None
        if marks is None:
            raise UserError(f"adopt.arms.{arm} is no adoption rule (a function of student, teachers and count)")
        if len(members) < marks.min_teachers:
            raise UserError(
                f"adopt={name}: {arm} chooses among {marks.min_teachers} teachers or more, and there is {known} alone: "
                "+teachers.others.small.layers=N adds a shallower one, adopt=assistant an assistant"
            )
        if regression and marks.needs:
            raise UserError(
                f"adopt={name}: {arm} goes by uncertainty, and this task is regression, which has none: adopt=ensemble or every"
            )
        theirs = torch.full((3, len(members)), 0.5) if "teachers" in marks.needs else None
        try:
            found = rule(torch.full((3,), 0.5), theirs, len(members))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"adopt.arms.{arm} is no adoption rule: {str(error).splitlines()[0]}") from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != (3, len(members)):
            raise UserError(
                f"adopt.arms.{arm}: of 3 rows and {len(members)} teachers it made {shape}, not (3, {len(members)})"
            )
        assert isinstance(found, Tensor)
        if joint and theirs is None and not bool((found > 0).all()):
            raise UserError(
                f"adopt={name}: {arm} asks some teachers only, and {', '.join(joint)} reads all of them at once: adopt=every"
            )
