"""Scores against a setting that a sweep varies, a line a strategy: the selection ratio, the budget."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdlab.plotting import style
from kdlab.plotting.colours import FAINT, colour
from kdlab.plotting.metrics import MetricScale
from kdlab.reporting.figures.costs import WORDS, cost_axis
from kdlab.reporting.figures.frame import (
    WHOLE,
    Drawing,
    Legend,
    Level,
    cell_of_test,
    keep_in_range,
    panel_with_levels,
    tests_said,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def ratios(
    rows: Sequence[Mapping[str, Any]],
    scale: MetricScale,
    about: str,
    teachers: Mapping[str, Level],
    name: str = "score_by_ratio",
) -> Drawing | None:
    """Mean score and seeds against selection ratio, a line a strategy, one standard deviation as a bar (AdaDS Fig. 3).

    `rows` as `across_runs.by_ratio` gives them, of one task and setting; ratio 1 is a level. None where fewer than two
    ratios below 1 are there.
    """
    below = [row for row in rows if row["ratio"] < 1]
    places = sorted({float(row["ratio"]) for row in below})
    if len(places) < 2:
        return None
    whole = [row for row in rows if row["ratio"] == 1]
    figure, axes, drawn = _curves(below, whole, "ratio", scale, teachers)
    style.shares(axes, places)
    axes.set_xlabel("share of the rows that query the teacher")
    said = f"{about}: {scale.unit} by the share of rows that query the teacher{_how(below)}"
    said += " Dashed: full data." if whole else ""
    said += " Dash-dotted: the teacher." if teachers else ""
    return Drawing(name, figure, said + tests_said(drawn, scale), drawn)


def budgets(
    rows: Sequence[Mapping[str, Any]],
    kind: str,
    scale: MetricScale,
    about: str,
    teachers: Mapping[str, Level],
    name: str,
) -> Drawing | None:
    """Mean score and seeds against the budget of a kind (a key of `WORDS`), a line a strategy, as `ratios` draws them.

    `rows` as `across_runs.by_budget` gives them, of one task and setting. None where all have the same budget.
    """
    places = [float(row["budget"]) for row in rows]
    if len(set(places)) < 2:
        return None
    figure, axes, drawn = _curves(rows, [], "budget", scale, teachers)
    cost_axis(axes, places, places)
    axes.set_xlabel(f"budget: {WORDS[kind]}")
    said = f"{about}: {scale.unit} by the budget of {WORDS[kind]}{_how(rows)}"
    said += " Dash-dotted: the teacher." if teachers else ""
    return Drawing(name, figure, said + tests_said(drawn, scale), drawn)


def _curves(
    rows: Sequence[Mapping[str, Any]],
    whole: Sequence[Mapping[str, Any]],
    x: str,
    scale: MetricScale,
    teachers: Mapping[str, Level],
) -> tuple[Any, Axes, list[dict[str, Any]]]:
    """A figure of `rows` against their column `x`, a line each `select`; `whole`: rows of full data, drawn as levels."""
    names = list(dict.fromkeys(str(row["select"]) for row in rows))
    looks = _looks(names)
    legend = Legend()
    for select in names:
        legend.add(style.shown(select), colour(select), looks[select])
    if whole:
        legend.add("full data", FAINT, WHOLE)
    figure, axes, drawn = panel_with_levels(legend, teachers, scale)
    for row in (*rows, *whole):
        drawn += _data(row, x, scale)
    for select in names:
        mine = sorted((row for row in rows if row["select"] == select), key=lambda row: row[x])
        _line(axes, mine, x, scale, colour(select), looks[select])
    for row in whole:
        axes.axhline(scale.scale * row["mean"], color=FAINT, linewidth=1.2, linestyle=WHOLE)
    keep_in_range(axes, scale)
    axes.set_ylabel(scale.unit).set_parse_math(False)
    return figure, axes, drawn


def _data(row: Mapping[str, Any], x: str, scale: MetricScale) -> list[dict[str, Any]]:
    """The rows of data of a point of a line: its mean and its seeds, with their scores on test."""
    at, on_test = {"group": row["select"], x: row[x]}, row.get("on_test", {})
    mean = {scale.unit: scale.scale * row["mean"], "std": None if row["std"] is None else scale.scale * row["std"]}
    test = statistics.fmean(on_test.values()) if on_test else None
    return [
        {**at, "seed": "mean", **mean, **cell_of_test(test, scale)},
        *(
            {**at, "seed": seed, scale.unit: scale.scale * value, **cell_of_test(on_test.get(seed), scale)}
            for seed, value in row.get("values", ())
        ),
    ]


def _how(rows: Sequence[Mapping[str, Any]]) -> str:
    """The end of the sentence of a caption, and what dots and bars are, where there are several seeds."""
    several = any(len(row.get("values", ())) > 1 for row in rows)
    return ", mean over seeds. Dots: seeds; bars: one standard deviation." if several else "."


def _line(axes: Axes, mine: Sequence[Mapping[str, Any]], x: str, scale: MetricScale, hue: str, look: Any) -> None:
    """Draw the line of a strategy over the column `x`: means, seeds, bars within the metric's range."""
    at = {"color": hue, "clip_on": False}
    y = [scale.scale * row["mean"] for row in mine]
    axes.plot([row[x] for row in mine], y, linewidth=1.8, marker="o", markersize=4, linestyle=look, zorder=3, **at)
    for row in mine:
        seeds = [scale.scale * value for _, value in row.get("values", ())]
        if len(seeds) > 1:
            axes.plot([row[x]] * len(seeds), seeds, "o", markersize=3, alpha=0.7, mew=0, linestyle="", **at)
        if row["std"] is not None:
            middle, half = scale.scale * row["mean"], scale.scale * row["std"]
            axes.vlines(row[x], scale.clipped(middle - half), scale.clipped(middle + half), linewidth=1, **at)


def _looks(names: Sequence[str]) -> dict[str, Any]:
    """Dashes of each line: plain, and others for further variants of one strategy, which share its colour."""
    dashes, count, looks = ("-", (0, (3, 1)), (0, (1, 1)), (0, (5, 1, 1, 1))), {}, {}
    for name in names:
        hue = colour(name)
        looks[name] = dashes[count.get(hue, 0) % len(dashes)]
        count[hue] = count.get(hue, 0) + 1
    return looks


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
