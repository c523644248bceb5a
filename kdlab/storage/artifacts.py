"""The artifact store: prepared teachers, assistants, tokenised data, each made once and found by a hash of its inputs.

An artifact is a folder `<root>/<kind>/<16 hex digits>`; the digits hash the canonical JSON of everything its content
depends on. `manifest.json` inside lists those parts and the size and SHA-256 of every file, and is checked whenever
the artifact is requested. Command: `python -m kdlab.artifacts list|verify|prune`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from kdlab import __version__
from kdlab.storage.files import (
    NO_SPACE,
    atomic_write_json,
    atomic_write_text,
    fsync_folder,
    locked,
    native_errors,
    readable,
    sha256_of,
    user_errors,
)

MANIFEST = "manifest.json"
# files of a trained artifact: the cost of its training; names of its model and data, for `python -m kdlab.artifacts list`
COST, ABOUT = "cost.json", "about.json"
_KIND = re.compile(r"[a-z0-9][a-z0-9_-]*")
KEY = re.compile(r"[0-9a-f]{16}")
UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.(tmp|training)")
LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.(tmp|training|lock)")
WAITING = "waiting for that"
_ABSENT = "it does not exist"
SETTLED = 1.0  # s; a file that changed later than that may change again within the same tick of its file system's clock
# The tag by which backup programs recognise caches; here it also marks a folder as an artifact store.
TAG = "CACHEDIR.TAG"
TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# kdlab artifacts: python -m kdlab.artifacts list\n"
_held: dict[Path, int] = {}  # manifests this process has read, each open with a shared lock: prune leaves them alone


def key_of(parts: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of `parts` as canonical JSON (sorted keys; NaN and other objects are refused)."""
    return hashlib.sha256(_canonical(parts)).hexdigest()[:16]


@dataclass
class ArtifactStore:
    """Artifacts under `root`; `notify` takes one-line messages (making, waiting, damaged).

    `canonical` maps the parts of an artifact to what is hashed and recorded, so that keys outlast the renaming of code.
    """

    root: Path
    notify: Callable[[str], None] = print
    canonical: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    used: dict[str, None] = field(default_factory=dict)  # "kind/key" of the requested artifacts, in that order
    _verified: dict[Path, list[Any]] = field(
        default_factory=dict, init=False, repr=False
    )  # folders, by `_state_of` then

    def get(self, kind: str, parts: Mapping[str, Any], build: Callable[[Path], None], what: str = "") -> Path:
        """The verified folder of the artifact with key `parts`, made by `build(empty folder)` if it is missing.

        `kind` is a plain name, `what` a description for messages. Of several processes that request the same artifact
        one builds and the others wait. A damaged one is reported and made again. If `build` raises, nothing is left and
        the exception propagates. `UserError` for a store that cannot be written or read.
        """
        parts = self.canonical(parts)
        final = self._place(kind, parts)
        what = what or f"{kind} {final.name}"
        if self._fault(final) is None:
            return self._used(final)
        with ExitStack() as stack:
            with user_errors(f"making {what}", self.root):
                final.parent.mkdir(parents=True, exist_ok=True)
                if not (self.root / TAG).exists():
                    atomic_write_text(self.root / TAG, TAG_TEXT)
                lock = locked(
                    lock_of(final),
                    waiting=lambda holder: self.notify(f"{what}: {holder} is making it, {WAITING}"),
                )
                stack.enter_context(lock)
            fault = self._fault(final)  # again: the process that had the lock may have made it
            if fault is None:
                return self._used(final)
            if fault != _ABSENT:
                self.notify(f"{what} in {final} is damaged: {fault}; making it again")
            self.notify(f"making {what}, to be kept in {final}")
            self._make(final, parts, build, what)
        return self._used(final)

    def place(self, kind: str, parts: Mapping[str, Any]) -> Path:
        """The folder of the artifact with key `parts`, whether it exists or not."""
        return self._place(kind, self.canonical(parts))

    def find(self, kind: str, parts: Mapping[str, Any]) -> Path | None:
        """The verified folder of the artifact with key `parts`, or None. A damaged one is reported."""
        final = self._place(kind, self.canonical(parts))
        fault = self._fault(final)
        if fault is None:
            return self._used(final)
        if fault != _ABSENT:
            self.notify(f"{kind} in {final} is damaged: {fault}")
        return None

    def _fault(self, final: Path) -> str | None:
        """`fault_of` an artifact, which is not read again while its files stay as they were when this store read them."""
        state = _state_of(final)
        if state and self._verified.get(final) == state:
            return None
        fault = fault_of(final)
        if fault is None:
            self._verified[final] = state
        return fault

    def _used(self, final: Path) -> Path:
        self.used[f"{final.parent.name}/{final.name}"] = None
        with suppress(OSError):  # a shared store may be read-only
            os.utime(final / MANIFEST)
        _hold(final)
        return final

    def _place(self, kind: str, parts: Mapping[str, Any]) -> Path:
        if not _KIND.fullmatch(kind):
            raise ValueError(f"kind must be a plain lower-case name, got {kind!r}")
        return Path(self.root) / kind / key_of(parts)

    def _make(self, final: Path, parts: Mapping[str, Any], build: Callable[[Path], None], what: str) -> None:
        """Build beside `final` and rename; the caller has the lock."""
        temporary, began = temporary_of(final), time.monotonic()
        try:
            with user_errors(f"making {what}", self.root):
                discard(final)
                temporary.mkdir()
            try:
                with native_errors():
                    build(temporary)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise  # about the builder's own input, not about the store
                with user_errors(f"making {what}", self.root):
                    raise
            with user_errors(f"making {what}", self.root):
                atomic_write_json(temporary / MANIFEST, _manifest(temporary, parts, what, time.monotonic() - began))
                os.rename(temporary, final)
                fsync_folder(final.parent)
                shutil.rmtree(training_of(final), ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def temporary_of(final: Path) -> Path:
    """The folder in which the artifact `final` is built."""
    return final.with_name(f".{final.name}.tmp")


def training_of(final: Path) -> Path:
    """The folder of checkpoints of the training that makes the artifact `final`; it outlasts a builder that is killed.

    `final` may be the folder in which the artifact is built.
    """
    return final.with_name(f".{final.name.lstrip('.')[:16]}.training")


def lock_of(final: Path) -> Path:
    """The lock file of the builder of the artifact `final`."""
    return final.with_name(f".{final.name}.lock")


def _hold(final: Path) -> None:
    """Lock an artifact's manifest, shared, until this process ends, which marks it as in use."""
    if final not in _held:
        with suppress(OSError):  # no locks there, or too many open files: then only its age protects it
            _held[final] = os.open(final / MANIFEST, os.O_RDONLY)
            fcntl.flock(_held[final], fcntl.LOCK_SH)  # waits for a moment while `is_in_use` of another process tests it


def is_in_use(final: Path) -> bool:
    """True if another process that has read this artifact still runs."""
    _release(final)
    with suppress(OSError):
        descriptor = os.open(final / MANIFEST, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _release(final: Path) -> None:
    if final in _held:
        os.close(_held.pop(final))


def discard(final: Path) -> None:
    """Remove an artifact and leftovers of an interrupted builder; a kill in between leaves only such leftovers."""
    temporary = temporary_of(final)
    _release(final)
    if temporary.exists():
        shutil.rmtree(temporary)
    if final.is_symlink():
        final.unlink()
    elif final.exists():
        os.rename(final, temporary)
        shutil.rmtree(temporary)


def _manifest(folder: Path, parts: Mapping[str, Any], what: str, seconds: float) -> dict[str, Any]:
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or name == MANIFEST:
            raise ValueError(f"an artifact holds plain files and no {MANIFEST} of its own; the builder wrote {name}")
        if path.is_dir():
            fsync_folder(path)
            continue
        readable(path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        files[name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    if not files:
        raise ValueError(f"the builder of {what} wrote no file into {folder}")
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {
        "what": what,
        "parts": dict(parts),
        "files": files,
        "kdlab": __version__,
        "created": created,
        "seconds": round(seconds, 1),
    }
    return {**body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()}


def read_manifest(final: Path) -> dict[str, Any] | str:
    """The manifest of an artifact, or its fault in words. PermissionError propagates."""
    try:
        manifest = json.loads((final / MANIFEST).read_bytes())
        found = hashlib.sha256(_canonical({name: manifest[name] for name in manifest if name != "sha256"})).hexdigest()
        if found != manifest["sha256"]:
            return f"{MANIFEST} has SHA-256 {found}, {manifest['sha256']} was recorded"
        if key_of(manifest["parts"]) != final.name:
            return f"{MANIFEST} belongs to artifact {key_of(manifest['parts'])}"
        for name, file in manifest["files"].items():
            if name != PurePosixPath(name).as_posix() or name.startswith("/") or ".." in name.split("/"):
                return f"{MANIFEST} names {name!r}, which is no file of the artifact"
            if not (isinstance(file["sha256"], str) and isinstance(file["size"], int)):
                return f"{MANIFEST} has no checksum of {name}"
    except PermissionError:
        raise  # its state is unknown then, and nothing may be removed
    except (FileNotFoundError, NotADirectoryError):
        return f"it has no {MANIFEST}"
    except OSError as error:
        return f"{MANIFEST} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} is not what was written: {error}"
    return manifest


def fault_of(final: Path) -> str | None:
    """The fault of an artifact in words, or None if every byte was read and matches the manifest."""
    with user_errors("checking an artifact", final.parent):
        if not final.exists():
            return _ABSENT
        manifest = read_manifest(final)
        if isinstance(manifest, str):
            return manifest
        for name, expected in manifest["files"].items():
            path = final / name
            if not path.is_file() or path.resolve() != final.resolve() / name:  # not by way of a link
                return f"{name} is missing (SHA-256 {expected['sha256']} was recorded)"
            size = path.stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes, {expected['size']} were recorded (SHA-256 {expected['sha256']})"
            try:
                found = sha256_of(path)
            except PermissionError:
                raise
            except OSError as error:
                return f"{name} cannot be read: {error.strerror} (SHA-256 {expected['sha256']} was recorded)"
            if found != expected["sha256"]:
                return f"{name} has SHA-256 {found}, {expected['sha256']} was recorded"
    return None


def _state_of(final: Path) -> list[Any]:
    """A value that differs once a file of an artifact has been written, replaced or renamed; empty if it cannot be told.

    Of the files it reads the manifest alone. A file's st_ctime is set by the kernel and cannot be set back as st_mtime
    can. The manifest's is left out: every use touches it.
    """
    state: list[Any] = []
    with suppress(OSError):  # `fault_of` says what is wrong
        for path in sorted(final.rglob("*")):
            if path == final / MANIFEST:
                state.append(path.read_bytes())
            elif path.is_symlink() or not path.is_dir():
                found = path.lstat()
                if time.time() - found.st_ctime < SETTLED:
                    return []
                state.append((path, found.st_ino, found.st_size, found.st_ctime_ns))
        return state
    return []


def entries(root: Path, pattern: re.Pattern[str] = KEY) -> Iterator[Path]:
    """Paths in the kinds of a store whose names match `pattern`, in order."""
    for kind in sorted(root.iterdir()):
        if kind.is_dir() and not kind.is_symlink() and _KIND.fullmatch(kind.name):
            yield from (path for path in sorted(kind.iterdir()) if pattern.fullmatch(path.name))
