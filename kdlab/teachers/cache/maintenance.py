"""Folders of cached answers as the artifact store's command sees them: what they hold, whether it is whole, who uses it."""

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
from kdlab.teachers.cache.store import FACTS, DiskStore

ENDING = ".answers"  # a folder in the store is called by its key and this
_NAME = re.compile(r"[0-9a-f]{16}\.answers")
_LEFT = re.compile(r"\.[0-9a-f]{16}\.answers\.tmp")


def folders(root: Path) -> list[Path]:
    """The folders of answers in a store."""
    return list(entries(root, _NAME))


def left(root: Path) -> list[Path]:
    """What a removal that was killed has left."""
    return list(entries(root, _LEFT))


def opened(folder: Path) -> DiskStore | str:
    """The answers in a folder, for looking at; or what is wrong with the file that says what they are."""
    try:
        found = json.loads((folder / FACTS).read_bytes())
        key, rows, facts, about = found["key"], found["rows"], found["facts"], found.get("about", {})
        if not (isinstance(rows, int) and rows > 0 and isinstance(about, dict)):
            return f"{FACTS} is not what was written"
        if not key == key_of(facts) == folder.name.removesuffix(ENDING):
            return f"{FACTS} belongs to other answers (key {key})"
    except FileNotFoundError:
        return f"it has no {FACTS}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{FACTS} is not what was written"
    return DiskStore(folder, key, rows, facts, about)


def described(store: DiskStore) -> str:
    """How much of what is there: "120 of 240 rows", of text "300 rows in 2 epochs of 240", and whose answers to what."""
    found = dict(store.filled())
    count = sum(0 if isinstance(one, str) else len(one) for one in found.values())
    epochs = [name for name in found if name.startswith("epoch-")]
    some = f"{count:,} rows in {len(epochs)} epochs of" if epochs else f"{count:,} of"
    rows = f"{some} {store.rows:,}{'' if epochs else ' rows'}"
    facts: dict[str, Any] = dict(store.facts)
    who = [f"teacher {store.about.get('teacher') or str(facts.get('teacher'))[:12]}"]
    who += [f"on {store.about['data']}"] if store.about.get("data") else []
    return f"{rows}, {' '.join(who)}, {facts.get('precision')}"


def fault_of(folder: Path) -> str | None:
    """What is wrong with a folder of answers; None after every answer was read and found right."""
    store = opened(folder)
    if isinstance(store, str):
        return store
    try:
        faults = store.damaged()
        first = next(faults, None)
        if first is None:
            return None
        more = sum(1 for _ in itertools.islice(faults, 10**6))
    finally:
        store.close()
    return f"{first}{f', and {more} more' if more else ''}; who asks for it asks the teacher again"


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether no running process uses a folder of answers; during the block none can begin to."""
    try:
        descriptor = os.open(folder / FACTS, os.O_RDONLY)
    except OSError:  # it is no folder of answers any more
        yield True
        return
    try:
        with contextlib.suppress(OSError):  # no locks there: then age alone protects
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
        yield True
    finally:
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove a folder of answers; a kill on the way leaves what `left` finds."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    os.rename(folder, temporary)
    shutil.rmtree(temporary)
