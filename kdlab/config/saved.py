"""Read the config.yaml of a run folder, also one that an older version wrote, or one of a run that began elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdlab.config import spellings
from kdlab.config.targets import current_targets
from kdlab.storage import yaml_io

STARTED_IN = "started_in"  # key of result.json: the folder in which the command ran, to which its paths are relative
RUN_FOLDER = "run_folder"  # key of result.json: the run folder, relative to that folder
# keys of files and folders that a run reads, besides `path` in any group
_PATHS = ("artifacts", "budget.like", "data.augment.model", "data.augment.table", "select.reference")
_WORDS = {"select.reference": "teacher"}  # values of these keys that name no file


def read_config(run: Path) -> dict[str, Any]:
    """The configuration in `run`/config.yaml as plain containers, moved targets and keys under their present names.

    UserError for a file that cannot be read or is not a mapping.
    """
    return spellings.configuration(current_targets(yaml_io.read(run / "config.yaml")))


def read_config_here(run: Path) -> dict[str, Any]:
    """`read_config`, with relative paths that mean the same files in the present folder as where the run was started."""
    config, folder = read_config(run), started_in(run)
    return config if folder is None or folder == Path.cwd() else anchored(config, folder)


def with_recipe_of(run: Path, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """`resolved` with the preparation of teachers of the run in a folder, where an older kdlab wrote its config.yaml: with it
    the run is resumed, and finds its teachers."""
    return spellings.with_recipe(resolved, yaml_io.read(run / "config.yaml"))


def started_in(run: Path) -> Path | None:
    """The folder in which the command of a run was started; None for a run that recorded none."""
    try:
        found = json.loads((run / "result.json").read_text(encoding="utf-8"))[STARTED_IN]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Path(found) if isinstance(found, str) and "\0" not in found and os.path.isabs(found) else None


def moved_along(run: Path) -> bool:
    """True if a run lies to the present folder as it lay to the one it was started in: both were moved or copied together,
    and its relative paths mean the files here."""
    try:
        found = json.loads((run / "result.json").read_text(encoding="utf-8"))[RUN_FOLDER]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return found == os.path.relpath(run)


def anchored(config: Mapping[str, Any], folder: Path, where: str = "") -> dict[str, Any]:
    """`config` with each relative path absolute where `folder` has such a file; else, as for a Hub name, as it is."""
    made = {}
    for key, value in config.items():
        name = f"{where}{key}"
        if isinstance(value, Mapping):
            value = anchored(value, folder, f"{name}.")
        elif isinstance(value, list):
            value = [anchored(one, folder, f"{name}.") if isinstance(one, Mapping) else one for one in value]
        elif isinstance(value, str) and (key == "path" or name in _PATHS) and value != _WORDS.get(name):
            value = str(folder / value) if _exists(folder, value) else value
        made[key] = value
    return made


def _exists(folder: Path, value: str) -> bool:
    try:
        return bool(value) and not value.startswith("~") and not os.path.isabs(value) and (folder / value).exists()
    except (OSError, ValueError):  # a text that cannot be a path
        return False
