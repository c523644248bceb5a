"""Knowledge terms: what a student learns from. The contract of a term, its marks, and sums that terms share.

A term is a pure function (student: Outputs, teacher: Outputs) -> one number a unit or a row, marked by `@needs` with
the fields of Outputs that it reads. Terms that read "logits" give (U,), one number a unit (a masked position, or a
classified row; `kdlab.methods.knowledge.logits`). All others give (k,), one number a row: means over a row's real
tokens and heads, sums over layers as in the papers (`kdlab.methods.knowledge.hidden_states`,
`kdlab.methods.knowledge.attention`). Joint terms read all teachers at once, (student, teachers: Sequence[Outputs]);
some are modules with learnt projections (`kdlab.methods.knowledge.joint`). The distiller weights, averages and adds
terms, in one place. Terms compute in float32; the teacher's answer is detached.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import UNDECLARED, Marks, function_of, marks_of

Term = Callable[..., Tensor]


def term_marks(term: Term) -> Marks:
    """The marks of a term; UserError if it has none: they decide the shape of its result, so nothing can be assumed."""
    marks = marks_of(term)
    if marks is UNDECLARED:
        name = getattr(function_of(term), "__name__", type(term).__name__)
        raise UserError(
            f"the knowledge term {name} declares no inputs: mark it with @needs, for example @needs('logits')"
        )
    return marks


def on_logits(term: Term) -> bool:
    """True if a term gives one number a unit, False if it gives one number a row."""
    return "logits" in term_marks(term).needs


def is_joint(term: Term) -> bool:
    """True if a term reads the answers of all teachers at once."""
    return term_marks(term).joint


def queries_teacher(term: Term) -> bool:
    """True if a term reads the teacher's answer."""
    return term_marks(term).teacher


def fields_beyond_logits(term: Term) -> frozenset[str]:
    """The fields of Outputs besides logits that a term reads: of "hidden", "states", "scores", "values"."""
    return term_marks(term).needs - {"logits"}


def temperature_of(term: Term) -> float | None:
    """The temperature of a term; None for a term without that parameter, which reads logits as they are."""
    parameter = inspect.signature(term).parameters.get("temperature")
    return None if parameter is None else float(parameter.default)


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (k,) of `values` (k, L) over the tokens where `mask` (k, L) is 1; 0 for a row without tokens."""
    mask = mask.to(values.dtype)
    return (values * mask).sum(1) / mask.sum(1).clamp_min(1)
