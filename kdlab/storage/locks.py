"""One writer a folder: the lock of a run folder, and the lock of a file that a command writes.

The lock of a folder is a file in it, so that every path to the folder leads to one lock. As for artifacts, the kernel
holds it (`flock`) and releases it when the last process with its descriptor ends: a dead owner blocks nobody, on this
machine or another. A process may pass its lock on to one that it starts. On a file system without locks the note in the
file decides ("process 123 on host"): an owner of this machine must be alive, one of another machine counts as alive.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from kdlab.errors import UserError
from kdlab.storage.files import locked, open_locked, still_named, user_errors

NAME = ".kdlab.lock"
# The environment variable with the descriptor of the lock that a process has inherited
VARIABLE = "KDLAB_LOCK"
WAITING = "waiting for its end"
_NOTE = re.compile(r"process (\d+) on (.+)")
_own: list[FolderLock] = []  # the locks of this process


class FolderLock:
    """The lock of a folder, kept until `release` or the end of the last process that has its descriptor."""

    def __init__(self, path: Path, descriptor: int, made: list[Path]) -> None:
        self.path, self.descriptor = path, descriptor
        self.made = made  # folders that were created for the lock, the outermost first
        self._write_note()
        _own.append(self)

    @property
    def environment(self) -> dict[str, str]:
        """The variable by which a process that inherits the descriptor finds the lock."""
        return {VARIABLE: str(self.descriptor)}

    def withhold_from_forks(self) -> None:
        """Close the descriptor in forked children: a loader's worker that outlives a killed run must not block the next."""
        os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Delete the file, unless another process has done so, and the folders that were made for it if they are empty."""
        if self.descriptor < 0:
            return
        with suppress(OSError):
            if still_named(self.descriptor, self.path):
                self.path.unlink()
        for folder in reversed(self.made):
            with suppress(OSError):
                folder.rmdir()
        self._close()
        _own.remove(self)

    def _close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _write_note(self) -> None:
        with suppress(OSError):  # a courtesy: on a full disk the lock holds without it
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def lock_folder(folder: Path, wait: bool = False, waiting: Callable[[str], None] | None = None) -> FolderLock | None:
    """Lock a folder, created if it is missing; the lock of this process if it has one, also an inherited one.

    Where another process has the lock: None, or with `wait` the lock once that is released, after a call of `waiting` with
    the owner's note. UserError where the file cannot be written.
    """
    path = folder / NAME
    if (own := _own_lock(path)) is not None:
        return own
    with user_errors("locking a run folder", folder):
        while True:
            made = _missing(folder)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor, _ = open_locked(path, wait, waiting, must_lock=False)
            except FileNotFoundError:  # its owner has removed the empty folder
                continue
            if descriptor is None:
                return None
            if _lockable(descriptor) or not _may_live(note := _note(descriptor)):
                return FolderLock(path, descriptor, made)
            os.close(descriptor)
            if not wait:
                return None
            if waiting is not None:
                waiting(note)
                waiting = None
            time.sleep(1)


def lock_new_folder(folder: Path) -> FolderLock:
    """Create and lock `folder`, or where that exists the first of `folder`-2, `folder`-3, ... that does not.

    Processes that are started in the same second get different folders. UserError where it cannot be created.
    """
    with user_errors("making a run folder", folder.parent):
        for number in count(1):
            place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
            missing = _missing(place)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.mkdir()
            except FileExistsError:
                continue
            lock = lock_folder(place)
            if lock is not None:
                lock.made = missing
                return lock
    raise AssertionError("count ends")


def owner_of(folder: Path) -> str | None:
    """The note of another process that has the lock of a folder; None if the folder is free or this process has it."""
    path = folder / NAME
    if _own_lock(path) is not None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        note = _note(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return note or "another process"
        except OSError:
            return note if _may_live(note) else None
        return None
    finally:
        os.close(descriptor)


def owner_below(folder: Path) -> tuple[Path, str] | None:
    """A folder at or below `folder` that another process has locked, with the owner's note; None if there is none."""
    for path in sorted(folder.rglob(NAME)):
        if (note := owner_of(path.parent)) is not None:
            return path.parent, note
    return None


def waiting_line(folder: Path, owner: str) -> str:
    """The message of a process that waits for the lock of a folder."""
    return f"{owner} is at work in {folder}: {WAITING}"


def busy(folder: Path, owner: str | None) -> UserError:
    """The error for a folder that another process writes."""
    return UserError(
        f"{folder}: {owner or 'another process'} is at work in it; wait for its end, or choose another folder "
        f"(its lock is {folder / NAME})"
    )


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Lock the name `path`, of a file or folder that a command is about to write, for the block.

    UserError in one line where another process writes it.
    """
    with ExitStack() as stack:
        with user_errors(f"writing {path.name}", path.parent):
            lock = locked(path.with_name(f".{path.name}.lock"), wait=False, must_lock=False)
            owner = stack.enter_context(lock)
        if owner is not None:
            raise UserError(f"{path}: {owner} is writing it; wait for its end, or choose another name")
        yield


def _own_lock(path: Path) -> FolderLock | None:
    """The lock that this process has on the file `path`, after taking over one that its starter has passed on."""
    given = os.environ.get(VARIABLE, "")
    if given.isdigit() and _is_open(int(given), path):
        del os.environ[VARIABLE]
        os.set_inheritable(int(given), False)  # its own children get it only by name
        return FolderLock(path, int(given), [])
    return next((lock for lock in _own if lock.descriptor >= 0 and _is_open(lock.descriptor, path)), None)


def _is_open(descriptor: int, path: Path) -> bool:
    try:
        return still_named(descriptor, path)
    except OSError:
        return False


def _missing(folder: Path) -> list[Path]:
    """Those of a folder and its parents that do not exist, the outermost first."""
    return [one for one in (folder, *folder.parents) if not one.exists()][::-1]


def _lockable(descriptor: int) -> bool:
    """True if the file system has locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _note(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode("utf-8", "replace")


def _may_live(note: str) -> bool:
    """True unless the note is of a process of this machine that has ended, or of nobody."""
    match = _NOTE.fullmatch(note)
    if match is None or match[2] != socket.gethostname():
        return match is not None
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return int(match[1]) != os.getpid()
