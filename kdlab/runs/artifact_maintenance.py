"""List, verify and prune an artifact store, with the teachers' cached answers that lie in it (`python -m kdlab.artifacts`)."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.errors import UserError, nearest, one_line
from kdlab.runs.artifact_facts import facts_of, scores_by_weights
from kdlab.runtime.progress import ProgressBar
from kdlab.storage.artifacts import (
    COST,
    KEY,
    LEFTOVER,
    MANIFEST,
    TAG,
    UNFINISHED,
    discard,
    entries,
    fault_of,
    is_in_use,
    lock_of,
    read_manifest,
    temporary_of,
    training_of,
)
from kdlab.storage.files import locked, readable_size
from kdlab.teachers.cache import maintenance
from kdlab.teachers.cache.disk_store import FACTS

FRESH = 1.0  # days in which nothing counts as unused: a run that has not written its result yet may have read it

Uses = Mapping[str, Sequence[str]]  # "kind/key" to the run folders whose result.json names it


@dataclass(frozen=True)
class PruneRule:
    """Conditions for removal, which must all hold; without any only damaged and unfinished artifacts are removed.

    `kinds`: of one of these kinds. `older_than`: last used more than this many days ago. `unused`: named by no run.
    """

    kinds: frozenset[str] = frozenset()
    older_than: float | None = None
    unused: bool = False

    def reason(self, artifact: Path, uses: Uses) -> str | None:
        """Reason to remove an artifact; None to keep it."""
        fault = fault_of(artifact)
        if fault is not None:
            return f"damaged: {fault}" if artifact.exists() or artifact.is_symlink() else None
        return self.reason_if_whole(artifact, artifact / MANIFEST, uses)

    def reason_if_whole(self, path: Path, touched: Path, uses: Uses) -> str | None:
        """Reason to remove an undamaged entry, last used at the modification time of `touched`; None to keep it."""
        if not self.kinds and self.older_than is None and not self.unused:
            return None
        days = (time.time() - touched.stat().st_mtime) / 86400
        reasons = [f"of kind {path.parent.name}"] if self.kinds else []
        if self.older_than is not None:
            if days <= self.older_than:
                return None
            reasons.append(f"not used for {days:.1f} days")
        if self.unused:
            if uses.get(_title(path)) or (self.older_than is None and days <= FRESH):
                return None
            reasons.append("no run names it")
        return ", ".join(reasons)


def kinds_of(root: Path, chosen: Sequence[str]) -> frozenset[str]:
    """The chosen kinds of a store, or all its kinds; UserError where `root` is no store or has no such kind."""
    if not (root / TAG).is_file():
        raise UserError(f"{root} is no artifact store (it has no {TAG}); name one with --root")
    present = {path.name for path in root.iterdir() if path.is_dir()}
    for kind in chosen:
        if kind not in present:
            raise UserError(f"--kind {kind}: {nearest(kind, sorted(present))}")
    return frozenset(chosen or present)


def uses_of(runs: Path) -> Uses:
    """The run folders below `runs` that name an artifact in their result.json, by "kind/key"."""
    users: dict[str, list[str]] = defaultdict(list)
    for file in sorted(runs.rglob("result.json")) if runs.is_dir() else []:
        try:
            names = json.loads(file.read_bytes())["artifacts"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # of a run that is damaged, or older than this record
        for name in names if isinstance(names, list) else []:
            users[str(name)].append(str(file.parent))
    return users


def list_store(root: Path, kinds: frozenset[str], uses: Uses) -> int:
    """Print a line per artifact and cache: kind, key, size, creation, cost, last use; of a trained model also its facts.

    Returns the exit code 0.
    """
    total = count = 0
    scores = scores_by_weights(root)
    for path in _artifacts(root, kinds):
        manifest, size = read_manifest(path), _size_of(path)
        if isinstance(manifest, str):
            print(f"{_title(path)}  {readable_size(size):>8}  DAMAGED: {manifest}")
        else:
            created, used = manifest["created"][:10], (path / MANIFEST).stat().st_mtime
            facts = f"made {created}{_cost(path, manifest)}, {_last_use(path, used, uses)}"
            print(f"{_title(path)}  {readable_size(size):>8}  {facts}  {manifest['what']}")
            if trained := facts_of(path, manifest, uses.get(_title(path), ()), scores):
                print(f"    {one_line(trained)}")
        total, count = total + size, count + 1
    for path in _caches(root, kinds):
        store, size = maintenance.open_store(path), _size_of(path)
        if isinstance(store, str):
            print(f"{_title(path)}  {readable_size(size):>8}  DAMAGED: {store}")
        else:
            used = _last_use(path, (path / FACTS).stat().st_mtime, uses)
            print(f"{_title(path)}  {readable_size(size):>8}  {used}  {maintenance.describe(store)}")
        total, count = total + size, count + 1
    print(f"{count} artifacts, {readable_size(total)} in {root}")
    return 0


def verify_store(root: Path, kinds: frozenset[str]) -> int:
    """Read every byte, compare checksums and print a line per artifact and cache; returns 1 if any is damaged, else 0."""
    checked = damaged = 0
    checks = [(path, fault_of) for path in _artifacts(root, kinds)]
    checks += [(path, maintenance.fault_of) for path in _caches(root, kinds)]
    with ProgressBar("checking", len(checks), "artifacts") as bar:
        for path, check in checks:
            fault = check(path)
            checked, damaged = checked + 1, damaged + (fault is not None)
            bar.notify(f"{_title(path)}  {'ok' if fault is None else f'DAMAGED: {fault}'}")
            bar.to(checked)
    for path in entries(root, UNFINISHED):
        if path.parent.name in kinds:
            print(f"{_title(path)}  unfinished: being made, or left by a process that was killed (prune takes it then)")
    print(f"{checked} artifacts checked, {damaged} damaged" + ("; prune --delete removes them" if damaged else ""))
    return 1 if damaged else 0


def prune_store(root: Path, kinds: frozenset[str], rule: PruneRule, uses: Uses, delete: bool) -> int:
    """Remove the entries that `rule` selects, or with `delete` False print them only; returns the exit code 0.

    Entries that a running process uses or makes stay.
    """
    freed = 0
    paths = [path for path in (*entries(root), *entries(root, LEFTOVER)) if path.parent.name in kinds]
    for final in sorted({path.with_name(path.name.lstrip(".")[:16]) for path in paths}):
        temporary = temporary_of(final)
        with locked(lock_of(final), wait=False) as holder:  # and the lock file of a killed builder goes with it
            if holder is not None:
                print(f"{_title(final)}  left alone: {holder} is making it")
                continue
            reasons = {temporary: "unfinished", training_of(final): "unfinished", final: rule.reason(final, uses)}
            for path, reason in reasons.items():
                if not reason or not (path.exists() or path.is_symlink()):
                    continue
                if path == final and is_in_use(final):
                    print(f"{_title(final)}  left alone: a running process uses it")
                    continue
                size = _size_of(path)
                if delete:
                    discard(path) if path == final else shutil.rmtree(path)
                freed += size
                print(f"{_title(path)}  {'removed' if delete else 'would go'}, {readable_size(size)}: {reason}")
    freed += _prune_caches(root, kinds, rule, uses, delete)
    print(f"{readable_size(freed)} {'freed' if delete else 'would be freed (--delete does it)'} in {root}")
    return 0


def _prune_caches(root: Path, kinds: frozenset[str], rule: PruneRule, uses: Uses, delete: bool) -> int:
    """Prune answer caches in the same way; returns the bytes freed.

    Of damaged caches only unreadable ones are removed: single damaged rows are queried again.
    """
    freed = 0
    for path in [*_caches(root, kinds), *(path for path in maintenance.leftovers(root) if path.parent.name in kinds)]:
        if path.name.startswith("."):
            reason = "unfinished"
        elif isinstance(fault := maintenance.open_store(path), str):
            days = (time.time() - path.stat().st_mtime) / 86400
            reason = f"damaged: {fault}" if days > FRESH else None  # a run may have just begun it
        else:
            reason = rule.reason_if_whole(path, path / FACTS, uses)
        if reason is None:
            continue
        with maintenance.try_lock(path) as free:
            if not free:
                print(f"{_title(path)}  left alone: a running process uses it")
                continue
            size = _size_of(path)
            if delete:
                shutil.rmtree(path) if path.name.startswith(".") else maintenance.discard(path)
            freed += size
            print(f"{_title(path)}  {'removed' if delete else 'would go'}, {readable_size(size)}: {reason}")
    return freed


def _last_use(path: Path, when: float, uses: Uses) -> str:
    """Date of the last use and the runs that used it: "used 2026-01-31 by outputs/a, outputs/b and 3 more"."""
    names = uses.get(_title(path), ())
    by = f" by {', '.join(names[:2])}" + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return f"used {time.strftime('%Y-%m-%d', time.gmtime(when))}{by if names else ''}"


def _cost(path: Path, manifest: Mapping[str, Any]) -> str:
    """Recorded cost of an artifact: " in 12.3 s, 4.5e+12 model FLOPs, 7 teacher queries"; "" if nothing is recorded."""
    seconds = manifest.get("seconds")
    parts = [f" in {seconds:g} s"] if seconds is not None else []
    try:
        cost = json.loads((path / COST).read_bytes())
        parts += [f"{cost['flops']:.3g} model FLOPs"] if cost.get("flops") is not None else []
        parts += [f"{cost['queries']} teacher queries"] if cost.get("queries") else []
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # it was not trained
    return ", ".join(parts)


def _artifacts(root: Path, kinds: frozenset[str]) -> Iterator[Path]:
    return (path for path in entries(root, KEY) if path.parent.name in kinds)


def _caches(root: Path, kinds: frozenset[str]) -> list[Path]:
    return [path for path in maintenance.folders(root) if path.parent.name in kinds]


def _size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _title(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
