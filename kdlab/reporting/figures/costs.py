"""Scores against the cost of the groups, with the Pareto front, and against the selection ratio."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.plotting import style as pictures
from kdlab.reporting.figures.frame import panel, unit_scale
from kdlab.reporting.statistics import pareto_front
from kdlab.reporting.tables import CostCells, TableRow, TaskTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def scores(table: TaskTable, against: str) -> Figure | None:
    """The groups' means against their `queries` or `flops` with preparation, with one standard deviation, the cost of the
    runs alone as the end of a line, and the Pareto front by the cost with preparation.

    Groups without a teacher are a level where queries are counted. None where fewer than two groups are to be seen.
    """
    scale = unit_scale(table.comparison.lower)
    seen = [row for row in table.rows if against == "flops" or row.taught]
    apart = [row for row in table.rows if row not in seen]
    if len(seen) < 2:
        return None
    names = list(dict.fromkeys(row.group.one.select for row in seen))
    hue = pictures.colours(names)
    figure, axes = panel({pictures.shown(name): hue[name] for name in names})
    points = [(_cost(row, against).total or 0.0, row.mean) for row in seen]
    sign = -1 if table.comparison.lower else 1
    best = pareto_front([(cost, sign * mean) for cost, mean in points])
    x, y = np.array([points[i] for i in best]).T
    far = _cost_axis(axes, [cost for cost, _ in points], [_cost(row, against).value or 0.0 for row in seen])
    axes.plot(
        [*x, far], scale * np.array([*y, y[-1]]), drawstyle="steps-post", color=pictures.FAINT, linewidth=1.2, zorder=1
    )
    places = _apart([cost for cost, _ in points])
    for i, (row, cost, (_, mean)) in enumerate(zip(seen, places, points, strict=True)):
        colour = hue[row.group.one.select]
        if row.std is not None:
            axes.errorbar(cost, scale * mean, scale * row.std, ecolor=colour, elinewidth=1, capsize=2, zorder=2)
        alone = _cost(row, against).value or 0.0
        if alone < points[i][0]:
            axes.plot([alone, cost], [scale * mean] * 2, color=colour, linewidth=1, marker="|", markevery=[0], zorder=2)
        face = colour if i in best else "white"
        axes.plot(cost, scale * mean, "o", markersize=7, color=colour, markerfacecolor=face, zorder=3)
    named: dict[tuple[float, float], list[int]] = {}  # groups that lie on one another share a label
    for row, cost, (_, mean) in zip(seen, places, points, strict=True):
        named.setdefault((float(f"{cost:.2g}"), float(f"{mean:.3g}")), []).append(row.number)
    for (cost, mean), numbers in named.items():
        label = {"xytext": (6, 4), "textcoords": "offset points", "fontsize": 8, "color": pictures.INK}
        axes.annotate(",".join(map(str, numbers)), (cost, scale * mean), **label)
    for row in apart:
        axes.axhline(scale * row.mean, color=pictures.FAINT, linewidth=1, linestyle=(0, (4, 3)))
        where = {"transform": axes.get_yaxis_transform(), "fontsize": 8, "color": pictures.FAINT}
        axes.text(0.005, scale * row.mean, f"{row.number}", va="bottom", **where)
    axes.set_xlabel(f"{'teacher queries' if against == 'queries' else 'model FLOPs'}, with preparation")
    axes.set_ylabel(table.comparison.unit).set_parse_math(False)
    return figure


def ratios(rows: Sequence[Mapping[str, Any]], unit: str) -> Figure | None:
    """Mean score against selection ratio, a line a strategy, one standard deviation as a bar (AdaDS Fig. 3).

    `rows` as `comparisons.by_ratio` gives them, of one task and setting; ratio 1 is a level. None where fewer than two
    ratios below 1 are there.
    """
    scale = unit_scale(bool(rows[0]["loss"]))
    places = sorted({float(row["ratio"]) for row in rows if row["ratio"] < 1})
    if len(places) < 2:
        return None
    names = list(dict.fromkeys(str(row["select"]) for row in rows if row["ratio"] < 1))
    hue = pictures.colours(names)
    whole = [row for row in rows if row["ratio"] == 1]
    legend = {pictures.shown(name): hue[name] for name in names} | ({"full data": pictures.FAINT} if whole else {})
    figure, axes = panel(legend)
    for name in names:
        mine = sorted((row for row in rows if row["select"] == name and row["ratio"] < 1), key=lambda row: row["ratio"])
        x = [row["ratio"] for row in mine]
        y = [scale * row["mean"] for row in mine]
        bars = [scale * row["std"] if row["std"] is not None else 0.0 for row in mine]
        axes.errorbar(
            x, y, bars, color=hue[name], linewidth=1.8, marker="o", markersize=4, capsize=2, elinewidth=1, clip_on=False
        )
    for row in whole:
        axes.axhline(scale * row["mean"], color=pictures.FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
    pictures.shares(axes, places)
    axes.set_xlabel("share of the rows that query the teacher")
    axes.set_ylabel(unit).set_parse_math(False)
    return figure


def averaged(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows of `across_runs.by_ratio` of several tasks as those of one: the mean over tasks of each strategy and ratio
    that all tasks have once (AdaDS Fig. 6), each task counted as so many `scores`. Empty for one task."""
    tasks = {row["task"] for row in rows}
    cells: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["select"], row["ratio"]), []).append(row)
    return [
        {
            "select": select,
            "ratio": ratio,
            "mean": statistics.fmean([row["mean"] for row in members], [scores[row["task"]] for row in members]),
            "std": None,
        }
        | {"loss": members[0]["loss"]}
        for (select, ratio), members in cells.items()
        if len(tasks) > 1 and len(members) == len(tasks) == len({row["task"] for row in members})
    ]


def _cost(row: TableRow, against: str) -> CostCells:
    return row.queries if against == "queries" else row.flops


def _cost_axis(axes: Axes, totals: Sequence[float], alone: Sequence[float]) -> float:
    """Scale the x axis to costs, logarithmic, with a place for 0 where a cache or another run paid all; its right end."""
    costs = [*totals, *alone]
    low = min((cost for cost in costs if cost > 0), default=1.0)
    far = max(*costs, low) * 1.6
    if min(costs) > 0:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, far)
        _counts(axes)
        return far
    decade = 10.0 ** math.floor(math.log10(low))
    axes.set_xscale("symlog", linthresh=decade, linscale=0.5)
    axes.set_xlim(-decade / 4, far)
    _counts(axes, zero=True)
    return far


def _apart(costs: Sequence[float]) -> list[float]:
    """Costs to draw at: equal ones side by side, so that no bar hides another; at 0 they stay."""
    places = list(costs)
    for cost in {*costs} - {0.0}:
        same = [i for i, other in enumerate(costs) if abs(other / cost - 1) < 0.01]
        for rank, i in enumerate(same):
            places[i] = costs[i] * 1.1 ** (rank - (len(same) - 1) / 2)
    return places


def _counts(axes: Axes, zero: bool = False) -> None:
    """Counts on a logarithmic axis, as 1.5 k, at few places; `zero`: and at 0."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    if not zero:
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 300 else (1, 2, 5), numticks=8))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.tick_params(axis="x", which="minor", length=0)
