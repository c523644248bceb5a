"""Figures along the training: learning curves, and the schedule of the strategies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import UserError
from kdlab.plotting import style as pictures
from kdlab.plotting.run_figures import PER_WINDOW, WINDOWS
from kdlab.plotting.run_tables import Row as LogRow
from kdlab.plotting.run_tables import arms_in, rows_of, window_shares
from kdlab.reporting.figures.frame import panel, unit_scale
from kdlab.reporting.tables import TableRow, TaskTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BANDS = 8  # more curves than that have no bands

Notify = Callable[[str], None]


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
    scale = unit_scale(table.comparison.lower)
    names = list(dict.fromkeys(row.group.one.select for row, _ in curve_of_row.values()))
    hue = pictures.colours(names)
    figure, axes = panel({pictures.shown(name): hue[name] for name in names})
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
    figure, axes = panel({f"{pictures.shown(arm)} {100 * mean[arm].mean():.0f} %": hue[arm] for arm in arms}, tall=1.8)
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
