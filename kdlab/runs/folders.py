"""Run folders: which one a run writes, and whether it goes on where an interrupted one stopped.

A folder holds one run: `config.yaml` as resolved, `result.json` with its status. A finished run is never touched.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.storage import yaml_io

# Settings that do not change what a run computes: a run may be continued under another value of these.
IRRELEVANT_KEYS = ("overwrite", "resume", "logger")
# All that is there of a run that was ended while it began.
UNSTARTED_FILES = {"config.yaml", ".config.yaml.tmp", ".result.json.tmp"}
IRRELEVANT_TRAINER_KEYS = ("checkpoint_every", "on_nonfinite", "nonfinite_limit")


def status(folder: Path) -> str | None:
    """The status in a folder's result.json: "running", "finished", ...; None where there is no readable one."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return str(found["status"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def run_id(folder: Path) -> str | None:
    """What names the unfinished run in a folder over its interruptions; None where nothing does."""
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8")).get("run")
    except (OSError, ValueError, AttributeError):
        return None


def same_run(folder: Path, resolved: dict[str, Any]) -> bool:
    """Whether a folder's config.yaml asks for the same run as `resolved`."""
    try:
        return _essence(yaml_io.read(folder / "config.yaml")) == _essence(resolved)
    except (UserError, ValueError, TypeError, RecursionError):
        return False


def _essence(resolved: dict[str, Any]) -> dict[str, Any]:
    # through JSON, so that tuples and lists, or 1 and 1.0 read back from YAML, compare as they print
    kept = {name: value for name, value in resolved.items() if name not in IRRELEVANT_KEYS}
    if isinstance(kept.get("trainer"), dict):
        kept["trainer"] = {
            name: value for name, value in kept["trainer"].items() if name not in IRRELEVANT_TRAINER_KEYS
        }
    return json.loads(json.dumps(kept, sort_keys=True, default=str))


def outside_link(folder: Path) -> Path | None:
    """A link below `folder` that leads outside of it, or None."""
    home = folder.resolve()
    links = (Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files))
    return next((one for one in links if one.is_symlink() and not one.resolve().is_relative_to(home)), None)


def choose(resolved: dict[str, Any], folder: Path, chosen: bool, overwrite: bool, resume: bool) -> tuple[Path, bool]:
    """The folder to write and whether an unfinished run in it is continued.

    `folder` is what the configuration says; `chosen` that the user named it. UserError where a chosen folder holds
    something that would be lost. Nothing is written, except that `overwrite` empties a run folder.
    """
    if not chosen:
        if resume and folder.parent.is_dir():
            runs = [p for p in folder.parent.iterdir() if p.is_dir() and status(p) not in (None, "finished")]
            going_on = sorted(p for p in runs if same_run(p, resolved) and outside_link(p) is None)
            if going_on:
                return going_on[-1], True
        return folder, False
    if folder.exists() and not folder.is_dir():
        raise UserError(f"hydra.run.dir={folder} is a file: choose a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder, False
    found = status(folder)
    is_run = (folder / "config.yaml").is_file() and found is not None
    if folder.is_symlink() or (link := outside_link(folder)) is not None:
        what = folder if folder.is_symlink() else link
        raise UserError(f"{what} is a link, and a run writes into its own folder only: choose another folder")
    if found is None and {file.name for file in folder.iterdir()} <= UNSTARTED_FILES:
        return folder, False
    if not is_run:
        raise UserError(
            f"hydra.run.dir={folder} holds files that are not a run of kdlab: choose an empty or new folder"
        )
    if found != "finished" and resume and same_run(folder, resolved):
        return folder, True
    if not overwrite:
        what = (
            "a finished run"
            if found == "finished"
            else "an unfinished run, and not of this configuration (or resume=false)"
        )
        raise UserError(f"{folder} holds {what}, which is kept: choose another folder, or overwrite=true to replace it")
    shutil.rmtree(folder)
    return folder, False
