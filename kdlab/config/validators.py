"""Checks of single configuration values; each raises a UserError of one line.

`name` is the dotted key that the line names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdlab.errors import UserError, nearest

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{name}={value}: {nearest(str(value), allowed)}")


def at_least(name: str, value: int, lowest: int) -> None:
    """UserError for a value below `lowest`."""
    if value < lowest:
        raise UserError(f"{name}={value}: at least {lowest}")


def plain(name: str) -> bool:
    """True if `name` consists of letters, digits, _ and -, as column names and configuration keys need it."""
    return bool(name) and name.replace("_", "").replace("-", "").isalnum()


def only_targets(where: str, arms: Mapping[str, Any]) -> None:
    """UserError unless each arm of the group `where` has a `plain` name and names code (`_target_`)."""
    for name, arm in arms.items():
        if not isinstance(arm, Mapping) or "_target_" not in arm:
            raise UserError(
                f"{where}.{name}={arm}: code was expected, as {{_target_: kdlab.MODULE.NAME, _partial_: true}}"
            )
        if not plain(name):
            raise UserError(f"{where}: {name!r} is no plain name (letters, digits, _ and -)")


def sampled(importance: bool, temperature: float | None, balance: str) -> None:
    """UserError for importance weights of rows whose chance of being kept is not known."""
    if importance and temperature is None:
        raise UserError(
            "select.importance=true select.temperature=null: weights make up for the chance by which a row is kept, and "
            "the best rows are kept by no chance; give select.temperature, such as 0.5"
        )
    if importance and balance != "none":
        raise UserError(
            f"select.importance=true select.balance={balance}: the chance by which balanced rows are kept is not "
            "known; select.balance=none, or select.importance=false"
        )
