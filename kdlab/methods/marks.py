"""Marks: declarations of a rule (strategy, adoption rule, knowledge term, weighing rule) about itself.

The caller computes and passes only what a rule needs. One decorator, `@needs(...)`, sets them on functions and on
classes whose instances are rules; one function, `marks_of`, reads them from functions, partials, objects and ensembles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor

Rule = TypeVar("Rule", bound=Callable[..., Any])

# of Evidence: never without a declaration. "rows": ids of the rows in the data set, the same at each visit
DECLARED_FIELDS = frozenset({"teacher", "reference_loss", "votes", "rows"})
STRATEGY_FIELDS = frozenset({"logits", "features", "labels"}) | DECLARED_FIELDS  # of Evidence
ADOPTION_FIELDS = frozenset({"student", "teachers"})  # uncertainties, the arguments of the rule; "rows" beside them
TERM_FIELDS = frozenset({"logits", "hidden", "states", "scores", "values"})  # of Outputs
WEIGHING_FIELDS = frozenset({"uncertainty", "features"})  # of WeighingContext; features are [CLS] states
FORWARD = STRATEGY_FIELDS - {"labels", "rows"}  # the fields of Evidence that cost a forward of a model


@dataclass(frozen=True)
class Marks:
    """The marks of one rule. `needs`: names of inputs, from the set above that belongs to its kind."""

    needs: frozenset[str]
    rowwise: bool = False
    """Strategies: a row's score depends on that row alone, so a batch may be scored in chunks."""
    summary: Callable[..., Tensor] | None = None
    """Strategies that look at all rows at once, and at each through a few numbers: (evidence of n rows) -> (n, D) is what
    they read as `Evidence.summary` in place of logits, so that the logits of a batch are never held together. Weighing rules
    of single units: (logits (n, C) of the student, of the teacher) -> (n, D), read as `WeighingContext.units`."""
    per_row: bool = False
    """Strategies: it reads one answer a row, so tasks alone, no masked text."""
    mixes: Literal["losses", "answers"] = "losses"
    """Adoption rules: each teacher's loss, times its weight, is added; or the weighted mean of the teachers' softened
    probabilities is one answer for terms on logits, whose loss counts times the sum of the weights."""
    min_teachers: int = 2
    """Adoption rules: the smallest number of teachers it can choose among."""
    teacher: bool = True
    """Terms: whether the term reads the teacher's answer."""
    whole: bool = False
    """Terms on logits: whether the term needs the teacher's probability of every class, so that no cache of a few serves."""
    sparse: bool = False
    """Terms on logits: whether it reads an answer of a few tokens as it is stored, k logits and their `Outputs.tokens`; for
    other terms such an answer is spread over all classes."""
    joint: bool = False
    """Terms: whether it reads the answers of all teachers at once (`kdlab.methods.knowledge.joint`)."""
    layer_mask: Callable[..., Tensor] | None = None
    """Terms that choose among the teacher's N layers: (student, teacher) -> (k, N) bool, True where a row learns from
    one."""


UNDECLARED = Marks(
    (STRATEGY_FIELDS - DECLARED_FIELDS) | ADOPTION_FIELDS | TERM_FIELDS | WEIGHING_FIELDS, min_teachers=1
)  # needs all but `DECLARED_FIELDS`


def needs(
    *fields: str,
    rowwise: bool = False,
    summary: Callable[..., Tensor] | None = None,
    per_row: bool = False,
    mixes: Literal["losses", "answers"] = "losses",
    min_teachers: int = 2,
    teacher: bool = True,
    joint: bool = False,
    whole: bool = False,
    sparse: bool = False,
    layer_mask: Callable[..., Tensor] | None = None,
) -> Callable[[Rule], Rule]:
    """Declare the inputs that a rule needs, and its other `Marks`: for a function, or a class whose instances are
    rules."""
    marks = Marks(
        frozenset(fields), rowwise, summary, per_row, mixes, min_teachers, teacher, whole, sparse, joint, layer_mask
    )

    def declare(rule: Rule) -> Rule:
        rule.marks = marks  # pyright: ignore[reportFunctionMemberAccess]
        return rule

    return declare


def marks_of(rule: Any) -> Marks:
    """The marks of a rule, through partials; of an ensemble, all that its members need; else `UNDECLARED`."""
    function = function_of(rule)
    marks = getattr(function, "marks", None)
    if isinstance(marks, Marks):
        return marks
    if hasattr(function, "members"):
        marks = [marks_of(member) for member in members_of(function).values()]
        return Marks(frozenset().union(*(m.needs for m in marks)), per_row=any(m.per_row for m in marks))
    return UNDECLARED


def function_of(rule: Any) -> Any:
    """The function, class or object below partials."""
    return function_of(rule.func) if isinstance(rule, functools.partial) else rule


def members_of(rule: Any) -> Mapping[str, Callable[..., Any]]:
    """The members of an ensemble by name; any other rule is its only member, under the name ""."""
    return getattr(rule, "members", {"": rule})
