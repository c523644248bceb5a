"""Files that are whole or absent: atomic replacement, checksums, locks between processes, OSErrors as `UserError`.

A process may be killed between any two system calls. A final name is therefore always that of a complete file: bytes go
to a temporary file in the same folder (so that the rename never crosses file systems), are flushed to the device, and
only then take the name. POSIX only (`fcntl`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.storage.redaction import redact_values

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def user_errors(action: str, folder: Path) -> Iterator[None]:
    """Turn any OSError of the block into a `UserError` that names the folder and the remedy; the cause is kept."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{action} failed in {folder}: {_reason(error, folder)}") from error


@contextmanager
def native_errors() -> Iterator[None]:
    """Turn the exceptions of Rust libraries (safetensors, tokenizers) for a failed write into the OSError behind
    them."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and (match := re.search(r"\(os error (\d+)\)", str(error))):
            raise OSError(int(match[1]), os.strerror(int(match[1]))) from error
        raise


def _reason(error: OSError, folder: Path) -> str:
    if error.errno in NO_SPACE:
        return f"no space left ({readable_size(free_bytes(folder))} free); free some or choose another folder"
    if error.errno == errno.EROFS:
        return "the file system is read-only; choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission ({error.filename or folder}); change its owner or mode, or choose another folder"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return (
            f"there is a file where a folder should be ({error.filename or folder}); move it or choose another folder"
        )
    if error.errno == errno.EFBIG:
        return "the file would pass the size limit of this process or file system; raise it (ulimit -f)"
    return f"{error.strerror or error} ({error.filename or folder})"


def user_path(text: str | Path) -> Path:
    """A path as the user gives it, ~ expanded; a name that only begins with ~ and is no user's home stays."""
    return Path(os.path.expanduser(text))  # Path.expanduser raises RuntimeError there


def readable_size(count: int) -> str:
    """Format bytes in a decimal unit: 999 B, 1.5 KB, 90.9 MB."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def free_bytes(folder: Path) -> int:
    """Bytes that an ordinary user may still write in `folder`, or in its nearest parent that exists."""
    folder = Path(os.path.abspath(folder))
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise `UserError` unless `folder` (which need not exist yet) has `needed_bytes` free for `what`."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise UserError(
            f"no space for {what}: it needs {readable_size(needed_bytes)} in {folder}, {readable_size(free)} are free; "
            "free some or choose another folder"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in chunks (about 1 GB/s)."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Flush renames within `folder` to the device, if the file system can flush a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush every file below `folder`, written by a library, and its name to the device; `readable` as other files are."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            fsync_folder(path)
        else:
            readable(path)
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def readable(path: Path) -> None:
    """Give a file the mode of any new file, by the umask: safetensors writes files that their owner alone may read."""
    mode = stat.S_IMODE(path.stat().st_mode)
    wanted = mode | (0o666 & ~umask())
    if wanted != mode:
        path.chmod(wanted)


def umask() -> int:
    """The umask of this process."""
    with suppress(OSError):  # Linux: read it without a change that other threads would see
        if shown := re.search(
            r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE
        ):
            return int(shown[1], 8)
    found = os.umask(0o077)
    os.umask(found)
    return found


class Writer:
    """A binary stream to a descriptor that writes all bytes or raises, and hashes them with SHA-256.

    `error` holds the OSError of a failed write: `torch.save` hides it behind a RuntimeError of its own.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes of `data`; returns their number."""
        view = memoryview(data).cast("B")
        total = len(view)
        try:
            while len(view):  # one call may write less than asked: 2 GB at most, or what a full disk still takes
                done = os.write(self._descriptor, view)
                self._digest.update(view[:done])
                view = view[done:]
        except OSError as error:
            self.error = error
            raise
        return total

    def fileno(self) -> int:
        """The descriptor, as of a file."""
        return self._descriptor

    def flush(self) -> None:
        """Nothing is buffered here."""

    def hexdigest(self) -> str:
        """SHA-256 of the bytes written so far, 64 hex digits."""
        return self._digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[tuple[Writer, Path]]:
    """Yield a `Writer` to a temporary file beside `path`, and that file; it replaces `path` when the block succeeds.

    On any exception the temporary file is removed and `path` is as it was. After SIGKILL the temporary file
    `.<name>.tmp` stays, and the next writer of the same name reuses it. Two writers of one name take turns. OSErrors
    are not translated.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor, _ = open_locked(temporary, wait=True, waiting=None, must_lock=False)
    assert descriptor is not None
    try:
        os.ftruncate(descriptor, 0)
        yield Writer(descriptor), temporary
        os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    fsync_folder(path.parent)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that `path` has either all of it or its content before. `UserError` if that fails."""
    path = Path(path)
    with user_errors(f"writing {path.name}", path.parent), replacing(path) as (writer, _):
        writer.write(data)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` of UTF-8 text, without the values of secret environment variables."""
    atomic_write_bytes(path, redact_values(text).encode("utf-8"))


def atomic_write_json(path: Path, value: Any) -> None:
    """`atomic_write_text` of indented JSON, keys in their order. ValueError for NaN and infinities."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. OSError or ValueError if it cannot be read."""
    return json.loads(path.read_text())


@contextmanager
def locked(
    path: Path, wait: bool = True, waiting: Callable[[str], None] | None = None, must_lock: bool = True
) -> Iterator[str | None]:
    """Lock the file `path` during the block and remove it afterwards. Yields None if this process has the lock.

    If another process has it: with `wait`, `waiting(note)` is called once and the block starts when the other ends;
    without, the block runs at once and gets the owner's note ("process 123 on host"). The kernel frees the lock when
    its owner dies. Children forked by the owner keep it, since they may still be writing. On a file system without
    locks: OSError, or with `must_lock` False the block runs.
    """
    descriptor, note = open_locked(path, wait, waiting, must_lock)
    if descriptor is None:
        yield note or "another process"
        return
    try:
        with suppress(OSError):  # the note is a courtesy, and a full disk must still be prunable
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield None
    finally:
        with suppress(OSError):
            os.unlink(path)  # while still locked: waiting processes then see that the name is gone and open it anew
        os.close(descriptor)


def open_locked(
    path: Path, wait: bool, waiting: Callable[[str], None] | None, must_lock: bool
) -> tuple[int | None, str]:
    """Open `path` and lock it; the descriptor (None: locked by another and `wait` is false) and the owner's note."""
    note = ""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                notified = bool(note)
                note = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another process"
                if not wait:
                    os.close(descriptor)
                    return None, note
                if waiting is not None and not notified:
                    waiting(note)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if must_lock or error.errno not in _NO_LOCKS:
                    raise
            if still_named(descriptor, path):
                return descriptor, note
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise
        os.close(descriptor)  # the owner before us renamed or removed the file that we opened


def still_named(descriptor: int, path: Path) -> bool:
    """True if the open file `descriptor` still has the name `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
