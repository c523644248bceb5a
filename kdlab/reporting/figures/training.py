"""Figures along the training: learning curves, and the schedule of the strategies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdlab.errors import UserError
from kdlab.plotting import style
from kdlab.plotting.colours import colour
from kdlab.plotting.run_figures import PER_WINDOW, WINDOWS
from kdlab.plotting.run_tables import Row as LogRow
from kdlab.plotting.run_tables import arms_in, rows_of, window_shares
from kdlab.reporting.figures.frame import (
    NAMES,
    WHOLE,
    Drawing,
    Legend,
    Shapes,
    keep_in_range,
    levels,
    panel,
    panel_with_levels,
)
from kdlab.reporting.tables import TableRow, TaskTable

BANDS = 8  # more curves than that have no bands

Notify = Callable[[str], None]


def learning(table: TaskTable, rows: Sequence[TableRow], against: str, about: str = "") -> Drawing | None:
    """The metric along the training of the groups `rows`, against optimizer "step"s or teacher "queries", which begin at
    those of the preparation, with the teachers' scores.

    Mean over the seeds at the steps that all of them were evaluated at, one standard deviation as a band; full data is
    dashed, and not alone beside other groups. None where no group was evaluated twice, or queries are counted and none
    queried a teacher.
    """
    from matplotlib.ticker import MaxNLocator

    curves = [(row, points) for row in rows if (points := _along(table, row, against)) is not None]
    if not curves or all(row.ratio == 1 for row, _ in curves) and any(row.ratio < 1 for row in rows):
        return None
    scale, teachers = table.comparison.scale, levels(table)
    whole = [row for row, _ in curves if row.ratio == 1]
    legend, shapes = Legend(), Shapes(table.rows, "")
    for row, _ in curves:
        legend.add_groups([row], WHOLE if row.ratio == 1 and len(whole) < len(curves) else "-", shapes)
    if len(curves) > NAMES:
        legend.entries.clear()
        legend.add_groups([row for row, _ in curves], "-", shapes)
    figure, axes, drawn = panel_with_levels(legend, teachers, scale)
    bands = len(curves) <= BANDS and any(std.any() for _, (_, _, std) in curves)
    for row, (x, mean, std) in curves:
        hue, look = colour(row.group.one.select), WHOLE if row in whole and len(whole) < len(curves) else "-"
        mark = {"marker": shapes.of[row.number], "markevery": max(1, len(x) // 6), "markersize": 4}
        axes.plot(x, scale.scale * mean, color=hue, linestyle=look, linewidth=1.5, **mark)
        low, high = (np.clip(scale.scale * (mean + side * std), scale.low, scale.high) for side in (-1, 1))
        if bands and std.any():
            axes.fill_between(x, low, high, color=hue, alpha=0.15, linewidth=0)
        for at, value, spread in zip(x.tolist(), mean.tolist(), std.tolist(), strict=True):
            numbers = {against: at, scale.unit: scale.scale * value, "std": scale.scale * spread}
            drawn.append({"group": row.name, "number": row.number, **numbers})
    axes.set_xlim(0, 1.06 * max(float(x[-1]) for _, (x, _, _) in curves))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))  # no half step or query
    keep_in_range(axes, scale)
    style.number_points(
        axes, [(float(x[-1]), float(scale.scale * mean[-1]), str(row.number)) for row, (x, mean, _) in curves]
    )
    axes.set_xlabel("teacher queries, with preparation" if against == "queries" else "optimizer steps")
    axes.set_ylabel(scale.unit).set_parse_math(False)
    several = any(len(row.group.runs) > 1 for row, _ in curves)
    said = f"{table.comparison.task}{about}: {scale.unit} along the training, by the evaluations of the runs themselves"
    said += f"{', mean over seeds' if several else ''}. Numbers: rows of the table."
    said += " Bands: one standard deviation." if bands else ""
    said += " Dashed: full data." if 0 < len(whole) < len(curves) else ""
    said += " Dash-dotted: the teacher." if teachers else ""
    said += shapes.caption
    return Drawing(f"training_by_{against}{about.replace(', ratio ', '_')}", figure, said, drawn)


def schedule(table: TaskTable, row: TableRow, notify: Notify) -> Drawing | None:
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
    legend = Legend()
    for arm in arms:
        legend.add(f"{style.shown(arm)} {100 * mean[arm].mean():.0f} %", colour(arm), "area")
    figure, axes = panel(legend, tall=1.8)
    edges = np.linspace(0, 100, windows + 1)
    floor = np.zeros(windows + 1)
    for arm in arms:
        top = floor + 100 * np.append(mean[arm], mean[arm][-1])
        axes.fill_between(edges, floor, top, step="post", facecolor=colour(arm), edgecolor="white", linewidth=0.5)
        floor = top
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("of the training")
    axes.set_ylabel("share of steps (%)")
    seeds = f", mean over {len(logs)} seeds" if len(logs) > 1 else ""
    said = f"{table.comparison.task}: share of the steps that each strategy of {row.number} ({row.title}) chose{seeds}."
    rows = [
        {"from_percent": start, "to_percent": end, **{arm: float(100 * mean[arm][i]) for arm in arms}}
        for i, (start, end) in enumerate(itertools.pairwise(edges.tolist()))
    ]
    return Drawing(f"schedule_{row.number}", figure, said, rows)


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
