"""The command to try after a finished run, and its cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdlab.config import quoting
from kdlab.models.head import head_of_result
from kdlab.plugins import own_modules
from kdlab.runs.closing.scores import taught
from kdlab.runs.keeping import REMOVED, STUDENT
from kdlab.runs.settings_used import below

_KEY = re.compile(r"(?:\+\+|\+|~)?([\w./]+)")  # of an override, without its sign
_PLACE = ("hydra.run.dir", "overwrite", "resume")  # settings of the folder of this run
# settings of a selection that random ones take: as many, of which unit and of which batch
_PLAIN = ("select.ratio", "select.pool", "select.unit", "select.positions", "select.per_row")
_WHOLE = ("select", "trainer.trace_every", "trainer.trace_rows")
_LENGTH = ("trainer.max_steps", "trainer.max_epochs")  # limits beside a budget
_STUDENT_DEPTH = 3  # layers of the student of +exp=adads_finetune at demo scale
_FEWER = 0.1  # ratio of a baseline for a run on all rows (AdaDS's)


def next_lines(result: dict[str, Any], folder: Path) -> list[str]:
    """Lines with a command to try next, which can be pasted into a shell; none where there is nothing to suggest."""
    if taught(result):
        return [f"next: {says}:  {quoting.command(overrides)}" for says, overrides in _baselines(result, folder)]
    if head_of_result(result).per_row and STUDENT not in result.get(REMOVED, []):
        overrides = ["+exp=adads_finetune", *_rows(result), quoting.override("teachers.path", folder / "student")]
        return [f"next: as a teacher on the same rows:  {quoting.command([*overrides, *_half_as_deep(result)])}"]
    return []


def _baselines(result: dict[str, Any], folder: Path) -> list[tuple[str, list[str]]]:
    """Baselines to run next, each with its cost and its overrides; of a strategy that scores rows also random rows for as
    many FLOPs."""
    says, overrides = _baseline(result)
    select = result["select"]
    if select["ratio"] == 1 or select["name"] == "random":
        return [(says, overrides)]
    if result.get("budget"):
        return [("drawn at random, with the same budget", overrides)]
    kept = [*_without(overrides, _LENGTH), quoting.override("budget.like", folder)]
    return [(says, overrides), ("drawn at random, as many FLOPs", [*kept, *(f"{key}=null" for key in _LENGTH)])]


def _baseline(result: dict[str, Any]) -> tuple[str, list[str]]:
    """The baseline to run next, with its cost, and its overrides: constant term weights, random rows, or all rows."""
    given, select = result["command"][3:], result["select"]
    weighed = (result.get("policy") or {}).get("name") or "fixed"
    if select["ratio"] == 1 and weighed != "fixed":
        return "fixed term weights, as many queries", [*_without(given, (*_PLACE, "weigh", "policy")), "weigh=fixed"]
    if select["ratio"] == 1:
        kept = _without(given, (*_PLACE, *_WHOLE))
        return f"{_FEWER:.0%} of the rows, drawn at random: {_FEWER:g}x the queries", [
            *kept, "select=random", f"select.ratio={_FEWER:g}",
        ]  # fmt: skip
    if select["name"] != "random":
        kept = [line for line in _without(given, _PLACE) if _key(line) in _PLAIN or not below(_key(line), "select")]
        units = {"position": "positions", "both": "rows and positions"}.get(select.get("unit", "row"), "rows")
        return f"as many {units}, drawn at random: 1x the queries", [*kept, "select=random"]
    times = result["ledger"]["rows_seen"] / max(1, result["ledger"]["teacher_queries"]["total"])
    pool = [f"data.batch_size={line.partition('=')[2]}" for line in given if _key(line) == "select.pool"]
    kept = _without(given, (*_PLACE, *_WHOLE, *(["data.batch_size"] if pool else [])))
    all_ = "all positions" if select.get("unit") == "position" else "all rows"
    return f"{all_}: {times:.2f}x the queries", [*kept, *pool, "select=all"]


def _rows(result: dict[str, Any]) -> list[str]:
    """Overrides of the run that name its rows, its scale and its seed; its rows may be read by code of the user's own."""
    overrides, code = own_modules.split(result["command"][3:])
    options = [word for one in code for word in (own_modules.OPTION, one)]
    return options + [line for line in overrides if _key(line).split(".")[0] in ("data", "scale", "seed", "artifacts")]


def _half_as_deep(result: dict[str, Any]) -> list[str]:
    """An override of the student's depth, for a teacher that is no deeper than the experiment's student."""
    layers = result["student"].get("layers")
    depth = (
        len(layers)
        if isinstance(layers, list)
        else (result.get("teacher") or {}).get("layers")
        if layers == "all"
        else layers
    )
    return [f"student.layers={max(1, depth // 2)}"] if isinstance(depth, int) and depth <= _STUDENT_DEPTH else []


def _without(overrides: Sequence[str], names: Sequence[str]) -> list[str]:
    """Overrides without those of the keys and groups `names`, and of the keys below these."""
    return [line for line in overrides if not any(_key(line) == n or _key(line).startswith(f"{n}.") for n in names)]


def _key(override: str) -> str:
    found = _KEY.match(override)
    return found[1] if found else ""
