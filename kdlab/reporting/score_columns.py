"""Scores of groups of runs beside the metric that they are compared by: on test, as a share of the teacher's, further ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from kdlab.reporting.seed_groups import Group, Run
from kdlab.runs.closing.further_scores import OF_CLASSES, OF_NUMBERS, shares

AGREEMENT = ("same as teacher", "agreement")  # title and key
UNSCALED = ("rmse", "mae")


def values_on_test(group: Group, metric: str) -> list[float]:
    """The students' test scores by a metric; none without labelled test rows."""
    return [value for run in group.runs.values() if (value := score_on_test(run, metric)) is not None]


def score_on_test(run: Run, metric: str) -> float | None:
    """The student's test score of a run; None without labelled test rows."""
    value = ((run.result.get("test") or {}).get("student") or {}).get(metric)
    return float(value) if value is not None and math.isfinite(value) else None


def reference_on_test(groups: Iterable[Group], name: str, metric: str) -> float | None:
    """The mean test score of a teacher or baseline of the groups' runs; None without one."""
    runs = [run for group in groups for run in group.runs.values()]
    found = [((run.result.get("test") or {}).get(name) or {}).get(metric) for run in runs]
    known = [value for value in found if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def teacher_share(group: Group) -> str:
    """The students' mean score as a share of the teacher's, on dev and test: "97.9 %, test 97.2 %"; "-" without one."""
    found = [shares(run.result) for run in group.runs.values()]
    said = []
    for part, title in (("dev", ""), ("test", "test ")):
        known = [one[part] for one in found if part in one]
        said += [f"{title}{100 * statistics.fmean(known):.1f} %"] if known else []
    return ", ".join(said) or "-"


def further_table(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """The students' further scores, means over seeds, times 100 but for errors: a head, and a line of cells a group.

    Only columns that say something; no head for results of an older kdlab and for text.
    """
    splits = list(
        dict.fromkeys(
            split for group in groups for run in group.runs.values() for split in run.result.get("scores") or {}
        )
    )
    columns = [
        (f"{title}, {split}", split, key) for title, key in (AGREEMENT, *OF_CLASSES, *OF_NUMBERS) for split in splits
    ]
    cells = [[_mean(group, split, key) for _, split, key in columns] for group in groups]
    kept = [i for i in range(len(columns)) if any(line[i] != "-" for line in cells)]
    return [columns[i][0] for i in kept], [[line[i] for i in kept] for line in cells]


def _mean(group: Group, split: str, key: str) -> str:
    scores = [
        (run.result.get("scores") or {}).get(split, {}).get("student", {}).get(key) for run in group.runs.values()
    ]
    known = [value for value in scores if value is not None and math.isfinite(value)]
    if not known:
        return "-"
    return f"{statistics.fmean(known):.3f}" if key in UNSCALED else f"{100 * statistics.fmean(known):.1f}"
