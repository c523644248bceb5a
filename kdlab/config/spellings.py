"""Former spellings of groups and keys (`policy`, now `weigh`): accepted, with a line that names the new spelling."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.errors import UserError

FORMER = {"policy.chooser": "weigh.policy", "policy": "weigh"}  # former key or group: the one of today; longest first
# keys that configurations have had since a later version, and the values that older runs had without them
ADDED: dict[str, Any] = {
    "confirm": [],
    "keep": "all",
    "data.encoding": "utf-8",
    "data.max_unknown": None,
    "data.metric": None,
    "data.dev_share": None,
    "data.teacher_column": None,
    "data.generated": 0.0,
    "student.revision": None,
    "student.start": "backbone",
    "student.gradient_checkpointing": False,
    "student.lora": {"rank": None, "alpha": None, "targets": "all", "dropout": 0.0},
    "select.ratios": None,
    "select.unit": "row",
    "select.positions": 0.2,
    "select.per_row": True,
    "select.look": 1,
    "select.votes": "exits",
    "select.explore": 0,
    "select.balance": "none",
    "select.temperature": None,
    "select.importance": False,
    "select.warmup": 0,
    "select.replay": 0,
    "select.reference": "teacher",
    "select.credit_decay": 0.0,
    "select.credit_delay": 0,
    "select.probe_every": None,
    "select.probe_steps": 10,
    "trainer.log_every": 10,
    "trainer.measure_speed": True,
    "trainer.shard_student": False,
    "budget": {
        "queries": None,
        "flops": None,
        "seconds": None,
        "price": None,
        "price_per_query": None,
        "price_per_hour": None,
        "like": None,
        "by": "flops",
        "preparation": False,
    },
}
# how teachers were prepared before there were keys for it, and how they are by default since
FORMER_RECIPE: dict[str, tuple[Any, Any]] = {
    "teachers.exec": ("padded", "packed"),
    "teachers.prepare.precision": ("32-true", "auto"),
    "teachers.part_tokens": (None, "auto"),
}
ADDED |= {name: former for name, (former, _) in FORMER_RECIPE.items()}
# the keys of the same group without any of which such a key does not stand: of text, of tasks
BESIDE = {
    "data.max_unknown": {"masking"},
    "data.metric": {"label_column"},
    "data.dev_share": {"label_column"},
    "data.teacher_column": {"label_column", "prompt_column"},
    "data.generated": {"long_prompts"},
    "trainer.log_every": {"probes"},
    "trainer.measure_speed": {"probes"},
    "trainer.shard_student": {"shard_teacher"},
}
# an override: the signs in front of its key (+, ++, ~), its key, and the rest from @, = or / on
_OVERRIDE = re.compile(r"(\+\+|\+|~)?([A-Za-z_][\w.]*)(.*)", re.DOTALL)
_printed: set[str] = set()


def key(name: str) -> str:
    """The spelling of today of a dotted key or a group: `policy.phase` -> `weigh.phase`."""
    for former, current in FORMER.items():
        if name == former or name.startswith(f"{former}."):
            return current + name.removeprefix(former)
    return name


def former_key(name: str) -> str:
    """The former spelling of a dotted key or a group, for names of folders that were made with it."""
    for former, current in FORMER.items():
        if name == current or name.startswith(f"{current}."):
            return former + name.removeprefix(current)
    return name


def overrides(lines: Sequence[str]) -> list[str]:
    """`lines` of a command or a sweep file in the spelling of today; one line on stderr for each that was not."""
    return [_current(line) for line in lines]


def former_override(line: str) -> str:
    """One override in the former spelling."""
    return _with_key(line, former_key)


def _current(line: str) -> str:
    current = _with_key(line, key)
    first_process = {os.environ.get("LOCAL_RANK", "0"), os.environ.get("RANK", "0")} == {"0"}
    if current != line and line not in _printed and first_process:
        _printed.add(line)
        print(f"kdlab: {line}: spelled {current} now; the former spelling is still accepted", file=sys.stderr)
    return current


def _with_key(line: str, spelled: Callable[[str], str]) -> str:
    match = _OVERRIDE.fullmatch(line)
    return f"{match[1] or ''}{spelled(match[2])}{match[3]}" if match else line


def check_folder(folder: Path) -> None:
    """UserError where a folder of configuration files (`--config-dir`) has a group under its former name."""
    for former, current in FORMER.items():
        if (folder / former).is_dir() and not (folder / current).is_dir():
            raise UserError(f"{folder / former}: the group {former} is {current} now; rename the folder to {current}")


def configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config.yaml, as read from its file, in the spelling of today and with the keys that were added since."""
    return _with_added(_renamed(config, {"policy": "weigh"}, {"chooser": "policy"}))


def former_configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in the former spelling and without added keys, for hashes that older versions took of it."""
    return _renamed(_without_added(config), {"weigh": "policy"}, {"policy": "chooser"})


def with_recipe(resolved: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """`resolved` with the `FORMER_RECIPE` in place of the present default, where the config.yaml `saved`, as it was written,
    has no key for it."""
    config = dict(resolved)
    for name, (former, present) in FORMER_RECIPE.items():
        *groups, below = name.split(".")
        given, wrote = _group(config, groups), _group(saved, groups)
        if wrote is not None and below not in wrote and given is not None and given.get(below) == present:
            config = _set(config, groups, below, former)
    return config


def _group(config: Any, groups: Sequence[str]) -> dict[str, Any] | None:
    """The mapping at a path of groups; None where there is none."""
    for group in groups:
        config = config.get(group) if isinstance(config, Mapping) else None
    return config if isinstance(config, dict) else None


def _set(config: dict[str, Any], groups: Sequence[str], key: str, value: Any) -> dict[str, Any]:
    """A copy of `config` with another value of a key in a group."""
    if not groups:
        return {**config, key: value}
    return {**config, groups[0]: _set(config[groups[0]], groups[1:], key, value)}


def _with_added(config: dict[str, Any]) -> dict[str, Any]:
    for name, value in ADDED.items():
        *groups, below = name.split(".")
        keys = _group(config, groups)
        if not groups and "data" in config and name not in config:  # a whole configuration
            config = {**config, name: value}
        if groups and keys is not None and below not in keys and (name not in BESIDE or BESIDE[name] & keys.keys()):
            config = _set(config, groups, below, value)
    return config


def _without_added(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without added keys whose value is that of older runs."""

    def kept(group: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        found = {}
        for name, value in group.items():
            full = f"{where}{name}"
            if isinstance(value, Mapping) and full not in ADDED:
                value = kept(value, f"{full}.")
            if full not in ADDED or ADDED[full] != value:
                found[name] = value
        return found

    return kept(config)


def _renamed(config: Mapping[str, Any], groups: Mapping[str, str], below: Mapping[str, str]) -> dict[str, Any]:
    """`config` with some groups renamed, and some of the keys directly below these."""
    return {
        groups.get(name, name) if isinstance(value, Mapping) else name: (
            {below.get(key, key): inner for key, inner in value.items()}
            if name in groups and isinstance(value, Mapping)
            else value
        )
        for name, value in config.items()
    }
