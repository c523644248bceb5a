"""Settings in which a group and its baseline must agree before their difference means anything.

What a sweep asks about (selection with its ratio, adoption, weighing) may differ; all else that has an effect may not:
data, lengths, teacher, student, knowledge, steps, batch, learning rate, precision. With the same budget the steps may
differ, for they follow from it; so they may from a run that cost what the budget allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from kdlab.errors import UserError, nearest
from kdlab.reporting.group_names import label_of, values_of
from kdlab.reporting.seed_groups import Group
from kdlab.runs.closing.question import QUESTION
from kdlab.runs.settings_used import BUDGETS, NAMED_BY, Facts, below

STEPS = ("trainer.max_steps", "trainer.max_epochs")
NEAR = 0.05  # share by which equal costs may differ
SHOWN = 3  # settings that differ, in one cell


def differing(one: Group, other: Group, across: Sequence[str] = QUESTION) -> list[str]:
    """Keys of the settings in which two groups differ, those below `across` and those that follow from them excluded."""
    apart = [*across]
    if _budget(one.facts) == _budget(other.facts) != {}:
        apart += STEPS
    elif _spent(one, other) or _spent(other, one):
        apart += [*STEPS, "budget"]
    if "knowledge" in across and one.one.taught != other.one.taught:
        apart.append("teachers")  # labels alone have no teacher
    keys = dict.fromkeys([*one.facts, *other.facts])
    return [
        key
        for key in keys
        if repr(one.facts.get(key)) != repr(other.facts.get(key)) and not any(below(key, name) for name in apart)
    ]


def described(one: Group, other: Group, across: Sequence[str] = QUESTION) -> str:
    """The settings in which two groups differ, each with both values: "max_steps 60, 500; knowledge pkd, response"."""
    found = differing(one, other, across)
    every = [*one.shown, *other.shown]
    parts = list(dict.fromkeys(_key_and_values(key, one, other, every) for key in _telling(found, one, other)))
    more = f"; and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return "; ".join(parts[:SHOWN]) + more


def spread_of_settings(groups: Sequence[Group], across: Sequence[str] = QUESTION) -> list[str]:
    """The settings that differ among groups which are not in question, each with all its values; empty where all compare."""
    keys = dict.fromkeys(
        key for other in groups[1:] for key in _telling(differing(groups[0], other, across), groups[0], other)
    )
    every = [key for group in groups for key in group.shown]
    lines = []
    for key in _names_first(keys):
        shown = list(dict.fromkeys(_value(key, group) for group in groups))
        lines.append(f"{_label(key, every)} {', '.join(shown)}")
    return list(dict.fromkeys(lines))


def check_across(across: Iterable[str], groups: Sequence[Group]) -> None:
    """UserError for a setting that no group has."""
    known = dict.fromkeys(
        ".".join(key.split(".")[:size])
        for group in groups
        for key in group.facts
        for size in range(1, key.count(".") + 2)
    )
    for name in across:
        if name not in known:
            raise UserError(f"--across {name}: no run has a setting {name}; {nearest(name, known)}")


def _budget(facts: Facts) -> Facts:
    return {key: facts[key] for key in BUDGETS if facts.get(key) is not None}


def _spent(budgeted: Group, other: Group) -> bool:
    """True if `other` cost, by `NEAR`, what the budget of `budgeted` allows: the steps of the latter follow from that."""
    budgets = [run.result.get("budget") or {} for run in budgeted.runs.values()]
    kinds = {kind for kind in ("queries", "flops", "seconds") if all(kind in (b.get("asked") or {}) for b in budgets)}
    if not kinds:
        return False
    spent = other.total if any(b.get("preparation") for b in budgets) else other.own
    asked = {kind: fmean(b["asked"][kind] for b in budgets) for kind in kinds}
    return any(abs((getattr(spent, kind) or 0) - amount) <= NEAR * amount for kind, amount in asked.items())


def _telling(keys: Sequence[str], one: Group, other: Group) -> list[str]:
    """Of keys that differ those to show: what both groups have, and a choice's name in place of all that it sets."""
    both = [key for key in keys if key in one.facts and key in other.facts]
    return _names_first(both or keys)


def _names_first(keys: Iterable[str]) -> list[str]:
    keys = list(keys)
    named = {key.removesuffix(".name") for key in keys if key.endswith(".name") and key.count(".") == 1}
    return [key for key in keys if key.split(".")[0] not in named or key == f"{key.split('.')[0]}.name"]


def _key_and_values(key: str, one: Group, other: Group, every: Iterable[str]) -> str:
    if key in NAMED_BY:
        return f"{_label(key, every)} {_value(key, one)}, {_value(key, other)}"
    mine, theirs = values_of(key, [one.facts.get(key, "-"), other.facts.get(key, "-")])
    return f"{_label(key, every)} {mine}, {theirs}"


def _label(key: str, every: Iterable[str]) -> str:
    return key.split(".")[0] if key in NAMED_BY else label_of(key, every)


def _value(key: str, group: Group) -> str:
    """A value as text; of rows and models the settings that name them, else the start of their hash."""
    if key not in NAMED_BY:
        return values_of(key, [group.facts.get(key, "-")])[0]
    names = [value for name, value in group.one.named_by(key).items() if value is not None]
    return (
        " ".join(values_of(key, [name])[0].rsplit("/", 1)[-1] for name in names) or str(group.facts.get(key, "-"))[:8]
    )
