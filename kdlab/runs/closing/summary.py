"""The summary that a finished run prints: scores, costs, and the next command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlab.runs.closing.cost_lines import cost, preparation
from kdlab.runs.closing.further_scores import further
from kdlab.runs.closing.next_commands import next_lines
from kdlab.runs.closing.plan_lines import plan_lines
from kdlab.runs.closing.scores import about, quality
from kdlab.runs.closing.size_lines import size_lines
from kdlab.runs.keeping import REMOVED, STUDENT


def table(result: dict[str, Any], folder: Path, beside: str = "") -> str:
    """The closing table: scores of the student, its teachers and baselines; caveats; costs against all-data distillation;
    size and speed; the next command. `beside`: the comparison with random selection (`beside_random`)."""
    lines = [
        "",
        about(result),
        *quality(result),
        *further(result),
        *caveats(result),
        "",
        *cost(result),
        *plan_lines(result),
        *preparation(result),
        *size_lines(result),
    ]
    lines += [beside] if beside else []
    drawn = [f"figures/{name}.png" for name in ("schedule", "knowledge")]
    figures = "".join(f"{file}, " for file in drawn if (folder / file).is_file())
    student = "" if STUDENT in result.get(REMOVED, []) else ", student/"
    kept = "predictions/, " if (folder / "predictions").is_dir() else ""
    lines += ["", f"run folder: {folder}   ({figures}{kept}metrics.csv, selector.csv, result.json{student})"]
    return "\n".join([*lines, *next_lines(result, folder)])


def caveats(result: dict[str, Any]) -> list[str]:
    """Lines of the run's caveats; none without one."""
    found = result.get("caveats") or []  # results of an older kdlab have none
    return ["", "caveats", *(f"  - {one['text']}" for one in found)] if found else []
