"""Scores against the cost of the groups, with the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdlab.plotting import style
from kdlab.plotting.colours import FAINT, colour
from kdlab.reporting.figures.frame import (
    UNTAUGHT,
    Drawing,
    Legend,
    Shapes,
    cell_of_test,
    keep_in_range,
    levels,
    panel_with_levels,
    tests_said,
)
from kdlab.reporting.score_columns import score_on_test, values_on_test
from kdlab.reporting.seed_groups import Run
from kdlab.reporting.statistics import pareto_front
from kdlab.reporting.tables import CostCells, TableRow, TaskTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {
    "queries": "teacher queries",
    "flops": "model FLOPs",
    "seconds": "seconds of training",
    "price": "price",
}


def scores(table: TaskTable, against: str) -> Drawing | None:
    """The groups' means and seeds against a cost (a key of `WORDS`) with preparation, with one standard deviation, the
    cost of the runs alone as the end of a line, the Pareto front by the cost with preparation, and the teachers' scores.

    Groups without a teacher are a level where queries are counted. None where fewer than two groups are to be seen.
    """
    scale = table.comparison.scale
    seen = [row for row in table.rows if against != "queries" or row.taught]
    apart = [row for row in table.rows if row not in seen]
    if len(seen) < 2:
        return None
    legend, shapes, teachers = Legend(), Shapes(table.rows, "o"), levels(table)
    legend.add_groups(seen, "dot", shapes)
    for row in apart:
        legend.add(f"{row.number}  {row.title}", FAINT, UNTAUGHT)
    figure, axes, rows = panel_with_levels(legend, teachers, scale)
    points = [(_cost(table, row, against).total or 0.0, row.mean) for row in seen]
    sign = -1 if table.comparison.lower else 1
    best = pareto_front([(cost, sign * mean) for cost, mean in points])
    for row in apart:
        axes.axhline(scale.scale * row.mean, color=FAINT, linewidth=1.2, linestyle=UNTAUGHT)
        test = cell_of_test(_test_mean(table, row), scale)
        rows.append({"group": row.name, "number": row.number, scale.unit: scale.scale * row.mean} | test)
    far = cost_axis(axes, [cost for cost, _ in points], [_cost(table, row, against).value or 0.0 for row in seen])
    front = [(points[i][0], scale.scale * points[i][1]) for i in best]
    front.append((far, front[-1][1]))
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", color=FAINT, linewidth=1.1, zorder=1.5)
    for i, row in enumerate(seen):
        rows += _group(axes, table, row, against, i in best, shapes.of[row.number])
    keep_in_range(axes, scale)
    labels = [(x, scale.scale * y, str(row.number)) for row, (x, y) in zip(seen, points, strict=True)]
    style.number_points(axes, labels, above=True)
    axes.set_xlabel(f"{WORDS[against]}, with preparation")
    axes.set_ylabel(table.comparison.unit).set_parse_math(False)
    said = _said(table, seen, apart, against, bool(teachers)) + shapes.caption + tests_said(rows, scale)
    return Drawing(f"score_by_{against}", figure, said, rows)


def _test_mean(table: TaskTable, row: TableRow) -> float | None:
    values = values_on_test(row.group, table.comparison.metric)
    return statistics.fmean(values) if values else None


def _group(
    axes: Axes, table: TaskTable, row: TableRow, against: str, on_front: bool, shape: str
) -> list[dict[str, Any]]:
    """Draw a group: its seeds, its mean with a bar, a line to the cost of the runs alone; its rows of data."""
    scale, hue = table.comparison.scale, colour(row.group.one.select)
    cost, y = _cost(table, row, against), scale.scale * row.mean
    total, alone = cost.total or 0.0, cost.value or 0.0
    named = {"group": row.name, "number": row.number}
    rows = []
    for seed, value in row.line.values.items():
        run = row.group.runs[seed]
        place = _of_run(table, run, against, True)
        rows.append({**named, "seed": seed, against: place, scale.unit: scale.scale * value})
        rows[-1][f"{against}_alone"] = _of_run(table, run, against, False)
        rows[-1] |= cell_of_test(score_on_test(run, table.comparison.metric), scale)
        if len(row.line.values) > 1:
            axes.plot(place, scale.scale * value, shape, markersize=3.2, color=hue, alpha=0.7, zorder=2.5, mew=0)
    if row.std is not None:
        low, high = (scale.clipped(y + side * scale.scale * row.std) for side in (-1, 1))
        axes.vlines(total, low, high, color=hue, linewidth=1, alpha=0.6, zorder=2)
    if alone < total:
        axes.plot([alone, total], [y] * 2, color=hue, linewidth=1, marker="|", markevery=[0], zorder=2)
    face = hue if on_front else "white"
    axes.plot(total, y, shape, markersize=7, color=hue, markerfacecolor=face, zorder=3)
    spread = None if row.std is None else scale.scale * row.std
    mean = {**named, "seed": "mean", against: total, f"{against}_alone": alone, scale.unit: y, "std": spread}
    test = cell_of_test(_test_mean(table, row), scale)
    return [{**mean, **test, "on_front": on_front}, *rows]


def _said(table: TaskTable, seen: Sequence[TableRow], apart: Sequence[TableRow], against: str, teacher: bool) -> str:
    """The caption: of what is drawn only."""
    several = any(len(row.line.values) > 1 for row in seen)
    parts = [f"{table.comparison.task}: {table.comparison.unit} against {WORDS[against]}, with preparation."]
    parts.append("Numbers: rows of the table. Circles: means over seeds." if several else "Numbers: rows of the table.")
    if several:
        parts.append("Dots: seeds.")
    if any(row.std is not None for row in seen):
        parts.append("Bars: one standard deviation.")
    if any((_cost(table, row, against).value or 0) < (_cost(table, row, against).total or 0) for row in seen):
        parts.append("A line to the left ends at the cost of the runs alone.")
    parts.append("Steps and filled circles: the Pareto front.")
    if teacher:
        parts.append("Dash-dotted: the teacher.")
    if apart:
        parts.append("Dotted: without a teacher.")
    return " ".join(parts)


def drawn(table: TaskTable) -> list[str]:
    """The costs that scores are drawn against: queries and FLOPs, and seconds and price where a run has such a budget and
    all runs recorded them."""
    asked = {kind for run in table.runs for kind in (run.result.get("budget") or {}).get("asked") or {}}
    timed = all(run.total.seconds is not None for run in table.runs)
    more = [kind for kind in ("seconds", "price") if kind in asked and timed]
    return ["queries", "flops", *(kind for kind in more if kind == "seconds" or _rates(table) is not None)]


def _rates(table: TaskTable) -> tuple[float, float] | None:
    """The prices of a query and of an hour of the budgets of a task's runs; None without any, or where they differ."""
    budgets = [budget for run in table.runs if (budget := run.result.get("budget") or {}).get("rates")]
    found = {(b["rates"].get("query") or 0.0, b["rates"].get("hour") or 0.0) for b in budgets} - {(0.0, 0.0)}
    return found.pop() if len(found) == 1 else None


def _cost(table: TaskTable, row: TableRow, against: str) -> CostCells:
    if against != "price":
        return {"queries": row.queries, "flops": row.flops, "seconds": row.seconds}[against]
    runs = list(row.group.runs.values())
    alone, total = (statistics.fmean(_of_run(table, run, against, whole) for run in runs) for whole in (False, True))
    return CostCells(alone, None, total, None, all(run.total.measured for run in runs))


def _of_run(table: TaskTable, run: Run, against: str, with_preparation: bool) -> float:
    cost = run.total if with_preparation else run.own
    if against != "price":
        return float(getattr(cost, against))
    by_query, by_hour = _rates(table) or (0.0, 0.0)
    return cost.queries * by_query + (cost.seconds or 0.0) / 3600 * by_hour


def cost_axis(axes: Axes, totals: Sequence[float], alone: Sequence[float]) -> float:
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


def _counts(axes: Axes, zero: bool = False) -> None:
    """Counts on a logarithmic axis, as 1.5 k, at few places; `zero`: and at 0."""
    from matplotlib.ticker import EngFormatter, FixedLocator, NullFormatter

    low, high = axes.get_xlim()
    if not zero:
        axes.xaxis.set_major_locator(FixedLocator(_places(low, high)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.tick_params(axis="x", which="minor", length=0)


def _places(low: float, high: float) -> list[float]:
    """Two to eight round numbers between the ends of a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    coarse = (1,) if high / low > 300 else (1, 2, 5)
    for factors in (coarse, (1, 1.5, 2, 3, 5, 7)):
        places = [factor * 10.0**power for power in decades for factor in factors]
        places = [place for place in places if low <= place <= high]
        if len(places) > 1:
            break
    return places[:: -(-len(places) // 8) or 1]
