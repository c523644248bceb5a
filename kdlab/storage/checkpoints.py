"""Checkpoint files: written beside the old one, flushed, verified, renamed. A run resumes from the newest valid one.

`step-00000123.ckpt` is a `torch.save` file, `step-00000123.ckpt.sha256` its checksum in the format of `sha256sum -c`.
The checksum is written first: at every moment, each file with its final name has its checksum beside it.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from kdlab.errors import UserError
from kdlab.storage.files import atomic_write_text, fsync_folder, replacing, sha256_of, user_errors

NAME = re.compile(r"step-(\d{8,})\.ckpt")

# Identity of files that this process wrote or checked; an equal identity means unchanged. Only pruning relies on it
# (it checks the same file at every save); choosing a file to resume from always reads the bytes.
_verified: dict[Path, tuple[int, int, int]] = {}


def save(state: dict[str, Any], folder: Path, step: int, keep: int = 2) -> Path:
    """Write `state` as the checkpoint of `step` and keep it and the `keep - 1` newest good ones before it.

    Files of later steps are removed: they belong to a continuation that was abandoned. `UserError` with the folder for
    any OSError; the earlier files are then untouched and no temporary file is left. TypeError if `state` contains what
    `load` would refuse (NumPy arrays, paths, other objects): better now than at the resume. One writer a folder.
    """
    if keep < 1 or step < 0:
        raise ValueError(f"keep must be at least 1 and step at least 0, got keep={keep}, step={step}")
    folder = Path(folder)
    with user_errors("saving a checkpoint", folder):
        for left in folder.glob(".step-*.tmp"):  # of a writer that was killed
            left.unlink(missing_ok=True)
        path = write(state, folder / name_of(step))
        _prune(folder, path, keep)
    return path


def write(state: dict[str, Any], path: Path) -> Path:
    """Write `state` to `path` and its checksum beside it, atomically, without touching other files."""
    path = Path(path)
    known = checksum_file(path)
    with user_errors("saving a checkpoint", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = _digests(path) if path.exists() else []
        try:
            with replacing(path) as (writer, temporary):
                _dump(state, writer)
                digest = writer.hexdigest()
                if refused := get_unsafe_globals_in_checkpoint(temporary):
                    raise TypeError(f"a checkpoint holds tensors and plain values only, found {', '.join(refused)}")
                _evict(temporary)
                if sha256_of(temporary) != digest:
                    raise UserError(
                        f"saving a checkpoint failed in {path.parent}: the storage gave back other bytes than were "
                        "written; check the disk or choose another folder"
                    )
                # The old file stays valid until it is replaced, the new one is valid at once.
                atomic_write_text(known, _sidecar_text(path, [digest, *earlier]))
        except BaseException:
            if not path.exists():
                known.unlink(missing_ok=True)
            raise
        if earlier:
            atomic_write_text(known, _sidecar_text(path, [digest]))
        _verified[path.absolute()] = _identity(path)
    return path


def newest_valid(folder: Path, notify: Callable[[str], None] = print) -> Path | None:
    """The checkpoint of the latest step whose bytes match its checksum, or None. `notify` takes a line for damaged
    ones."""
    for path in _by_step(Path(folder)):
        fault = damage_of(path)
        if fault is None:
            return path
        notify(f"checkpoint {path} is damaged ({fault}); trying the one before")
    return None


def load(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The state in a checkpoint file, after checking its checksum if it has one.

    Only tensors and plain values are read (`weights_only=True`): a file that needs other Python objects could run any
    code and is refused. `UserError` with the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give a file like step-00000123.ckpt")
    if checksum_file(path).exists() and (fault := damage_of(path)) is not None:
        raise UserError(f"checkpoint {path} is damaged ({fault}); use an earlier one")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch asks users to report strangers' pickles to it
            state = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} is refused, only tensors and plain values are read: {_reason(error)}"
        ) from error
    except Exception as error:  # torch raises almost anything on malformed files
        first = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"checkpoint {path} is not a readable torch file: {type(error).__name__}: {first}") from error
    if not isinstance(state, dict):
        raise UserError(f"checkpoint {path} holds a {type(state).__name__}, a dict was expected")
    return state


def name_of(step: int) -> str:
    """The file name of the checkpoint of `step`."""
    return f"step-{step:08d}.ckpt"


def step_of(path: Path) -> int:
    """The step in a checkpoint's file name."""
    match = NAME.fullmatch(Path(path).name)
    if match is None:
        raise UserError(f"{path} is not named like a checkpoint (step-00000123.ckpt)")
    return int(match[1])


def remove(path: Path) -> None:
    """Delete a checkpoint, then its checksum, if they exist."""
    path = Path(path)
    with user_errors("removing a checkpoint", path.parent):
        path.unlink(missing_ok=True)
        checksum_file(path).unlink(missing_ok=True)
    _verified.pop(path.absolute(), None)


def checksum_file(path: Path) -> Path:
    """The path of a checkpoint's checksum."""
    return path.with_name(path.name + ".sha256")


def damage_of(path: Path) -> str | None:
    """The damage of a checkpoint in words, or None if its bytes match its checksum."""
    try:
        expected = _digests(path)
        if not expected:
            return f"no readable checksum in {checksum_file(path).name}"
        identity = _identity(path)
        found = sha256_of(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    if found not in expected:
        return f"its SHA-256 is {found}, it was written with {expected[0]}"
    _verified[path.absolute()] = identity
    return None


def _by_step(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, latest step first."""
    with user_errors("looking for checkpoints", folder):
        found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def _prune(folder: Path, saved: Path, keep: int) -> None:
    kept = 0
    for path in _by_step(folder):
        later = step_of(path) > step_of(saved)
        if path == saved or (not later and kept < keep and _still_good(path)):
            kept += 1
        else:
            remove(path)
    for lone in folder.glob("step-*.ckpt.sha256"):  # a kill between the two removals
        if not lone.with_suffix("").exists():
            lone.unlink(missing_ok=True)
    fsync_folder(folder)


def _still_good(path: Path) -> bool:
    return _verified.get(path.absolute()) == _identity(path) or damage_of(path) is None


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _digests(path: Path) -> list[str]:
    """The checksums beside `path`, newest first; two while a file is being replaced."""
    try:
        return re.findall(rf"^([0-9a-f]{{64}})  {re.escape(path.name)}$", checksum_file(path).read_text("ascii"), re.M)
    except (FileNotFoundError, UnicodeDecodeError):
        return []


def _sidecar_text(path: Path, digests: list[str]) -> str:
    return "".join(f"{digest}  {path.name}\n" for digest in digests)


def _dump(state: dict[str, Any], writer: Any) -> None:
    try:
        torch.save(state, writer)  # streamed: tensors go to the file piece by piece
    except Exception:
        if writer.error is not None:
            raise writer.error from None  # torch's message for a full disk is "unexpected pos 64 vs 0"
        raise


def _evict(path: Path) -> None:
    """Flush a file and drop it from memory, so that reading it again asks the device. Linux only, elsewhere a no-op."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _reason(error: Exception) -> str:
    """The reason of a refusal in one line; torch wraps it in a page of advice to load the file anyway."""
    text = str(error.__context__ or error)
    found = re.search(r"GLOBAL (\S+)", text)
    return f"it needs {found[1]}" if found else (text.splitlines() or ["unknown content"])[0][:200]
