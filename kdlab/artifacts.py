"""`python -m kdlab.artifacts list|verify|prune`: what the artifact store holds, whether it is whole, what may go.

Teachers' cached answers, which lie beside the artifacts, are listed, checked and removed in the same way.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.errors import UserError, nearest
from kdlab.runtime.progress import ProgressBar
from kdlab.storage.artifacts import (
    KEY,
    LEFT,
    MANIFEST,
    TAG,
    UNFINISHED,
    discard,
    entries,
    fault_of,
    in_use,
    lock_of,
    read_manifest,
    temporary_of,
)
from kdlab.storage.files import locked, plain_errors, readable_size
from kdlab.teachers.cache import maintenance
from kdlab.teachers.cache.store import FACTS

COST = "cost.json"  # in artifacts that were trained
FRESH = 1.0  # days in which nothing counts as unused: a run that has not written its result yet may have read it

Uses = Mapping[str, Sequence[str]]  # "kind/key" to the run folders that name it


@dataclass(frozen=True)
class PruneRule:
    """What prune takes, as conditions that must all hold; without any of them it takes damaged and unfinished ones only."""

    kinds: frozenset[str] = frozenset()
    older_than: float | None = None
    unused: bool = False

    def reason(self, path: Path, uses: Uses) -> str | None:
        """Why an artifact goes; None: it stays."""
        fault = fault_of(path)
        if fault is not None:
            return f"damaged: {fault}" if path.exists() or path.is_symlink() else None
        return self.asked(path, path / MANIFEST, uses)

    def asked(self, path: Path, touched: Path, uses: Uses) -> str | None:
        """Why something whole goes, whose file `touched` is as old as its last use; None: it stays."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0 done, 1 damage found by `verify`, 2 wrong use or an unusable store."""
    parser = argparse.ArgumentParser("python -m kdlab.artifacts", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root", type=Path, default=Path("artifacts"), help="the store (default: artifacts)")
    common.add_argument("--kind", action="append", default=[], help="this kind only (may be given again)")
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument("--runs", type=Path, default=Path("outputs"), help="where run folders lie (default: outputs)")
    actions.add_parser("list", parents=[common, runs], help="kind, key, size, making, cost, and which runs used it")
    actions.add_parser("verify", parents=[common], help="read every byte and compare checksums")
    prune = actions.add_parser(
        "prune",
        parents=[common, runs],
        help="show what would be removed: damaged and unfinished ones, and what is asked",
    )
    prune.add_argument("--older-than", type=float, metavar="DAYS", help="also those that were not used for DAYS days")
    prune.add_argument("--unused", action="store_true", help="also those that no run folder below --runs names")
    how = prune.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="only show (the default)")
    how.add_argument("--delete", action="store_true", help="remove them")
    chosen = parser.parse_args(argv)
    try:
        kinds = _check(chosen)
        with plain_errors(chosen.action, chosen.root):
            if chosen.action == "verify":
                return _verify(chosen.root, kinds)
            uses = _uses(chosen.runs)
            if chosen.action == "list":
                return _list(chosen.root, kinds, uses)
            if chosen.unused and not chosen.runs.is_dir():
                raise UserError(f"--unused: there is no folder {chosen.runs}; say with --runs where run folders lie")
            doomed = PruneRule(frozenset(chosen.kind), chosen.older_than, chosen.unused)
            return _prune(chosen.root, kinds, doomed, uses, chosen.delete)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _check(chosen: argparse.Namespace) -> frozenset[str]:
    """The kinds that were asked for, or all; UserError for what makes no sense."""
    days = getattr(chosen, "older_than", None)
    if days is not None and not days >= 0:
        raise UserError(f"--older-than {days:g}: a number of days from 0 on")
    if not (chosen.root / TAG).is_file():
        raise UserError(f"{chosen.root} is no artifact store (it has no {TAG}); name one with --root")
    there = {path.name for path in chosen.root.iterdir() if path.is_dir()}
    for kind in chosen.kind:
        if kind not in there:
            raise UserError(f"--kind {kind}: {nearest(kind, sorted(there))}")
    return frozenset(chosen.kind or there)


def _uses(runs: Path) -> Uses:
    """Which run folders below `runs` name which artifacts in their result.json."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(runs.rglob("result.json")) if runs.is_dir() else []:
        try:
            named = json.loads(file.read_bytes())["artifacts"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # of a run that is damaged, or older than this record
        for name in named if isinstance(named, list) else []:
            found[str(name)].append(str(file.parent))
    return found


def _list(root: Path, kinds: frozenset[str], uses: Uses) -> int:
    total = count = 0
    for path in _of(root, kinds):
        manifest, size = read_manifest(path), _size_of(path)
        if isinstance(manifest, str):
            print(f"{_title(path)}  {readable_size(size):>8}  DAMAGED: {manifest}")
        else:
            made, used = manifest["created"][:10], (path / MANIFEST).stat().st_mtime
            facts = f"made {made}{_cost(path, manifest)}, {_used(path, used, uses)}"
            print(f"{_title(path)}  {readable_size(size):>8}  {facts}  {manifest['what']}")
        total, count = total + size, count + 1
    for path in _answers(root, kinds):
        store, size = maintenance.opened(path), _size_of(path)
        if isinstance(store, str):
            print(f"{_title(path)}  {readable_size(size):>8}  DAMAGED: {store}")
        else:
            used = _used(path, (path / FACTS).stat().st_mtime, uses)
            print(f"{_title(path)}  {readable_size(size):>8}  {used}  {maintenance.described(store)}")
        total, count = total + size, count + 1
    print(f"{count} artifacts, {readable_size(total)} in {root}")
    return 0


def _used(path: Path, when: float, uses: Uses) -> str:
    """When something was used last, and by which runs: "used 2026-01-31 by outputs/a, outputs/b and 3 more"."""
    names = uses.get(_title(path), ())
    by = f" by {', '.join(names[:2])}" + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return f"used {time.strftime('%Y-%m-%d', time.gmtime(when))}{by if names else ''}"


def _cost(path: Path, manifest: Mapping[str, Any]) -> str:
    """What an artifact cost, as far as it was written down: " in 12.3 s, 4.5e+12 model FLOPs, 0 teacher queries"."""
    seconds = manifest.get("seconds")
    words = [f" in {seconds:g} s"] if seconds is not None else []
    try:
        cost = json.loads((path / COST).read_bytes())
        words += [f"{cost['flops']:.3g} model FLOPs"] if cost.get("flops") is not None else []
        words += [f"{cost['queries']} teacher queries"] if cost.get("queries") else []
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # it was not trained
    return ", ".join(words)


def _verify(root: Path, kinds: frozenset[str]) -> int:
    checked = damaged = 0
    every = [(path, fault_of) for path in _of(root, kinds)]
    every += [(path, maintenance.fault_of) for path in _answers(root, kinds)]
    with ProgressBar("checking", len(every), "artifacts") as told:
        for path, judge in every:
            fault = judge(path)
            checked, damaged = checked + 1, damaged + (fault is not None)
            told.say(f"{_title(path)}  {'ok' if fault is None else f'DAMAGED: {fault}'}")
            told.to(checked)
    for path in entries(root, UNFINISHED):
        if path.parent.name in kinds:
            print(f"{_title(path)}  unfinished: being made, or left by a process that was killed (prune takes it then)")
    print(f"{checked} artifacts checked, {damaged} damaged" + ("; prune --delete removes them" if damaged else ""))
    return 1 if damaged else 0


def _prune(root: Path, kinds: frozenset[str], doomed: PruneRule, uses: Uses, delete: bool) -> int:
    freed = 0
    names = [path for path in (*entries(root), *entries(root, LEFT)) if path.parent.name in kinds]
    for final in sorted({path.with_name(path.name.lstrip(".")[:16]) for path in names}):
        temporary = temporary_of(final)
        with locked(lock_of(final), wait=False) as holder:  # and the lock file of a killed builder goes with it
            if holder is not None:
                print(f"{_title(final)}  left alone: {holder} is making it")
                continue
            reasons = {temporary: "unfinished", final: doomed.reason(final, uses)}
            for path, reason in reasons.items():
                if not reason or not (path.exists() or path.is_symlink()):
                    continue
                if path == final and in_use(final):
                    print(f"{_title(final)}  left alone: a running process uses it")
                    continue
                size = _size_of(path)
                if delete:
                    discard(path) if path == final else shutil.rmtree(path)
                freed += size
                print(f"{_title(path)}  {'removed' if delete else 'would go'}, {readable_size(size)}: {reason}")
    freed += _prune_answers(root, kinds, doomed, uses, delete)
    print(f"{readable_size(freed)} {'freed' if delete else 'would be freed (--delete does it)'} in {root}")
    return 0


def _prune_answers(root: Path, kinds: frozenset[str], doomed: PruneRule, uses: Uses, delete: bool) -> int:
    """As `_prune`, of cached answers: bytes. Of damaged ones those go that nobody can use; single rows are asked again."""
    freed = 0
    for path in [*_answers(root, kinds), *(path for path in maintenance.left(root) if path.parent.name in kinds)]:
        if path.name.startswith("."):
            reason = "unfinished"
        elif isinstance(fault := maintenance.opened(path), str):
            days = (time.time() - path.stat().st_mtime) / 86400
            reason = f"damaged: {fault}" if days > FRESH else None  # a run may have just begun it
        else:
            reason = doomed.asked(path, path / FACTS, uses)
        if reason is None:
            continue
        with maintenance.claimed(path) as free:
            if not free:
                print(f"{_title(path)}  left alone: a running process uses it")
                continue
            size = _size_of(path)
            if delete:
                shutil.rmtree(path) if path.name.startswith(".") else maintenance.discard(path)
            freed += size
            print(f"{_title(path)}  {'removed' if delete else 'would go'}, {readable_size(size)}: {reason}")
    return freed


def _answers(root: Path, kinds: frozenset[str]) -> list[Path]:
    return [path for path in maintenance.folders(root) if path.parent.name in kinds]


def _of(root: Path, kinds: frozenset[str]) -> Iterator[Path]:
    return (path for path in entries(root, KEY) if path.parent.name in kinds)


def _size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _title(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
