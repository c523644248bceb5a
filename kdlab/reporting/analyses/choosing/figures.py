"""Analyses `pays` and `break_even`: tables and figures of the gains of selection over random rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.plotting import style
from kdlab.plotting.colours import FAINT, GRID, INK, colour
from kdlab.reporting.analyses.choosing import gains
from kdlab.reporting.analyses.choosing.gains import MethodRow
from kdlab.reporting.analyses.choosing.runs import read
from kdlab.reporting.statistics import Paired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdlab.reporting.analyses.one_run import AnalysisResult

PAYS = (
    "task", "method", "ratio", "steps", "seeds", "mean", "std", "collapsed", "share_of_all", "queries", "flops", "seconds",
    "gain_equal_queries", "p_equal_queries", "holm_equal_queries", "gain_equal_cost", "p_equal_cost", "holm_equal_cost",
    "gain_all_equal_cost", "p_all_equal_cost",
)  # fmt: skip
BREAK_EVEN = ("task", "method", "ratio", "teacher_ratio", "seeds", "gain_equal_cost")
TEACHER_RATIOS = (1, 2, 5, 10, 20, 50, 100, 300, 1000)  # of a teacher's forward over a student's


def pays(paths: Sequence[Path], notify: Callable[[str], None] = print) -> AnalysisResult:
    """Gain of each method over random rows at as many queries and at the same total cost, by task, with tests.

    The baseline of equal cost is read off the random runs of the same seed, between the two that are nearest in FLOPs;
    where random selection was not run that long or that short there is none. Table: `PAYS`; differences in points.
    """
    from kdlab.reporting.analyses.one_run import AnalysisResult

    rows = gains.table(read(paths, notify))
    chosen = [row for row in rows if row.equal_queries is not None or row.equal_cost is not None]
    if not chosen:
        return AnalysisResult(
            PAYS, [_line(row) for row in rows], style.canvas(1, "", ""),
            "no run that selects has a random run of its task, ratio and seed with as many queries, or cost",
        )  # fmt: skip
    return AnalysisResult(PAYS, [_line(row) for row in rows], _dots(chosen))


def break_even(paths: Sequence[Path], notify: Callable[[str], None] = print) -> AnalysisResult:
    """Gain over random rows at the same total cost, were the teacher dearer or cheaper than in the runs.

    A teacher's forward of a row is priced at `TEACHER_RATIOS` times the student's. Table: `BREAK_EVEN`, a row for each task, method,
    ratio and price; the figure has the means over the tasks that have a number at every price.
    """
    from kdlab.reporting.analyses.one_run import AnalysisResult

    runs = read(paths, notify)
    table: list[dict[str, Any]] = []
    for (task, method, ratio, _, _), members in gains.cells(runs).items():
        if not members[0].taught or ratio == 1 or members[0].plain_random:
            continue
        for price in TEACHER_RATIOS:
            found = gains.gains_at_cost(members, gains.curves(runs, "random", price), None, price)
            if found:
                cells = (task, method, ratio, price, len(found), statistics.fmean(found.values()))
                table.append(dict(zip(BREAK_EVEN, cells, strict=True)))
    nothing = "" if table else "no run that selects can be compared with random rows at the same cost"
    return AnalysisResult(BREAK_EVEN, table, _map(table), nothing)


def _line(row: MethodRow) -> dict[str, Any]:
    task, method, ratio, steps, _ = row.cell

    def test(pair: Paired | None) -> tuple[float | None, float | None]:
        return (None, None) if pair is None else (pair.difference, pair.p)

    queries, cost, whole = test(row.equal_queries), test(row.equal_cost), test(row.all_equal_cost)
    values = (
        task, method, ratio, steps, row.seeds, row.mean, row.std, row.collapsed, row.share, row.queries, row.flops,
        row.seconds, *queries, row.holm_queries, *cost, row.holm_cost, *whole,
    )  # fmt: skip
    return dict(zip(PAYS, values, strict=True))


def _dots(rows: Sequence[MethodRow]) -> Figure:
    """Two panels, equal queries and equal total cost: a line for each method, a dot for each task, a bar at the mean."""
    methods: dict[str, list[MethodRow]] = {}
    for row in rows:
        methods.setdefault(f"{row.cell[1]} {100 * row.cell[2]:g} %", []).append(row)

    def mean(members: Sequence[MethodRow], name: str) -> float:
        found = [getattr(row, name).difference for row in members if getattr(row, name) is not None]
        return statistics.fmean(found) if found else float("nan")

    order = sorted(methods, key=lambda name: (m := mean(methods[name], "equal_cost"), m != m))
    each, panels = 0.21, (("equal_cost", "at the same total cost"), ("equal_queries", "at as many teacher queries"))
    height = each * len(order)
    figure = style.canvas(
        0.75 + 2 * (height + 0.75),
        "Gain over random rows",
        "points, mean over seeds; a dot a task, a bar the mean of the tasks",
    )
    for place, (name, title) in enumerate(panels):
        axes = style.panel(figure, 0.5 + place * (height + 0.75), height)
        for y, method in enumerate(order):
            found = [getattr(row, name).difference for row in methods[method] if getattr(row, name) is not None]
            hue = colour(method.split(" ")[0])
            axes.plot(found, [y] * len(found), "o", color=hue, markersize=4, alpha=0.7)
            if found:
                axes.plot([statistics.fmean(found)] * 2, [y - 0.35, y + 0.35], color=INK, linewidth=2)
        axes.axvline(0, color=FAINT, linewidth=1)
        axes.set_yticks(range(len(order)), order, fontsize=8)
        axes.yaxis.tick_right()
        axes.set_ylim(-0.7, len(order) - 0.3)
        axes.set_xlabel("points of score")
        axes.xaxis.set_major_formatter("{x:+g}")  # half a point is no "500 m"
        style.caption(axes, title)
    return figure


def _map(table: Sequence[Mapping[str, Any]]) -> Figure:
    """A coloured cell for each method and ratio, by price of the teacher: mean gain over the tasks."""
    from matplotlib.colors import TwoSlopeNorm

    cells: dict[tuple[str, float], dict[float, list[float]]] = {}
    for row in table:
        prices = cells.setdefault((row["method"], row["ratio"]), {})
        prices.setdefault(row["teacher_ratio"], []).append(row["gain_equal_cost"])
    names = sorted(cells, key=lambda key: statistics.fmean(cells[key][max(cells[key])]))
    height = max(1.0, 0.24 * len(names))
    figure = style.canvas(
        height + 1.5,
        "Where choosing pays",
        "gain over random rows at the same total cost, points, mean over tasks (number of tasks in brackets)",
    )
    axes = style.panel(figure, 0.6, height)
    if not names:
        return figure
    values = [[_mean(cells[name].get(price)) for price in TEACHER_RATIOS] for name in names]
    sizes = sorted(abs(v) for line in values for v in line if v == v) or [1.0]
    largest = sizes[int(0.8 * (len(sizes) - 1))] or 1.0  # a few that collapsed take no colour from the others
    axes.imshow(values, cmap="RdBu", norm=TwoSlopeNorm(0, -largest, largest), aspect="auto", origin="lower")
    for y, name in enumerate(names):
        for x, price in enumerate(TEACHER_RATIOS):
            found = cells[name].get(price)
            text = f"{_mean(found):+.1f} ({len(found)})" if found else ""
            hue = "white" if found and abs(_mean(found)) > 0.7 * largest else INK
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=hue)
    axes.grid(False)
    axes.set_xticks(range(len(TEACHER_RATIOS)), [f"{price:g}" for price in TEACHER_RATIOS])
    axes.set_yticks(range(len(names)), [_shown(*name, cells) for name in names], fontsize=7)
    axes.yaxis.tick_right()
    axes.set_xlabel("cost of a teacher's forward over a student's")
    axes.axhline(-0.5, color=GRID)
    return figure


def _shown(method: str, ratio: float, among: Iterable[tuple[str, float]]) -> str:
    """The name of a method, with its ratio where there are several."""
    return method if len({other for _, other in among}) == 1 else f"{method} {100 * ratio:g} %"


def _mean(values: Sequence[float] | None) -> float:
    return statistics.fmean(values) if values else float("nan")
