"""Checks of one value of a configuration, each with the line a user reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kdlab.errors import UserError, nearest

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name}={value}: {nearest(str(value), allowed)}")


def at_least(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise UserError(f"{name}={value}: at least {lowest}")


def positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name}={value}: a number above 0")


def share(name: str, value: float, below_one: bool = False) -> None:
    if not 0 < value <= 1 or (below_one and value == 1):
        raise UserError(f"{name}={value}: a share above 0 and {'below' if below_one else 'at most'} 1")


def below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name}={value}: at least 0 and below 1")


def plain(name: str) -> bool:
    """Whether `name` can stand in a table's head and in a key of the configuration."""
    return bool(name) and name.replace("_", "").replace("-", "").isalnum()


def only_targets(where: str, arms: Mapping[str, Any]) -> None:
    """UserError unless each arm has a plain name and names code (`_target_`)."""
    for name, arm in arms.items():
        if not isinstance(arm, Mapping) or "_target_" not in arm:
            raise UserError(
                f"{where}.{name}={arm}: code was expected, as {{_target_: kdlab.ROOM.NAME, _partial_: true}}"
            )
        if not plain(name):
            raise UserError(f"{where}: {name!r} is no plain name (letters, digits, _ and -)")


def number_or_list(layers: Any) -> bool:
    """Whether `layers` is a number of layers from 1 on, or a list of layers from 0 on."""
    if isinstance(layers, list):
        return bool(layers) and all(type(x) is int and x >= 0 for x in layers)
    return type(layers) is int and layers >= 1
