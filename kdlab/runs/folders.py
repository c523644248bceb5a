"""Choose and lock the folder of a run, and decide whether to resume an unfinished run in it.

A folder holds one run: `config.yaml` as resolved, `result.json` with its status. One process at a time writes it. A
finished run is never modified.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdlab.config.saved import anchored, moved_along, read_config, started_in, with_recipe_of
from kdlab.errors import UserError
from kdlab.plugins import own_modules
from kdlab.storage import locks
from kdlab.storage.files import atomic_write_json, user_errors

# Settings that do not change what a run computes: a run can be resumed with other values of these.
IRRELEVANT_KEYS = ("overwrite", "resume", "logger", "confirm", "figures", "keep", "predictions")
# All files of a run that was ended before it wrote its first result.json.
UNSTARTED_FILES = {"config.yaml", "budget.json", ".budget.json.tmp", ".config.yaml.tmp", ".result.json.tmp", locks.NAME}
CODE = "code"  # key of result.json: the modules of the user's own code
UNSTARTED_RANK = re.compile(r"\.rank-\d+\.error|\.\.rank-\d+\.error\.tmp")
REPLACED = "being replaced by another run of kdlab"  # status while the files of a run are removed
ENDED = (None, "finished", REPLACED)  # states in which there is nothing to resume
IRRELEVANT_TRAINER_KEYS = ("checkpoint_every", "on_nonfinite", "nonfinite_limit", "measure_speed")


def status(folder: Path) -> str | None:
    """The status in a folder's result.json ("running", "finished", "failed", "preempted", `REPLACED`); None if it cannot
    be read."""
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


def caveats(folder: Path) -> list[dict[str, str]]:
    """The caveats that the run in a folder has recorded so far; none if they cannot be read."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8")).get("caveats", [])
        return [{"kind": str(one["kind"]), "text": str(one["text"])} for one in found]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return []


def own_code(folder: Path) -> list[dict[str, Any]]:
    """The modules of the user's own code that the run in a folder has recorded; none if they cannot be read."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8")).get(CODE, [])
        return [{**one, "module": str(one["module"]), "sha256": str(one["sha256"])} for one in found]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return []


def check_own_code(folder: Path, instead: str) -> None:
    """UserError where the run in a folder, finished or with a checkpoint, was made with other code of the user's own than
    this process has; `instead`: a clause on what to do."""
    is_made = status(folder) == "finished" or any((folder / "checkpoints").glob("*.ckpt"))
    if is_made and (change := own_modules.difference(own_code(folder))):
        raise UserError(f"the run in {folder} {change}; {instead}")


def same_run(folder: Path, resolved: dict[str, Any]) -> bool:
    """True if the config.yaml in `folder` computes the same run as `resolved`, whose paths are those of this folder."""
    try:
        saved, resolved = _with_paths_alike(folder, resolved)
        return _essence(saved) == _essence(resolved)
    except (UserError, ValueError, TypeError, RecursionError):
        return False


def other_run(folder: Path, resolved: dict[str, Any]) -> str | None:
    """A key in which the config.yaml in `folder` computes another run than `resolved`; None if there is none.

    Keys that only one of them has are left out: another version of kdlab may have written the file.
    """
    try:
        saved, resolved = _with_paths_alike(folder, resolved)
        return next(_differing(_essence(saved), _essence(resolved)), None)
    except (UserError, ValueError, TypeError, RecursionError):
        return None


def _with_paths_alike(folder: Path, resolved: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config.yaml in `folder` and `resolved`; relative paths of two different folders are made absolute."""
    saved, place, resolved = read_config(folder), started_in(folder), with_recipe_of(folder, resolved)
    if place is None or place == Path.cwd() or moved_along(folder):
        return saved, resolved
    return anchored(saved, place), anchored(resolved, Path.cwd())


def _differing(one: Any, other: Any, name: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one:
            if key in other:
                yield from _differing(one[key], other[key], f"{name}.{key}" if name else key)
    elif one != other:
        yield name


def _essence(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides what a run computes."""
    # through JSON, so that tuples and lists, or 1 and 1.0 read back from YAML, compare as they print
    kept = {name: value for name, value in resolved.items() if name not in IRRELEVANT_KEYS}
    if isinstance(kept.get("trainer"), dict):
        kept["trainer"] = {
            name: value for name, value in kept["trainer"].items() if name not in IRRELEVANT_TRAINER_KEYS
        }
    if isinstance(kept.get("scale"), dict):
        kept["scale"] = {name: value for name, value in kept["scale"].items() if name != "says"}  # text that is printed
    return json.loads(json.dumps(kept, sort_keys=True, default=str))


def outside_link(folder: Path) -> Path | None:
    """A symbolic link below `folder` that points outside of it, or None."""
    home = folder.resolve()
    links = (Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files))
    return next((one for one in links if one.is_symlink() and not one.resolve().is_relative_to(home)), None)


def choose(
    resolved: dict[str, Any],
    folder: Path,
    chosen: bool,
    overwrite: bool,
    resume: bool,
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[Path, bool]:
    """The folder to write, and True if an unfinished run in it is to be resumed; writes nothing.

    `folder` is the configuration's, `chosen` True if the user named it: UserError then where another process is at work in
    it, and where it holds files that would be lost. Otherwise runs of other processes are left alone; `notify` names them.
    """
    resume = resume and not overwrite
    if not chosen:
        for run in _unfinished(resolved, folder.parent) if resume else ():
            owner = locks.owner_of(run)
            if owner is None:
                return run, True
            notify(f"{owner} is at work on the same run in {run}; this one has a folder of its own")
        return folder, False
    if (owner := locks.owner_of(folder)) is not None:
        raise locks.busy(folder, owner)
    return folder, resumes_in(folder, resolved, overwrite, resume)


def _unfinished(resolved: dict[str, Any], home: Path) -> list[Path]:
    """The unfinished runs of a configuration in the folders of `home`, the newest first."""
    runs = [p for p in home.iterdir() if p.is_dir() and status(p) not in ENDED] if home.is_dir() else []
    return sorted((p for p in runs if same_run(p, resolved) and outside_link(p) is None), reverse=True)


def resumes_in(folder: Path, resolved: dict[str, Any], overwrite: bool, resume: bool) -> bool:
    """True if the unfinished run in a folder is to be resumed, False if a run begins in it.

    UserError where files in it would be lost; with `overwrite` those of a run of kdlab may be.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"hydra.run.dir={folder} is a file: choose a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    previous = status(folder)
    is_run = (folder / "config.yaml").is_file() and previous is not None
    if folder.is_symlink() or (link := outside_link(folder)) is not None:
        place = folder if folder.is_symlink() else link
        raise UserError(f"{place} is a link, and a run writes into its own folder only: choose another folder")
    if previous == REPLACED or (previous is None and all(map(_unstarted, folder.iterdir()))):
        return False
    if not is_run:
        raise UserError(
            f"hydra.run.dir={folder} holds files that are not a run of kdlab: choose an empty or new folder"
        )
    if previous != "finished" and resume and same_run(folder, resolved):
        return True
    if not overwrite:
        content = (
            "a finished run"
            if previous == "finished"
            else "an unfinished run, and not of this configuration (or resume=false)"
        )
        raise UserError(
            f"{folder} holds {content}, which is kept: choose another folder, or overwrite=true to replace it"
        )
    return False


def _unstarted(file: Path) -> bool:
    """True for a file of a run that was ended before it wrote its first result.json."""
    return file.name in UNSTARTED_FILES or UNSTARTED_RANK.fullmatch(file.name) is not None


@contextmanager
def claimed(
    resolved: dict[str, Any], folder: Path, chosen: bool, overwrite: bool, resume: bool, notify: Callable[[str], None]
) -> Iterator[tuple[Path, bool]]:
    """Lock the folder that `choose` gives for the block, and remove the run that is replaced in it; yields as `choose`.

    A folder of the configuration's name that exists gets a number. UserError as `choose`.
    """
    while True:
        place, resumes = choose(resolved, folder, chosen, overwrite, resume, notify)
        lock = locks.lock_folder(place) if chosen or resumes else locks.lock_new_folder(place)
        if lock is None:  # since `choose` another process has taken it, or looks whether it is free
            time.sleep(0.1)
            continue
        try:
            lock.withhold_from_forks()
            place = lock.path.parent
            # once more: the process that had the lock may have ended the run
            if choose(resolved, place, True, overwrite, resume) == (place, resumes):
                if not resumes:
                    clear(place)
                yield place, resumes
                return
        finally:
            lock.release()


def clear(folder: Path) -> None:
    """Remove the run in a folder, its result.json last; the caller has the lock.

    After a kill in between the folder is `REPLACED`, and the next command begins anew in it.
    """
    if status(folder) is None:
        return
    with user_errors("removing the former run", folder):
        atomic_write_json(folder / "result.json", {"status": REPLACED})
        for entry in folder.iterdir():
            if entry.name not in ("result.json", locks.NAME):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (folder / "result.json").unlink()
