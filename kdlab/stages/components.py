"""Instantiate the targets of a configuration: strategies, adoption rules, policies, rewards, knowledge terms."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.utils import get_object, instantiate

from kdlab.config.groups.knowledge import KnowledgeConfig
from kdlab.config.groups.select import SelectConfig
from kdlab.config.groups.teachers import AdoptConfig
from kdlab.errors import UserError
from kdlab.methods.knowledge.base import on_logits
from kdlab.methods.marks import marks_of, members_of
from kdlab.methods.selection.candidates import reads_student
from kdlab.methods.selection.rewards.base import reads
from kdlab.methods.selection.strategy_state import has_state
from kdlab.modules.objective import WeightedTerm
from kdlab.plugins import guards, own_modules
from kdlab.plugins.guards import Guard, Kind
from kdlab.stages.dry_run import check_adoption
from kdlab.teachers.specs import TeacherSpec


@dataclass
class Selection:
    """The instantiated parts of a group that chooses: the arms, the policy that picks one, the reward it learns from."""

    arms: dict[str, Any]
    policy: Any
    reward: Any = None
    ratios: dict[str, float] = field(default_factory=dict)
    """The ratio of each arm that has one of its own; such an arm is called strategy@ratio."""

    @property
    def strategies(self) -> dict[str, Any]:
        """The strategies of the arms, each once."""
        return {name.partition("@")[0] if name in self.ratios else name: arm for name, arm in self.arms.items()}


def selection(select: SelectConfig) -> Selection:
    """Strategies, policy and reward; UserError for arms that do not exist or a policy that cannot use them."""
    if not select.arms:
        raise UserError("select.arms is empty: give it strategies, or choose select=random")
    arms = {name: build_target(target, f"select.arms.{name}", "strategy") for name, target in select.arms.items()}
    for name, arm in arms.items():
        if not callable(arm):
            raise UserError(f"select.arms.{name} is not a strategy (a function of Evidence)")
        _check_scoring(select, name, arm)
    arms, ratios = with_ratios(select, arms)
    more: dict[str, Any] = {"ratio": select.ratio} if takes_ratio(select.policy) else {}
    policy = build_target(select.policy, "select.policy", "policy", arms=list(arms), **more)
    reward = build_target(select.reward, "select.reward", "reward") if select.reward is not None else None
    if hasattr(policy, "learn") and reward is None:
        raise UserError(
            f"select.reward is missing: {type(policy).__name__} learns from rewards, e.g. kdlab.methods.selection.rewards.LossDecay"
        )
    if reward is not None and not hasattr(policy, "learn"):
        raise UserError(
            f"select.reward: {type(policy).__name__} learns nothing from rewards; select.reward=null, or a policy that learns, "
            "such as select=adads"
        )
    _check_observed(select, arms, reward)
    return Selection(arms, policy, reward, ratios)


def _check_observed(select: SelectConfig, arms: Mapping[str, Any], reward: Any) -> None:
    """UserError where the rows that are scored cannot be an adaptive policy's observation."""
    if select.observe != "scored" or reward is None:
        return
    if select.scoring != "fresh":
        which = "of rows that are due alone, no uniform sample" if select.scoring == "stale" else "by some layers alone"
        raise UserError(
            f"select.observe=scored select.scoring={select.scoring}: scores are {which}, and their loss is not the "
            "student's; select.observe=task, or select.scoring=fresh"
        )
    if not any(map(reads_student, arms.values())):
        raise UserError(
            "select.observe=scored: no strategy of select.arms scores rows by the student; select.observe=task"
        )
    if "probe" in reads(reward):
        raise UserError(
            "select.observe=scored: the reward Probe observes the copies that it trains; select.observe=task"
        )


def with_ratios(select: SelectConfig, arms: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Each strategy at each of `select.ratios`, as arms strategy@ratio, and the ratio of each; the strategies as they are
    without ratios. UserError where no policy keeps the mean ratio."""
    if select.ratios is None:
        return dict(arms), {}
    if select.ratio == 1:
        raise UserError(
            "select.ratios: select.ratio=1 keeps all rows, so there is no ratio to choose; select.ratio=0.1"
        )
    ratios = select.ratio_choices()
    if not ratios[0] <= select.ratio <= ratios[-1]:
        raise UserError(
            f"select.ratio={select.ratio:g}: the mean of select.ratios, which are {ratios[0]:g} to {ratios[-1]:g}"
        )
    if not takes_ratio(select.policy):
        raise UserError(
            f"select.ratios with select={select.name}: its policy keeps no mean ratio, so queries would be others than "
            "those of select.ratio; select=ratios"
        )
    each = {f"{name}@{ratio:g}": (arm, ratio) for name, arm in arms.items() for ratio in ratios}
    return {name: arm for name, (arm, _) in each.items()}, {name: ratio for name, (_, ratio) in each.items()}


def takes_ratio(policy: Any) -> bool:
    """True if the class of a policy's target declares `takes_ratio = True`: it takes the mean ratio, and keeps to it."""
    named = policy.get("_target_") if isinstance(policy, Mapping) else None
    return bool(named) and bool(getattr(get_object(str(named)), "takes_ratio", False))


def _check_scoring(select: SelectConfig, name: str, arm: Any) -> None:
    """UserError for an arm whose rows cannot be scored as `select.scoring` and `select.scope` have it."""
    for member in members_of(arm).values():
        marks = marks_of(member)
        if has_state(member) and (select.scoring != "fresh" or select.scope == "local"):
            key = "scope" if select.scoring == "fresh" else "scoring"
            raise UserError(
                f"select.{key}={getattr(select, key)}: select.arms.{name} keeps a history of each row, which all ranks "
                "write at each visit by the student's own answer; select.scoring=fresh and select.scope=global"
            )
        if "votes" in marks.needs and select.scoring == "early_exit":
            raise UserError(
                f"select.scoring=early_exit: select.arms.{name} asks a committee of which the whole student is a member; "
                "select.scoring=fresh or stale"
            )


def exit_layer(select: SelectConfig, depth: int) -> int:
    """Number of the student's `depth` layers before the early exit that scores rows; UserError for too many."""
    layers = (depth + 1) // 2 if select.exit_layer is None else select.exit_layer
    if layers > depth:
        raise UserError(f"select.exit_layer={layers}: the student has {depth} layers")
    return layers


def adoption(
    adopt: AdoptConfig, members: Sequence[TeacherSpec], joint: Sequence[str], regression: bool
) -> Selection | None:
    """Adoption rules and their policy; None where no rule is needed. UserError as `check_adoption`, and for Monte Carlo
    dropout that no rule reads."""
    arms = {name: build_target(target, f"adopt.arms.{name}", "adoption") for name, target in adopt.arms.items()}
    check_adoption(adopt.name, arms, members, joint, regression)
    if adopt.mc_dropout and not any("teachers" in marks_of(rule).needs for rule in arms.values()):
        raise UserError(
            f"adopt.mc_dropout={adopt.mc_dropout}: adopt={adopt.name} does not go by the teachers' uncertainty, which this "
            "is for; adopt=muki_soft or muki_hard, or adopt.mc_dropout=0"
        )
    if not arms:
        return None
    policy = build_target(adopt.policy, "adopt.policy", "policy", arms=list(arms))
    if hasattr(policy, "learn"):
        raise UserError(f"adopt.policy: {type(policy).__name__} learns from rewards, and adoption gives none")
    return Selection(arms, policy)


def terms(knowledge: KnowledgeConfig, tolerant: bool = False) -> dict[str, WeightedTerm]:
    """The knowledge terms with a weight above 0; `tolerant`: the user's own may be NaN, for steps that are left out."""
    weighted = {}
    for name, t in knowledge.terms.items():
        if t.weight > 0:
            at = "labelled" if t.at == "masked" else t.at  # the same thing in the words of masked-LM
            term = build_target(t.term, f"knowledge.terms.{name}.term", "term", tolerant)
            if t.trains == "head" and not on_logits(term):
                raise UserError(f"knowledge.terms.{name}.trains=head: the term reads no logits, so it trains no head")
            weighted[name] = WeightedTerm(term, t.weight, at, t.since, t.until, t.teacher, t.trains == "head")
    return weighted


def build_target(target: Any, where: str, kind: Kind, tolerant: bool = False, **more: Any) -> Any:
    """Instantiate a target of the configuration at `where`; passes on a UserError, raises one for other failures.

    Calls of the user's own code are guarded; `kind` and `tolerant` as of `Guard`.
    """
    try:
        built = instantiate(target, _convert_="all", **more)
    except Exception as error:
        cause = error.__cause__ or error
        named = str(target.get("_target_")) if isinstance(target, Mapping) else ""
        if named and own_modules.of_target(named):
            assert isinstance(cause, Exception)
            raise guards.call_error(cause, where, get_object(named)) from error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{where}: {str(cause).splitlines()[0]}") from error
    return guards.guarded(_plain(built), Guard(where, kind, more.get("arms", ()), tolerant))


def _plain(built: Any) -> Any:
    """A partial of Hydra's as one of functools: Hydra's checks its target once more in each call, which takes longer than a small
    loss. The allow-list (`kdlab.config.targets`), and Hydra when it made the partial, have checked it."""
    return (
        functools.partial(built.func, *built.args, **built.keywords) if isinstance(built, functools.partial) else built
    )
