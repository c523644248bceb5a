"""Find, describe, verify, lock and remove folders of cached answers, for the artifact store's command."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdlab.storage.artifacts import entries, key_of
from kdlab.teachers.cache.disk_store import FACTS, DiskStore

SUFFIX = ".answers"  # a folder in the artifact store is named by its key and this suffix
_NAME = re.compile(r"[0-9a-f]{16}\.answers")
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.answers\.tmp")


def folders(root: Path) -> list[Path]:
    """The folders of answers in the artifact store at `root`."""
    return list(entries(root, _NAME))


def leftovers(root: Path) -> list[Path]:
    """The folders that killed removals left in the artifact store at `root`."""
    return list(entries(root, _LEFTOVER))


def open_store(folder: Path) -> DiskStore | str:
    """The store of answers in a folder, not locked, for inspection; or the fault of its answers.json."""
    try:
        stored = json.loads((folder / FACTS).read_bytes())
        key, rows, facts, about = stored["key"], stored["rows"], stored["facts"], stored.get("about", {})
        if not (isinstance(rows, int) and rows > 0 and isinstance(about, dict)):
            return f"{FACTS} is not what was written"
        if not key == key_of(facts) == folder.name.removesuffix(SUFFIX):
            return f"{FACTS} belongs to other answers (key {key})"
    except FileNotFoundError:
        return f"it has no {FACTS}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{FACTS} is not what was written"
    return DiskStore(folder, key, rows, facts, about)


def describe(store: DiskStore) -> str:
    """Rows, teacher, data set and precision of a store: "120 of 240 rows, teacher t on d, 32-true".

    With an index per epoch (text), the rows are "300 rows in 2 epochs of 240".
    """
    indexes = dict(store.indexes())
    count = sum(0 if isinstance(entries, str) else len(entries) for entries in indexes.values())
    epochs = [name for name in indexes if name.startswith("epoch-")]
    stored = f"{count:,} rows in {len(epochs)} epochs of" if epochs else f"{count:,} of"
    rows = f"{stored} {store.rows:,}{'' if epochs else ' rows'}"
    facts: dict[str, Any] = dict(store.facts)
    source = [f"teacher {store.about.get('teacher') or str(facts.get('teacher'))[:12]}"]
    source += [f"on {store.about['data']}"] if store.about.get("data") else []
    return f"{rows}, {' '.join(source)}, {facts.get('precision')}"


def fault_of(folder: Path) -> str | None:
    """Read every answer of a folder; the first fault and the number of others, or None."""
    store = open_store(folder)
    if isinstance(store, str):
        return store
    try:
        faults = store.faults()
        first = next(faults, None)
        if first is None:
            return None
        more = sum(1 for _ in itertools.islice(faults, 10**6))
    finally:
        store.close()
    return f"{first}{f', and {more} more' if more else ''}; a run that needs it queries the teacher again"


@contextlib.contextmanager
def try_lock(folder: Path) -> Iterator[bool]:
    """Lock a folder of answers for the block, so that no process can open it; yields False if a process uses it."""
    try:
        descriptor = os.open(folder / FACTS, os.O_RDONLY)
    except OSError:  # removed, or without facts: no process can have locked it
        yield True
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the folder's age alone protects it
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
        yield True
    finally:
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove a folder of answers; a kill in between leaves a folder that `leftovers` finds."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    os.rename(folder, temporary)
    shutil.rmtree(temporary)
