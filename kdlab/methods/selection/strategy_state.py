"""States of strategies: what a strategy with `state_dict` and `load_state_dict` keeps from step to step.

A selector saves them with the run and restores them. Members of an ensemble count like strategies of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdlab.errors import UserError
from kdlab.methods.marks import function_of, members_of


def has_state(strategy: Any) -> bool:
    """True for an object with `state_dict` and `load_state_dict`; False for functions, and for classes themselves."""
    found = function_of(strategy)
    methods = ("state_dict", "load_state_dict")
    return not isinstance(found, type) and all(callable(getattr(found, name, None)) for name in methods)


def stateful_members(arms: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The strategies with a state among `arms` and the members of ensembles, by "ARM" or "ARM.MEMBER"."""
    for name, arm in arms.items():
        if has_state(arm):
            yield name, function_of(arm)
        for member, strategy in members_of(arm).items():
            if strategy is not arm and has_state(strategy):
                yield f"{name}.{member}", function_of(strategy)


def arm_states(arms: Mapping[str, Any]) -> dict[str, Any]:
    """The states of all strategies among `arms` that have one, by name."""
    return {name: strategy.state_dict() for name, strategy in stateful_members(arms)}


def restore_arm_states(arms: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Restore what `arm_states` returned. UserError where a strategy has no state in the checkpoint."""
    for name, strategy in stateful_members(arms):
        if name not in states:
            raise UserError(
                f"the checkpoint has no state of the strategy {name}, which keeps one: it was saved by another strategy"
            )
        strategy.load_state_dict(states[name])
