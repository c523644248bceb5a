"""Figures of a report, narrow enough for a phone; the page writes their captions.

Strategies have the colours of all figures (`kdlab.plotting.style`); a number is a row of the page's table.
"""

from __future__ import annotations

import itertools
import math
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import UserError
from kdlab.plotting import style as pictures
from kdlab.plotting.run_figures import PER_WINDOW, WINDOWS
from kdlab.plotting.run_tables import Row as LogRow
from kdlab.plotting.run_tables import arms_in, rows_of, window_shares
from kdlab.reporting.statistics import pareto_front
from kdlab.reporting.tables import CostCells, TableRow, TaskTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.3, 2.5  # inches: of a figure, of its panel
LEFT, RIGHT, BELOW, LINE = 0.72, 0.26, 0.56, 0.19  # inches: margins, a line of a legend
NAMES = 12  # in a legend, at most
BANDS = 8  # more curves than that have no bands

Notify = Callable[[str], None]


def scores(table: TaskTable, against: str) -> Figure | None:
    """The groups' means against their `queries` or `flops` with preparation, with one standard deviation, the cost of the
    runs alone as the end of a line, and the Pareto front by the cost with preparation.

    Groups without a teacher are a level where queries are counted. None where fewer than two groups are to be seen.
    """
    scale = _scale(table.comparison.lower)
    seen = [row for row in table.rows if against == "flops" or row.taught]
    apart = [row for row in table.rows if row not in seen]
    if len(seen) < 2:
        return None
    names = list(dict.fromkeys(row.group.one.select for row in seen))
    hue = pictures.colours(names)
    figure, axes = _panel({pictures.shown(name): hue[name] for name in names})
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
    scale = _scale(bool(rows[0]["loss"]))
    places = sorted({float(row["ratio"]) for row in rows if row["ratio"] < 1})
    if len(places) < 2:
        return None
    names = list(dict.fromkeys(str(row["select"]) for row in rows if row["ratio"] < 1))
    hue = pictures.colours(names)
    whole = [row for row in rows if row["ratio"] == 1]
    legend = {pictures.shown(name): hue[name] for name in names} | ({"full data": pictures.FAINT} if whole else {})
    figure, axes = _panel(legend)
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


def learning(table: TaskTable, rows: Sequence[TableRow], against: str) -> Figure | None:
    """The metric along the training of the groups `rows`, against optimizer "step"s or teacher "queries", which begin at
    those of the preparation.

    Mean over the seeds at the steps that all of them were evaluated at, one standard deviation as a band; full data is
    dashed, and not alone beside other groups. None where no group was evaluated twice, or queries are counted and none
    queried a teacher.
    """
    curve_of_row = {row.number: (row, points) for row in rows if (points := _along(table, row, against)) is not None}
    if (
        all(row.ratio == 1 for row, _ in curve_of_row.values())
        and any(row.ratio < 1 for row in rows)
        or not curve_of_row
    ):
        return None
    scale = _scale(table.comparison.lower)
    names = list(dict.fromkeys(row.group.one.select for row, _ in curve_of_row.values()))
    hue = pictures.colours(names)
    figure, axes = _panel({pictures.shown(name): hue[name] for name in names})
    for row, (x, mean, std) in curve_of_row.values():
        colour, style = hue[row.group.one.select], (0, (4, 3)) if row.ratio == 1 else "-"
        axes.plot(x, scale * mean, color=colour, linestyle=style, linewidth=1.5)
        if len(curve_of_row) <= BANDS:
            axes.fill_between(x, scale * (mean - std), scale * (mean + std), color=colour, alpha=0.15, linewidth=0)
    far = 1.05 * max(float(x[-1]) for _, (x, _, _) in curve_of_row.values())
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    axes.set_xlim(0, far)
    ends: dict[float, list[tuple[float, int]]] = {}  # heights and numbers of the curves that end at a place
    for number, (_, (x, mean, _)) in curve_of_row.items():
        ends.setdefault(round(float(x[-1]) / far, 2), []).append(
            ((float(scale * mean[-1]) - low) / (high - low), number)
        )
    look = {"transform": axes.transAxes, "fontsize": 8, "color": pictures.INK, "va": "center"}
    for end, at in ends.items():
        at.sort()
        for (_, number), place in zip(at, pictures.apart([height for height, _ in at], 0.045), strict=True):
            axes.text(end + 0.01, place, f"{number}", **look)
    axes.set_xlabel("teacher queries, with preparation" if against == "queries" else "optimizer steps")
    axes.set_ylabel(table.comparison.unit).set_parse_math(False)
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


def schedule(row: TableRow, notify: Notify) -> Figure | None:
    """The share of the steps that each strategy served, by window of the training, mean over seeds (AdaDS Fig. 5).

    None where the group's runs never changed their strategy. `notify` receives a message for each table that cannot be read.
    """
    logs = [log for run in row.group.runs.values() if (log := _decisions(run, notify))]
    arms = arms_in([one for log, _ in logs for one in log])
    if len(arms) < 2:
        return None
    windows = max(1, min(WINDOWS, *(len(log) // PER_WINDOW for log, _ in logs)))
    each = [window_shares(log, total, windows).of for log, total in logs]
    mean = {arm: np.mean([of.get(arm, np.zeros(windows)) for of in each], axis=0) for arm in arms}
    hue = pictures.colours(arms)
    figure, axes = _panel({f"{pictures.shown(arm)} {100 * mean[arm].mean():.0f} %": hue[arm] for arm in arms}, tall=1.8)
    edges = np.linspace(0, 100, windows + 1)
    floor = np.zeros(windows + 1)
    for arm in arms:
        top = floor + 100 * np.append(mean[arm], mean[arm][-1])
        axes.fill_between(edges, floor, top, step="post", facecolor=hue[arm], edgecolor="white", linewidth=0.5)
        floor = top
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("of the training")
    axes.set_ylabel("share of steps (%)")
    return figure


# ---- parts


def _along(table: TaskTable, row: TableRow, against: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps, or queries with preparation, (n,) of a group's evaluations; the metric's mean (n,) and standard deviation (n,) over seeds."""
    each = [{one.step: one for one in table.curves[run.folder]} for run in row.group.runs.values()]
    each = [known for known in each if known]
    steps = sorted(set.intersection(*map(set, each))) if each else []
    values = np.array([[known[step].value for step in steps] for known in each])
    queries = np.array([[known[step].queries for step in steps] for known in each])
    if len(steps) < 2 or (against == "queries" and not queries.max() > 0):
        return None
    before = row.group.total.queries - row.group.own.queries
    x = before + queries.mean(axis=0) if against == "queries" else np.array(steps)
    return x, values.mean(axis=0), values.std(axis=0, ddof=1) if len(each) > 1 else np.zeros(len(steps))


def _decisions(run: Any, notify: Notify) -> tuple[Sequence[LogRow], float] | None:
    """The rows of a run's selector.csv with an arm, and its number of steps."""
    try:
        rows = [row for row in rows_of(run.folder / "selector.csv", ("step", "arm")) if row["arm"]]
    except UserError as error:
        notify(f"not read: {error}")
        return None
    steps = run.result.get("steps")
    total = float(steps) if isinstance(steps, int | float) else math.inf
    rows = [row for row in rows if float(row["step"]) < total]
    if not rows:
        return None
    return rows, total if math.isfinite(total) else float(rows[-1]["step"]) + 1


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


def _scale(lower: bool) -> int:
    return 1 if lower else 100


def _panel(legend: Mapping[str, str], tall: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one panel above a legend (name to colour) of two columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = dict(itertools.islice(legend.items(), NAMES))
    lines = -(-len(shown) // 2) + (len(legend) > NAMES)
    height = 0.14 + tall + BELOW + LINE * lines
    figure = Figure(figsize=(WIDTH, height), dpi=pictures.DPI, facecolor="white")
    FigureCanvasAgg(figure)
    place = (LEFT / WIDTH, (BELOW + LINE * lines) / height, 1 - (LEFT + RIGHT) / WIDTH, tall / height)
    axes = figure.add_axes(place)
    pictures.plain(axes)
    axes.grid(axis="y", color=pictures.GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    handles = [
        Patch(facecolor=hue, label=textwrap.shorten(_named(name), 34, placeholder="…")) for name, hue in shown.items()
    ]
    if len(legend) > NAMES:
        handles.append(Patch(facecolor="white", label=f"and {len(legend) - NAMES} more"))
    for text in figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.05, 0.0),
        ncols=2,
        frameon=False,
        fontsize=8,
        labelcolor=pictures.INK,
        handlelength=1.0,
        columnspacing=1.2,
        borderaxespad=0.2,
    ).get_texts():
        text.set_parse_math(False)
    return figure, axes


def _named(name: str) -> str:
    return name.lstrip("_") or "-"  # matplotlib leaves out names that begin with an underscore


def _counts(axes: Axes, zero: bool = False) -> None:
    """Counts on a logarithmic axis, as 1.5 k, at few places; `zero`: and at 0."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    if not zero:
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 300 else (1, 2, 5), numticks=8))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.tick_params(axis="x", which="minor", length=0)
