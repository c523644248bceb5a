"""The mean of GLUE of pre-trained students against the ratio of rows that queried the teacher (AdaDS Fig. 4).

A suite (`+exp=glue student.path=RUN/student`) has the scores of one student; the run that the student was pre-trained in
has the strategy and the ratio.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.errors import UserError
from kdlab.reporting import seed_groups
from kdlab.reporting.analyses import across_runs
from kdlab.reporting.glue_scoreboard import RESULTS, TABLE4
from kdlab.reporting.papers import numbers_with

if TYPE_CHECKING:
    from kdlab.reporting.analyses.one_run import AnalysisResult

COLUMNS = ("task", "setting", "select", "ratio", "published", *across_runs.MEASURED)
_PRINTED = {"least_confidence": "conf"}  # strategies that AdaDS names otherwise


def glue(paths: Sequence[Path], notify: Callable[[str], None] = print) -> AnalysisResult:
    """GLUE's mean against the selection ratio of pre-training, one line a strategy, mean over the seeds of pre-training.

    `paths`: suites, or folders with suites below. The mean of a student is over its columns of the suite's table (MNLI-m and
    MNLI-mm count as two, WNLI not, as in AdaDS Table 4) and its fine-tuning seeds. Table: as `ratio`'s; task says over how
    many columns, `published` is Table 4's mean where all nine are there. Queries, FLOPs and seconds are of the
    pre-training. UserError where no suite has a mean.
    """
    means = _means(paths, notify)
    if not means:
        raise UserError(
            f"no finished suite with a mean in {', '.join(map(str, paths))}: +exp=glue student.path=RUN/student makes one"
        )
    runs, left = seed_groups.read(list(means))
    for folder, why in left.items():
        notify(f"left out, {why}: {folder}")
    of = {folder.resolve(): found for folder, found in means.items()}
    table = across_runs.by_ratio(
        [_scored(run, *of[run.folder.resolve()]) for run in runs if run.folder.resolve() in of]
    )
    for row in table:
        row["published"] = _printed(row)
    title = "Mean of GLUE, by the share of the rows that queried the teacher"
    return across_runs.analysis(COLUMNS, table, "ratio", title, "selection ratio of the pre-training")


def _means(paths: Sequence[Path], notify: Callable[[str], None]) -> dict[Path, tuple[float, list[str]]]:
    """By pre-training run: the mean of GLUE of its student, as a fraction, and the columns it is over."""
    means: dict[Path, tuple[float, list[str]]] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder; suites, or folders with suites below, were expected")
        for file in sorted(path.rglob(RESULTS)):
            try:
                suite = json.loads(file.read_text(encoding="utf-8"))
                run, own = Path(suite["student"]).parent, suite["own"][0]
                mean, columns = own["average"], [str(title) for title in suite["averaged"]]
            except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
                notify(f"left out, not as suites write it: {file}")
                continue
            if not isinstance(mean, int | float) or not math.isfinite(mean) or suite.get("status") != "finished":
                notify(f"left out, unfinished: {file.parent}")
            elif not (run / "result.json").is_file():
                notify(f"left out, its student {suite['student']} stands in no run folder: {file.parent}")
            else:
                means[run] = (mean / 100, columns)
    return means


def _scored(run: seed_groups.Run, mean: float, columns: Sequence[str]) -> seed_groups.Run:
    """A pre-training run whose score is the mean of GLUE of its student."""
    result: dict[str, Any] = {**run.result, "metrics": {"student": {"score": mean}}}
    return replace(run, result=result, task=f"GLUE, mean of {len(columns)}: {', '.join(columns)}")


def _printed(row: Mapping[str, Any]) -> float | None:
    """Table 4's mean of the row's strategy and ratio, where the row is over the table's own columns."""
    numbers = numbers_with(**TABLE4, method=_PRINTED.get(row["select"], row["select"]), ratio=row["ratio"])
    columns = {number.task for number in numbers if number.task != "average"}
    if not columns or set(row["task"].partition(": ")[2].split(", ")) != columns:
        return None
    return next(number.value for number in numbers if number.task == "average")
