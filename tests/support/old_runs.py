"""Run folders and an artifact store as version eb978b8 wrote them: its text files (tests/data/old_runs), the rest by a run of today."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OLD = Path(__file__).parents[1] / "data" / "old_runs"
FINISHED = sorted(file.parent.name for file in OLD.glob("*/metrics.csv"))
_HASH = re.compile(r"[0-9a-f]{64}")  # of weights, rows or tokenizers: another machine may train other bits


def recorded(name: str) -> dict[str, Any]:
    """The result.json of an old run."""
    return json.loads((OLD / name / "result.json").read_text())


def command_of(name: str) -> list[str]:
    """The overrides of an old run as they were typed, less `hydra.run.dir`, and a default of then that is another now."""
    typed = [override for override in recorded(name)["command"][3:] if not override.startswith("hydra.run.dir=")]
    return typed if name == "pretrain" else [*typed, "student.start=backbone"]


def as_old(folder: Path, name: str) -> None:
    """Give a run folder of today the files of an old run that name targets and settings: config.yaml, result.json.

    A finished run keeps its own scores and ledger, so that it can be compared with a repetition.
    """
    shutil.copy(OLD / name / "config.yaml", folder / "config.yaml")
    result = json.loads((folder / "result.json").read_text())
    old = recorded(name)
    kept = ("metrics", "ledger", "steps", "teacher", "teachers", "data", "versions", "devices", "run", "artifacts")
    result = old | {key: result[key] for key in kept if key in result}
    (folder / "result.json").write_text(json.dumps(result))


def artifacts() -> dict[str, dict[str, Any]]:
    """Key parts of the old store's artifacts, by `kind/key`."""
    return json.loads((OLD / "artifacts.json").read_text())


def with_hashes(parts: Any, old: Any) -> Any:
    """`parts` with the old hashes in place of its own, where both have one at the same place."""
    if isinstance(parts, dict) and isinstance(old, dict):
        return {key: with_hashes(value, old.get(key)) for key, value in parts.items()}
    if isinstance(parts, list) and isinstance(old, list) and len(parts) == len(old):
        return [with_hashes(value, other) for value, other in zip(parts, old, strict=True)]
    both = isinstance(parts, str) and isinstance(old, str) and _HASH.fullmatch(parts) and _HASH.fullmatch(old)
    return old if both else parts


def names_in(node: Any, depth: int = 4, at: str = "") -> Iterator[str]:
    """Paths of the entries of nested dicts, down to `depth`: `callbacks/Select/arm`."""
    if isinstance(node, dict) and node and depth:
        for key, value in node.items():
            yield from names_in(value, depth - 1, f"{at}/{key}" if at else str(key))
    else:
        yield at
