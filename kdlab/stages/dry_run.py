"""Dry run of terms and adoption rules on tensors of the right shapes, to refuse contradictions before models load."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import fields_beyond_logits, is_joint
from kdlab.methods.marks import marks_of, members_of
from kdlab.methods.selection.policies.context import chosen_arm
from kdlab.methods.selection.rewards.base import reads
from kdlab.methods.selection.strategy_state import stateful_members
from kdlab.models.attention import capture
from kdlab.modules.objective import WeightedTerm
from kdlab.plugins import own_modules
from kdlab.runtime.seeding import generator
from kdlab.teachers.specs import TeacherSpec
from kdlab.types import Context, Evidence, Observation, Outputs


@dataclass(frozen=True)
class ModelShape:
    """The shape of a model as terms read it: number of layers and attention heads, hidden width; and its config."""

    layers: int
    heads: int
    width: int
    config: Any

    @classmethod
    def of(cls, config: Any, layers: int | None = None, width: int | None = None) -> ModelShape:
        """The shape of a model of `config`; `layers` and `width` override those of the config."""
        return cls(layers or config.num_hidden_layers, config.num_attention_heads, width or config.hidden_size, config)

    def example_outputs(self, outputs: int, label: Tensor, width: int = 1) -> Outputs:
        """Outputs for one row of two tokens with `outputs` logits; `width` is 1 where projections make widths equal."""
        state = torch.ones(1, 2, width)
        return Outputs(
            logits=torch.linspace(-1, 1, outputs).unsqueeze(0),
            labels=label,
            hidden=state,
            mask=torch.ones(1, 2, dtype=torch.long),
            states=(state,) * (self.layers + 1),
            scores=(torch.zeros(1, self.heads, 2, 2),) * self.layers,
            values=(torch.ones(1, self.heads, 2, 1),) * self.layers,
        )


def check_own_strategies(
    arms: Mapping[str, Any], fresh: Mapping[str, Any], outputs: int, label: Tensor, width: int, per_row: bool
) -> None:
    """Score four example rows by the strategies that are the user's own; their guards refuse what they return wrongly.

    States are restored into those of `fresh`, the same arms built once more. `outputs` and `label` as of `check_terms`; `width`: of the student; `per_row`: the rows are labelled, not masked text.
    """
    places = () if per_row else (2,)
    logits = torch.linspace(-1, 1, 4 * (places or (1,))[0] * outputs).sin().view(4, *places, outputs)
    evidence = Evidence(
        rows=torch.arange(4),
        logits=logits,
        features=torch.linspace(-1, 1, 4 * width).cos().view(4, width),
        votes=torch.stack([logits, -logits, logits / 2]),
        labels=label[0].expand(4, *places),
        mask=None if per_row else torch.ones(4, *places, dtype=torch.bool),
        teacher=logits.cos(),
        reference_loss=torch.linspace(0, 1, 4),
        keep=2,
        progress=0.5,
        rng=generator(0, "example"),
    )
    for arm in arms.values():
        for strategy in members_of(arm).values():
            if own_modules.is_own(strategy):
                strategy(evidence.only(marks_of(strategy).needs))
    unused = dict(stateful_members(fresh))
    for name, strategy in stateful_members(arms):
        if own_modules.is_own(strategy):
            unused[name].load_state_dict(strategy.state_dict())


def check_own_policy(policy: Any, reward: Any, fresh_policy: Any, fresh_reward: Any) -> None:
    """Use a policy and a reward that are the user's own as a training does, and restore their states into fresh ones."""
    if own_modules.is_own(reward):
        for step in range(3):
            loss = 1.0 / (1 + step)
            reward.observe(Observation(loss, step, "example" if step else None) if reads(reward) else loss)
        fresh_reward.load_state_dict(reward.state_dict())
        reward.restart()
    if own_modules.is_own(policy):
        for step in range(3):
            arm = chosen_arm(policy, generator(0, "example", step), Context(step / 3))
            if hasattr(policy, "learn"):
                policy.learn(arm, 0.1 * step)
        fresh_policy.load_state_dict(policy.state_dict())


def check_terms(
    terms: Mapping[str, WeightedTerm],
    student: ModelShape,
    members: Sequence[TeacherSpec],
    outputs: int,
    label: Tensor,
    head: Any,
) -> None:
    """Evaluate every term on example outputs of the student and of the teachers it reads (joint terms: all at once).

    `outputs`: logits per prediction; `label` (1,): an example; `head`: the auto class of the models. UserError for
    terms that cannot compare them, and for a term of the largest teacher where teachers are specialists.
    """
    shapes = [ModelShape.of(member.config) for member in members]
    if frozenset().union(*(fields_beyond_logits(w.term) for w in terms.values())) & {"scores", "values"}:
        for model_config in {
            id(config): config for config in (student.config, *(member.source.config for member in members))
        }.values():
            with torch.device("meta"):
                capture.prepare(head.from_config(copy.deepcopy(model_config)))
    sizes = [outputs if member.classes is None else len(member.classes) for member in members]
    for name, w in terms.items():
        if is_joint(w.term):
            if isinstance(w.term, nn.Module):
                w.term.build(student.width, [s.width for s in shapes], 0)  # pyright: ignore[reportCallIssue]
            teachers = [shape.example_outputs(n, label, shape.width) for shape, n in zip(shapes, sizes, strict=True)]
            teachers = [replace(one, classes=member.classes) for one, member in zip(teachers, members, strict=True)]
            w.term(student.example_outputs(outputs, label, student.width), teachers)
            continue
        if w.reads_largest and members[-1].classes is not None:
            raise UserError(
                f"knowledge.terms.{name}.teacher=largest: the teachers are specialists of some classes each, none of them "
                f"is the teacher of every row; knowledge.terms.{name}.teacher=adopted"
            )
        for shape, n in list(zip(shapes, sizes, strict=True))[-1 if w.reads_largest else 0 :]:
            w.term(student.example_outputs(n, label), shape.example_outputs(n, label))


def check_adoption(
    name: str, arms: Mapping[str, Any], members: Sequence[TeacherSpec], joint: Sequence[str], regression: bool
) -> None:
    """UserError unless the adoption rules `arms` of adopt=`name` can choose among the teachers.

    `joint`: names of the terms that read all teachers at once. With these, or with specialists, several teachers need
    no rule. `regression`: True for a regression task.
    """
    together = bool(joint) or any(member.classes is not None for member in members)
    names = ", ".join(member.name for member in members)
    if not arms and len(members) > 1 and not together:
        raise UserError(
            f"adopt={name}: there are {len(members)} teachers ({names}), and no rule assigns rows to them: "
            "adopt=ensemble, hard, soft or every"
        )
    for arm, rule in arms.items():
        marks = marks_of(rule) if callable(rule) else None
        if marks is None:
            raise UserError(f"adopt.arms.{arm} is no adoption rule (a function of student, teachers and count)")
        if len(members) < marks.min_teachers:
            raise UserError(
                f"adopt={name}: {arm} chooses among {marks.min_teachers} teachers or more, and there is {names} alone: "
                "+teachers.others.small.layers=N adds a shallower one, adopt=assistant an assistant"
            )
        if regression and marks.needs:
            raise UserError(
                f"adopt={name}: {arm} goes by uncertainty, and this task is regression, which has none: adopt=ensemble or every"
            )
        uncertainty = torch.full((3, len(members)), 0.5) if "teachers" in marks.needs else None
        rows: dict[str, Any] = {"rows": torch.arange(3), "numbers": torch.zeros_like} if "rows" in marks.needs else {}
        try:
            weights = rule(torch.full((3,), 0.5), uncertainty, len(members), **rows)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"adopt.arms.{arm} is no adoption rule: {str(error).splitlines()[0]}") from error
        shape = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        if shape != (3, len(members)):
            raise UserError(
                f"adopt.arms.{arm}: of 3 rows and {len(members)} teachers it returned {shape}, not (3, {len(members)})"
            )
        assert isinstance(weights, Tensor)
        if joint and uncertainty is None and not bool((weights > 0).all()):
            raise UserError(
                f"adopt={name}: {arm} queries only some teachers, and {', '.join(joint)} reads all of them: adopt=every"
            )
