"""A finished run beside random selection at the same ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlab.config.saved import read_config
from kdlab.errors import UserError
from kdlab.runs.closing import costs
from kdlab.runs.closing.cost_lines import duration, si
from kdlab.runs.closing.costs import RunCost
from kdlab.runs.closing.scores import headline, taught
from kdlab.runs.finished import read_result
from kdlab.runs.settings_used import below, learning, settings_used, without_seed


def beside_random(result: dict[str, Any], folder: Path) -> str:
    """Compare with random selection at the same ratio: the newest finished run in the same output folder with the same
    seed, else any seed, that used the same settings but for the selection. "" without such a run."""
    if result["select"]["name"] == "random" or result["select"]["ratio"] == 1:
        return ""
    mine = _comparable(folder, result)
    found = []
    for other in sorted(folder.parent.iterdir()):
        theirs, _ = read_result(other) if other != folder and other.is_dir() else (None, "")
        if theirs is None or theirs["select"]["name"] != "random":
            continue
        if {**theirs["select"], "name": result["select"]["name"]} == result["select"] and mine == _comparable(
            other, theirs
        ) is not None:
            found.append((theirs["seed"] == result["seed"], other.name, theirs))
    if not found:
        return ""
    _, name, theirs = max(found, key=lambda one: one[:2])
    lines = [f"beside random at the same ratio ({name}, seed {theirs['seed']})"]
    for who, one in (("this run", result), ("random", theirs)):
        lines.append(f"  {who:<16} {headline(one):<12} {_costs(costs.own(one))}")
        if costs.needed_stages(one):
            lines.append(f"  {'with preparation':<16} {'':<12} {_costs(costs.total(one))}")
    return "\n" + "\n".join(lines)


def _costs(cost: RunCost) -> str:
    least = "" if cost.measured else ">="
    return f"{f'{least}{cost.queries:,}':>9} queries  {least + si(cost.flops):>9}FLOPs  {duration(cost.seconds)}"


def _comparable(folder: Path, result: dict[str, Any]) -> dict[str, Any] | None:
    """The settings that a run used, without those that may differ within a comparison; None if they cannot be read."""
    try:
        found = settings_used(read_config(folder), result, taught(result))
    except (UserError, TypeError, ValueError, AttributeError):
        return None
    return {
        key: without_seed(value, result["seed"]) if isinstance(value, str) else value
        for key, value in learning(found).items()
        if not below(key, "select")
    }
