"""The command to try after a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlab.config import quoting
from kdlab.models.head import head_of_result
from kdlab.runs.closing.scores import taught


def next_lines(result: dict[str, Any], folder: Path) -> list[str]:
    """Lines with a command to try next, which can be pasted into a shell; none where there is nothing to suggest."""
    if taught(result):
        return [f"next: the baseline of the same size:  {quoting.command(_next(result))}"]
    if head_of_result(result).per_row:
        teacher = quoting.override("teachers.path", folder / "student")
        return [f"next: as a teacher:  {quoting.command(['+exp=adads_finetune', teacher])} ..."]
    return []


def _next(result: dict[str, Any]) -> list[str]:
    """Overrides of the baseline to run next: constant term weights, random selection, or all data."""
    weighed = (result.get("policy") or {}).get("name", "fixed")
    if result["select"]["ratio"] == 1 and weighed != "fixed":
        own = ("weigh=", "weigh.", "policy=", "policy.", "hydra.run.dir=", "overwrite=", "resume=")
        return [*(o for o in result["command"][3:] if not o.startswith(own)), "weigh=fixed"]
    other = "random" if result["select"]["name"] != "random" else "all"
    own = ("select=", "hydra.run.dir=", "overwrite=", "resume=", *(("select.ratio=",) if other == "all" else ()))
    kept = [override for override in result["command"][3:] if not override.startswith(own)]
    return [*kept, f"select={other}"]
