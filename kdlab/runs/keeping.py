"""`keep=`: remove the checkpoints and the student of a finished run that the user does not keep, and say so elsewhere.

result.json lists what is removed before the first file goes, so that after a kill in between no command takes the rest for
a student, and the next command of the run removes the rest (`finish`). Only files that runs write are removed, by their names; others stay, and so does whatever a link leads to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.config import quoting
from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.runs import folders
from kdlab.storage import locks
from kdlab.storage.files import atomic_write_json, fsync_folder, read_json, readable_size, user_errors

KEEP = ("all", "best", "none")
REMOVED = "removed"  # key of result.json: the parts of the run folder that were removed
CHECKPOINTS, STUDENT = "checkpoints", "student"
# names of the files that runs write there: checkpoints and their checksums; a model, its tokenizer and its card
_OWN = {
    CHECKPOINTS: re.compile(r"\.?step-\d{8,}\.ckpt(\.sha256)?(\.tmp)?"),
    STUDENT: re.compile(
        r"README\.md|model[\w.-]*\.safetensors|vocab\.txt|merges\.txt|\w+(\.bpe)?\.model|chat_template\.jinja"
        r"|(config|generation_config|model\.safetensors\.index|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    ),
}


_UNKEPT = {"all": (), "best": (CHECKPOINTS,), "none": (CHECKPOINTS, STUDENT)}
_GONE = "its student was removed by keep=none, or by keep=best of its sweep; its scores and tables are there"


@dataclass(frozen=True)
class RemovedPart:
    """A removed part of run folders: how many `pieces` (checkpoints, students), and their `size` in bytes."""

    part: str
    pieces: int = 0
    size: int = 0

    def __add__(self, other: RemovedPart) -> RemovedPart:
        return RemovedPart(self.part, self.pieces + other.pieces, self.size + other.size)

    def __str__(self) -> str:
        one = self.part.removesuffix("s")
        return f"{self.pieces} {one}{'s' * (self.pieces != 1)}, {readable_size(self.size)}"


def tidy(run: Path, keep: str) -> list[RemovedPart]:
    """Remove what `keep` does not keep of one run: best its checkpoints, none its student as well; the caller has its lock.

    The parts that there were; none of a run that is not finished. UserError where a file cannot be removed.
    """
    return [found for part in _UNKEPT[keep] if (found := remove(run, part)).pieces]


def unkept(run: Path, keep: str) -> list[str]:
    """The parts of a run folder that `keep` does not keep and that have files."""
    return [part for part in _UNKEPT[keep] if _files(run / part, part)]


def finish(run: Path) -> list[RemovedPart]:
    """Remove what a kill has left of the parts that the result.json of a finished run lists as removed; those that went.

    Nothing in a run that another process has locked. UserError where a file cannot be removed.
    """
    listed = _listed(run)
    left = [part for part in (CHECKPOINTS, STUDENT) if part in listed and _files(run / part, part)]
    if not left or (lock := locks.lock_folder(run)) is None:
        return []
    try:
        return [found for part in left if (found := remove(run, part)).pieces]
    finally:
        lock.release()


def check_models(config: Config) -> None:
    """UserError for a model folder of a configuration that is a run, or the student of a run that `keep` removed."""
    assistant, augment = config.adopt.assistant, config.data.augment
    given = {
        "student.path": config.student.path,
        "teachers.path": config.teachers.path,
        **{f"teachers.others.{name}.path": other.path for name, other in config.teachers.others.items()},
        "adopt.assistant.path": assistant and assistant.path,
        "data.augment.model": augment and augment.model,
    }
    for key, path in given.items():
        if path is not None:
            check_model(key, path)


def check_model(key: str, path: str) -> None:
    """As `check_models`, for one key and its value."""
    folder = Path(path)
    run = folder.parent if folder.name == STUDENT else folder
    if STUDENT in _listed(run):
        raise UserError(f"{quoting.override(key, path)}: {_GONE}")
    if run == folder and not (folder / "config.json").is_file() and (folder / STUDENT / "config.json").is_file():
        raise UserError(
            f"{quoting.override(key, path)} is a run's folder; its student is {quoting.override(key, folder / STUDENT)}"
        )


def _listed(run: Path) -> list[str]:
    """The parts that the result.json of a finished run lists as removed."""
    try:
        found = read_json(run / "result.json")
        return [*found.get(REMOVED, [])] if found["status"] == "finished" else []
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return []


def remove(run: Path, part: str) -> RemovedPart:
    """Remove the checkpoints or the student of a run, if it is finished; the caller has the lock of its folder."""
    place = run / part
    files = _files(place, part)
    if not files or folders.status(run) != "finished":
        return RemovedPart(part)
    size = sum(file.lstat().st_size for file in files)
    with user_errors(f"removing {part}", place):
        result = read_json(run / "result.json")
        if part not in (listed := result.get(REMOVED, [])):
            atomic_write_json(run / "result.json", {**result, REMOVED: [*listed, part]})
        for file in files:
            file.unlink(missing_ok=True)
        fsync_folder(place)
        if not any(place.iterdir()):
            place.rmdir()
    pieces = sum(file.suffix == ".ckpt" for file in files) if part == CHECKPOINTS else 1
    return RemovedPart(part, pieces, size)


def without_student(run: Path, result: Mapping[str, Any]) -> str:
    """The reason in words why a finished run has no student to read; "" if it has one."""
    if STUDENT in (result.get(REMOVED) or []):
        return f"{run}: {_GONE}"
    return "" if (run / STUDENT / "config.json").is_file() else f"{run} has no student: {run / STUDENT} is missing"


def check_student(run: Path, result: Mapping[str, Any]) -> None:
    """UserError for a finished run whose student was removed or is missing."""
    if reason := without_student(run, result):
        raise UserError(reason)


def _files(place: Path, part: str) -> list[Path]:
    """The files of a part that runs write, sorted; none where the folder is a link."""
    if place.is_symlink() or not place.is_dir():
        return []
    return sorted(file for file in place.iterdir() if _OWN[part].fullmatch(file.name) and not file.is_dir())
