"""The artifact store: prepared teachers, assistants, tokenised data, each made once and found by what made it.

An artifact is a folder `<root>/<kind>/<16 hex digits>`; the digits hash the canonical JSON of everything its content
depends on. `manifest.json` inside lists those parts and the size and SHA-256 of every file, and is checked whenever
the artifact is asked for. Command: `python -m kdlab.artifacts list|verify|prune`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab import __version__
from kdlab.errors import UserError
from kdlab.files import (
    NO_SPACE,
    atomic_write_json,
    atomic_write_text,
    fsync_folder,
    locked,
    plain_errors,
    readable_size,
    sha256_of,
)

MANIFEST = "manifest.json"
_KIND = re.compile(r"[a-z0-9][a-z0-9_-]*")
_KEY = re.compile(r"[0-9a-f]{16}")
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.tmp")
_LEFT = re.compile(r"\.[0-9a-f]{16}\.(tmp|lock)")
_ABSENT = "it does not exist"
# The tag that backup programs know caches by; here it also tells a store from a folder that is none of our business.
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# kdlab artifacts: python -m kdlab.artifacts list\n"


def key_of(parts: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of `parts` as canonical JSON (sorted keys; NaN and other objects are refused)."""
    return hashlib.sha256(_canonical(parts)).hexdigest()[:16]


@dataclass
class Store:
    """Artifacts under `root`; `say` takes the one-line messages (making, waiting, damaged)."""

    root: Path
    say: Callable[[str], None] = print

    def get(self, kind: str, parts: Mapping[str, Any], build: Callable[[Path], None], what: str = "") -> Path:
        """The verified folder of the artifact that `parts` decide, made by `build(empty folder)` if need be.

        `kind` is a plain name, `what` says in words what is made. Of several processes that want the same artifact one
        builds and the others wait. A damaged one is named and made again. When `build` raises, nothing is left and the
        exception goes on; a store that cannot be written or read is a `UserError`.
        """
        final = self._place(kind, parts)
        what = what or f"{kind} {final.name}"
        if _fault(final) is None:
            return _used(final)
        with ExitStack() as stack:
            with plain_errors(f"making {what}", self.root):
                final.parent.mkdir(parents=True, exist_ok=True)
                if not (self.root / _TAG).exists():
                    atomic_write_text(self.root / _TAG, _TAG_TEXT)
                lock = locked(
                    _lock(final), waiting=lambda holder: self.say(f"{what}: {holder} is making it, waiting for that")
                )
                stack.enter_context(lock)
            fault = _fault(final)  # again: whoever held the lock may have made it
            if fault is None:
                return _used(final)
            if fault != _ABSENT:
                self.say(f"{what} in {final} is damaged: {fault}; making it again")
            self.say(f"making {what}, to be kept in {final}")
            self._make(final, parts, build, what)
        return final

    def find(self, kind: str, parts: Mapping[str, Any]) -> Path | None:
        """The verified folder of the artifact that `parts` decide, or None; a damaged one is named."""
        final = self._place(kind, parts)
        fault = _fault(final)
        if fault is None:
            return _used(final)
        if fault != _ABSENT:
            self.say(f"{kind} in {final} is damaged: {fault}")
        return None

    def _place(self, kind: str, parts: Mapping[str, Any]) -> Path:
        if not _KIND.fullmatch(kind):
            raise ValueError(f"kind must be a plain lower-case name, got {kind!r}")
        return Path(self.root) / kind / key_of(parts)

    def _make(self, final: Path, parts: Mapping[str, Any], build: Callable[[Path], None], what: str) -> None:
        """Build beside `final` and take its name; the caller holds the lock."""
        temporary = _temporary(final)
        try:
            with plain_errors(f"making {what}", self.root):
                _discard(final)
                temporary.mkdir()
            try:
                build(temporary)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise  # about the builder's own input, not about the store
                with plain_errors(f"making {what}", self.root):
                    raise
            with plain_errors(f"making {what}", self.root):
                atomic_write_json(temporary / MANIFEST, _manifest(temporary, parts, what))
                os.rename(temporary, final)
                fsync_folder(final.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _temporary(final: Path) -> Path:
    return final.with_name(f".{final.name}.tmp")


def _lock(final: Path) -> Path:
    return final.with_name(f".{final.name}.lock")


def _used(final: Path) -> Path:
    with suppress(OSError):  # a shared store may be read-only
        os.utime(final / MANIFEST)
    return final


def _discard(final: Path) -> None:
    """Remove an artifact and what an interrupted builder left; a kill on the way leaves only the latter."""
    temporary = _temporary(final)
    if temporary.exists():
        shutil.rmtree(temporary)
    if final.exists():
        os.rename(final, temporary)
        shutil.rmtree(temporary)


def _manifest(folder: Path, parts: Mapping[str, Any], what: str) -> dict[str, Any]:
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or name == MANIFEST:
            raise ValueError(f"an artifact holds plain files and no {MANIFEST} of its own; the builder wrote {name}")
        if path.is_dir():
            fsync_folder(path)
            continue
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        files[name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    if not files:
        raise ValueError(f"the builder of {what} wrote no file into {folder}")
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {"what": what, "parts": dict(parts), "files": files, "kdlab": __version__, "created": created}
    return {**body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()}


def _read_manifest(final: Path) -> dict[str, Any] | str:
    """The manifest of an artifact, or what is wrong with it. PermissionError goes through."""
    try:
        manifest = json.loads((final / MANIFEST).read_bytes())
        found = hashlib.sha256(_canonical({name: manifest[name] for name in manifest if name != "sha256"})).hexdigest()
        if found != manifest["sha256"]:
            return f"{MANIFEST} has SHA-256 {found}, {manifest['sha256']} was recorded"
        if key_of(manifest["parts"]) != final.name:
            return f"{MANIFEST} belongs to artifact {key_of(manifest['parts'])}"
    except PermissionError:
        raise  # nothing is known about it then, and nothing may be removed
    except (FileNotFoundError, NotADirectoryError):
        return f"it has no {MANIFEST}"
    except OSError as error:
        return f"{MANIFEST} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{MANIFEST} is not what was written: {error}"
    return manifest


def _fault(final: Path) -> str | None:
    """What is wrong with an artifact; None after every byte was read and found right."""
    with plain_errors("checking an artifact", final.parent):
        if not final.exists():
            return _ABSENT
        manifest = _read_manifest(final)
        if isinstance(manifest, str):
            return manifest
        for name, expected in manifest["files"].items():
            path = final / name
            if path.is_symlink() or not path.is_file():
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


def _entries(root: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    for kind in sorted(root.iterdir()):
        if kind.is_dir() and _KIND.fullmatch(kind.name):
            yield from (path for path in sorted(kind.iterdir()) if pattern.fullmatch(path.name))


def _size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _title(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _list(root: Path) -> int:
    total = count = 0
    for path in _entries(root, _KEY):
        manifest, size = _read_manifest(path), _size_of(path)
        if isinstance(manifest, str):
            print(f"{_title(path)}  {readable_size(size):>8}  DAMAGED: {manifest}")
        else:
            used = time.strftime("%Y-%m-%d", time.gmtime((path / MANIFEST).stat().st_mtime))
            made = manifest["created"][:10]
            print(f"{_title(path)}  {readable_size(size):>8}  made {made}, used {used}  {manifest['what']}")
        total, count = total + size, count + 1
    print(f"{count} artifacts, {readable_size(total)} in {root}")
    return 0


def _verify(root: Path) -> int:
    checked = damaged = 0
    for path in _entries(root, _KEY):
        fault = _fault(path)
        checked, damaged = checked + 1, damaged + (fault is not None)
        print(f"{_title(path)}  {'ok' if fault is None else f'DAMAGED: {fault}'}")
    for path in _entries(root, _UNFINISHED):
        print(f"{_title(path)}  unfinished: being made, or left by a process that was killed (prune removes it then)")
    print(f"{checked} artifacts checked, {damaged} damaged" + ("; prune removes them" if damaged else ""))
    return 1 if damaged else 0


def _prune(root: Path, older_than: float | None) -> int:
    freed = 0
    names = [*_entries(root, _KEY), *_entries(root, _LEFT)]
    for final in sorted({path.with_name(path.name.lstrip(".")[:16]) for path in names}):
        temporary = _temporary(final)
        with locked(_lock(final), wait=False) as holder:  # and the lock file of a killed builder goes with it
            if holder is not None:
                print(f"{_title(final)}  left alone: {holder} is making it")
                continue
            reasons = {temporary: "unfinished", final: _reason_to_prune(final, older_than)}
            for path, reason in reasons.items():
                if reason and path.exists():
                    size = _size_of(path)
                    _discard(path) if path == final else shutil.rmtree(path)
                    freed += size
                    print(f"{_title(path)}  removed, {readable_size(size)}: {reason}")
    print(f"{readable_size(freed)} freed in {root}")
    return 0


def _reason_to_prune(path: Path, older_than: float | None) -> str | None:
    fault = _fault(path)
    if fault is not None:
        return f"damaged: {fault}"  # or absent, then there is nothing to remove
    days = (time.time() - (path / MANIFEST).stat().st_mtime) / 86400
    return f"not used for {days:.1f} days" if older_than is not None and days > older_than else None


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0 done, 1 damage found by `verify`, 2 wrong use or an unusable store."""
    parser = argparse.ArgumentParser("python -m kdlab.artifacts", description="What the artifact store holds.")
    parser.add_argument(
        "action",
        choices=["list", "verify", "prune"],
        help="list them; read every byte and compare checksums; remove damaged and unfinished ones",
    )
    parser.add_argument("--root", type=Path, default=Path("artifacts"), help="the store (default: artifacts)")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="prune also what was not used for DAYS days")
    chosen = parser.parse_args(argv)
    try:
        if chosen.older_than is not None and (chosen.action != "prune" or not chosen.older_than >= 0):
            raise UserError(f"--older-than {chosen.older_than:g}: a number of days from 0 on, for prune only")
        if not (chosen.root / _TAG).is_file():
            raise UserError(f"{chosen.root} is no artifact store (it has no {_TAG}); name one with --root")
        with plain_errors(chosen.action, chosen.root):
            if chosen.action == "prune":
                return _prune(chosen.root, chosen.older_than)
            return _list(chosen.root) if chosen.action == "list" else _verify(chosen.root)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
