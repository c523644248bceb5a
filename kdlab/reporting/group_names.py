"""Names of groups and of settings: as short as they can be, and no two the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdlab.runs.settings_used import Facts
from kdlab.storage.escaping import shortened


def joined(settings: Mapping[str, str]) -> str:
    """Settings as one text, "key=value ..."."""
    return " ".join(f"{label}={value}" for label, value in settings.items())


def names_of(members: Sequence[Facts]) -> list[dict[str, str]]:
    """For each group its settings by their labels, of what differs between them: short, and no two the same.

    Settings that some groups lack, as the teachers' where there is no teacher, are named only where others do not do.
    """
    every = dict.fromkeys(key for facts in members for key in facts if not key.endswith("_partial_"))
    differ = [key for key in every if len({repr(facts.get(key)) for facts in members}) > 1]
    shared = [key for key in differ if len({repr(facts[key]) for facts in members if key in facts}) > 1]
    found: list[dict[str, str]] = []
    for keys, absent in ((shared, False), (differ, False), (differ, True)):
        found = _named(members, every, keys, absent)
        if len({*map(joined, found)}) == len(found) and all(found):
            break
    return found


def _named(members: Sequence[Facts], every: Iterable[str], keys: Sequence[str], absent: bool) -> list[dict[str, str]]:
    """The settings that name groups, of `keys`; `absent`: also by those that a group lacks.

    Where a part of the configuration has a name (select.name), that stands for all of the part, except for what
    differs between groups of the same name, and the ratio.
    """
    keys = sorted(keys, key=lambda key: (key != "select.name", key != "select.ratio"))
    named = {key.removesuffix(".name") for key in keys if key.endswith(".name") and key.count(".") == 1}

    def says(facts: Facts, key: str) -> bool:
        part = key.split(".")[0]
        if key == "select.ratio":
            return facts.get(key) != 1
        if part not in named or key == f"{part}.name":
            return True
        return len({repr(m.get(key)) for m in members if m.get(f"{part}.name") == facts.get(f"{part}.name")}) > 1

    labels = {key: label_of(key, every) for key in keys}
    values = {key: values_of(key, [facts.get(key) for facts in members]) for key in keys}
    return [
        {labels[key]: values[key][i] for key in keys if says(facts, key) and (absent or key in facts)}
        for i, facts in enumerate(members)
    ]


def label_of(key: str, every: Iterable[str]) -> str:
    """The shortest end of a dotted key that no other of the configuration has; `select` of `select.name`. Budgets have their
    whole key: a column or a setting of another kind may be called `queries` or `seconds`."""
    if key.startswith("budget."):
        return key
    named = re.sub(r"\.(name|_target_)$", "", key).split(".")
    others = [other.split(".") for other in every if other != key]
    for size in range(2 if key.endswith("._target_") else 1, len(named)):
        if all(other[-size:] != named[-size:] for other in others):
            return ".".join(named[-size:])
    return ".".join(named)


def values_of(key: str, values: Sequence[Any]) -> list[str]:
    """Values as text: of paths and code names only the last part, if these differ."""
    texts = ["null" if v is None else re.sub(r"\s+|\.0$", "", str(v)) for v in values]
    ends = [text.rsplit("." if key.endswith("_target_") else "/", 1)[-1] for text in texts]
    return [shortened(text) for text in (ends if all(ends) and len({*ends}) == len({*texts}) else texts)]
