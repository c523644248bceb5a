"""Analysis `safe`: the spread of each selection's gains over tasks and seeds, and the runs that collapsed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.plotting import style
from kdlab.plotting.colours import FAINT, INK, colour
from kdlab.reporting.analyses.choosing import gains
from kdlab.reporting.analyses.choosing.runs import StudyRun, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdlab.reporting.analyses.one_run import AnalysisResult

SAFE = ("method", "ratio", "tasks", "runs", "collapsed", "worse", "worst", "mean", "best", "equal_cost")


def safe(paths: Sequence[Path], notify: Callable[[str], None] = print) -> AnalysisResult:
    """Gains over random rows at as many queries, run by run: the worst, the mean and the best, in points.

    `worse`: runs below random rows of their seed; `collapsed`: runs at the majority class or below it; `equal_cost`: the mean
    gain at the same total cost. Table: `SAFE`, the largest worst case first.
    """
    from kdlab.reporting.analyses.one_run import AnalysisResult

    table = by_method(read(paths, notify))
    nothing = (
        "" if table else "no run that selects has a random run of its task, ratio, batch and seed with as many queries"
    )
    return AnalysisResult(SAFE, table, _ranges(table), nothing)


def by_method(runs: Sequence[StudyRun]) -> list[dict[str, Any]]:
    """The rows of `SAFE`, of the runs that select and have a baseline."""
    random = gains.curves(runs, "random")
    found: dict[tuple[str, float], list[tuple[list[StudyRun], dict[int, float]]]] = {}
    for (_, method, ratio, _, _), members in gains.cells(runs).items():
        if not members[0].taught or ratio == 1 or members[0].plain_random:
            continue
        if at_queries := gains.gains_at_queries(members, runs):
            kept = [run for run in members if run.seed in at_queries]
            found.setdefault((method, ratio), []).append((kept, at_queries))
    table = []
    for (method, ratio), cells in found.items():
        values = [gain for _, cell in cells for gain in cell.values()]
        at_cost = [gain for members, _ in cells for gain in gains.gains_at_cost(members, random, None).values()]
        row = (
            method, ratio, len({members[0].task for members, _ in cells}), len(values),
            sum(run.collapsed() for members, _ in cells for run in members), sum(gain < 0 for gain in values),
            min(values), statistics.fmean(values), max(values), statistics.fmean(at_cost) if at_cost else None,
        )  # fmt: skip
        table.append(dict(zip(SAFE, row, strict=True)))
    return sorted(table, key=lambda row: -row["worst"])


def _ranges(table: Sequence[dict[str, Any]]) -> Figure:
    """A line from the worst to the best gain of each method, a bar at the mean, the number of collapsed runs beside it."""
    height = max(0.8, 0.22 * len(table))
    figure = style.canvas(
        height + 1.4,
        "Which choice is safe",
        "gain over random rows at as many queries, points: worst, mean and best run",
    )
    axes = style.panel(figure, 0.55, height)
    ratios = {row["ratio"] for row in table}
    names = [row["method"] if len(ratios) == 1 else f"{row['method']} {100 * row['ratio']:g} %" for row in table]
    for y, row in enumerate(reversed(table)):
        hue = colour(row["method"].split(" ")[0])
        axes.plot([row["worst"], row["best"]], [y, y], "-o", color=hue, markersize=4, alpha=0.8)
        axes.plot([row["mean"]] * 2, [y - 0.3, y + 0.3], color=INK, linewidth=2)
        if row["collapsed"]:
            axes.text(row["worst"], y + 0.25, f"{row['collapsed']} of {row['runs']} collapsed", fontsize=6.5, color=INK)
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.set_yticks(range(len(table)), names[::-1], fontsize=7)
    axes.yaxis.tick_right()
    axes.set_ylim(-0.7, max(len(table) - 0.3, 0.7))
    axes.set_xlabel("points of score")
    axes.xaxis.set_major_formatter("{x:+g}")
    return figure
