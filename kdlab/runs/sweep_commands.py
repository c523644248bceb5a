"""The commands of a sweep, in `sweep.json` of its folder: what was run there, to be run again with more seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdlab.storage.files import atomic_write_json

NAME = "sweep.json"
# keys of a run's command that are not of the next one
_OWN = ("seed", "overwrite", "resume", "hydra.run.dir")


def add(home: Path, overrides: Sequence[str]) -> None:
    """Add the overrides of a sweep's command to those in its folder, which is made if it is not there."""
    known = commands(home)
    if list(overrides) not in known:
        home.mkdir(parents=True, exist_ok=True)
        atomic_write_json(home / NAME, {"commands": [*known, list(overrides)]})


def commands(home: Path) -> list[list[str]]:
    """The overrides of the commands that ran in a sweep's folder; empty where none are known."""
    try:
        found = json.loads((home / NAME).read_text(encoding="utf-8"))["commands"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    lists = found if isinstance(found, list) else [None]
    valid = all(isinstance(one, list) and all(isinstance(line, str) for line in one) for one in lists)
    return found if valid else []


def with_seeds(overrides: Iterable[str], seeds: Iterable[int]) -> list[str]:
    """The overrides of a sweep over `seeds` that is otherwise as `overrides` say."""
    kept = [line for line in overrides if line.lstrip("+").partition("=")[0] not in (*_OWN, "-m")]
    return ["-m", *kept, f"seed={','.join(map(str, seeds))}"]
