"""Choose the folder of a run, and whether to resume an unfinished run in it.

A folder holds one run: `config.yaml` as resolved, `result.json` with its status. A finished run is never modified.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from kdlab.config.saved import read_config
from kdlab.errors import UserError

# Settings that do not change what a run computes: a run can be resumed with other values of these.
IRRELEVANT_KEYS = ("overwrite", "resume", "logger", "confirm")
# All files of a run that was ended before it wrote its first result.json.
UNSTARTED_FILES = {"config.yaml", ".config.yaml.tmp", ".result.json.tmp"}
IRRELEVANT_TRAINER_KEYS = ("checkpoint_every", "on_nonfinite", "nonfinite_limit")


def status(folder: Path) -> str | None:
    """The status in a folder's result.json ("running", "finished", "failed", "preempted"); None if it cannot be read."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return str(result["status"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def run_id(folder: Path) -> str | None:
    """The id of the run in a folder, the same over its interruptions; None if it cannot be read."""
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8")).get("run")
    except (OSError, ValueError, AttributeError):
        return None


def same_run(folder: Path, resolved: dict[str, Any]) -> bool:
    """True if the config.yaml in `folder` computes the same run as `resolved`."""
    try:
        return _essence(read_config(folder)) == _essence(resolved)
    except (UserError, ValueError, TypeError, RecursionError):
        return False


def _essence(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides what a run computes."""
    # through JSON, so that tuples and lists, or 1 and 1.0 read back from YAML, compare as they print
    kept = {name: value for name, value in resolved.items() if name not in IRRELEVANT_KEYS}
    if isinstance(kept.get("trainer"), dict):
        kept["trainer"] = {
            name: value for name, value in kept["trainer"].items() if name not in IRRELEVANT_TRAINER_KEYS
        }
    return json.loads(json.dumps(kept, sort_keys=True, default=str))


def outside_link(folder: Path) -> Path | None:
    """A symbolic link below `folder` that points outside of it, or None."""
    home = folder.resolve()
    links = (Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files))
    return next((one for one in links if one.is_symlink() and not one.resolve().is_relative_to(home)), None)


def choose(resolved: dict[str, Any], folder: Path, chosen: bool, overwrite: bool, resume: bool) -> tuple[Path, bool]:
    """The folder to write, and True if an unfinished run in it is to be resumed.

    `folder` is the configuration's, `chosen` True if the user named it. UserError where a chosen folder holds files that
    would be lost. Writes nothing, but `overwrite` deletes the run in the folder.
    """
    if not chosen:
        if resume and folder.parent.is_dir():
            runs = [p for p in folder.parent.iterdir() if p.is_dir() and status(p) not in (None, "finished")]
            unfinished = sorted(p for p in runs if same_run(p, resolved) and outside_link(p) is None)
            if unfinished:
                return unfinished[-1], True
        return folder, False
    if folder.exists() and not folder.is_dir():
        raise UserError(f"hydra.run.dir={folder} is a file: choose a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder, False
    previous = status(folder)
    is_run = (folder / "config.yaml").is_file() and previous is not None
    if folder.is_symlink() or (link := outside_link(folder)) is not None:
        place = folder if folder.is_symlink() else link
        raise UserError(f"{place} is a link, and a run writes into its own folder only: choose another folder")
    if previous is None and {file.name for file in folder.iterdir()} <= UNSTARTED_FILES:
        return folder, False
    if not is_run:
        raise UserError(
            f"hydra.run.dir={folder} holds files that are not a run of kdlab: choose an empty or new folder"
        )
    if previous != "finished" and resume and same_run(folder, resolved):
        return folder, True
    if not overwrite:
        content = (
            "a finished run"
            if previous == "finished"
            else "an unfinished run, and not of this configuration (or resume=false)"
        )
        raise UserError(
            f"{folder} holds {content}, which is kept: choose another folder, or overwrite=true to replace it"
        )
    shutil.rmtree(folder)
    return folder, False
