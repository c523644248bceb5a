"""Filter runs by their configuration (`--where KEY=VALUE`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from kdlab.config import spellings
from kdlab.errors import UserError, nearest
from kdlab.reporting.seed_groups import Run


def where(runs: Sequence[Run], given: Sequence[str]) -> list[Run]:
    """The runs for which all conditions hold: "key=value", "key=value,value" (any of them) or "key!=value".

    Keys are those of the configuration, dotted as on the command line of a run (`data.task`, `optim.lr`, `seed`); the
    name of a group stands for its choice (`select=adads`), and `select=all` for every run at ratio 1. UserError for a
    condition that cannot be read, an unknown key, or where no run is left.
    """
    left = list(runs)
    known = dict.fromkeys(key for run in runs for key in _keys(run))
    for one in given:
        key, wanted, equal = _condition(one)
        key = spellings.key(key)
        if key not in known:
            raise UserError(f"--where {one}: no run has a setting {key}; {nearest(key, known)}")
        kept = [run for run in left if any(_same(_value(run, key), value) for value in wanted) == equal]
        if not kept:
            found = ", ".join(dict.fromkeys(str(_value(run, key)) for run in left))
            raise UserError(f"--where {one}: no run is left; {key} is {found} in these {len(left)} runs")
        left = kept
    return left


def _condition(text: str) -> tuple[str, list[str], bool]:
    key, sign, value = text.partition("=")
    equal = not key.endswith("!")
    key = key.removesuffix("!").strip()
    if not sign or not key:
        raise UserError(f"--where {text}: KEY=VALUE or KEY!=VALUE was expected, such as select=adads or seed=1,2")
    listed = value.strip().startswith("[")
    return key, [value] if listed else value.split(","), equal


def _read(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _keys(run: Run) -> list[str]:
    return [*run.facts, *(key.removesuffix(".name") for key in run.facts if key.endswith(".name"))]


def _value(run: Run, key: str) -> Any:
    if key in ("select", "select.name"):
        return run.select
    if key == "select.ratio":
        return run.ratio
    return run.facts[key] if key in run.facts else run.facts.get(f"{key}.name")


def _same(value: Any, required: str) -> bool:
    """1 and 1.0, 1e-3 and 0.001 are the same numbers; a list is compared as it prints, "off" both as text and as YAML."""
    read = _read(required)
    try:
        return float(value) == float(read)
    except (TypeError, ValueError, OverflowError):
        return str(value) in (required.strip(), str(read))
