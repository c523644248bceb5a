"""Analysis `depends`: gains of selection over random rows against one factor, such as the ratio or the number of classes."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.errors import UserError
from kdlab.plotting import style
from kdlab.plotting.colours import FAINT, colour
from kdlab.reporting.analyses.choosing import gains
from kdlab.reporting.analyses.choosing.runs import StudyRun, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdlab.reporting.analyses.one_run import AnalysisResult

Value = float | str
COLUMNS = (
    "factor", "value", "method", "tasks", "runs", "collapsed", "score", "random", "gain_equal_queries", "gain_equal_cost",
    "scoring_share",
)  # fmt: skip


def _setting(name: str, default: Value) -> Callable[[StudyRun], Value]:
    """The value of a setting of the selection in `StudyRun.settings`."""

    def of(run: StudyRun) -> Value:
        found = re.search(rf"(?:^|[ ,]){name}=(\S+)", run.settings)
        if found is None:
            return default
        try:
            return float(found[1].rstrip(","))
        except ValueError:
            return found[1].rstrip(",")

    return of


FACTORS: dict[str, tuple[str, Callable[[StudyRun], Value | None]]] = {
    "ratio": ("share of the rows that is kept", lambda run: run.ratio),
    "batch": ("rows of a batch", lambda run: float(run.batch)),
    "steps": ("optimizer steps", lambda run: float(run.steps)),
    "classes": ("classes", lambda run: run.classes and float(run.classes)),
    "majority": ("share of the most frequent class", lambda run: run.majority),
    "look": ("share of a batch that is scored", _setting("look", 1.0)),
    "explore": ("share of random rows among those kept", _setting("explore", 0.0)),
    "replay": ("rows trained on again for each row kept", _setting("replay", 0.0)),
    "labels_on": ("rows whose labels are learnt", lambda run: run.labels_on),
    "start": ("start of the student", lambda run: run.start or "backbone"),
    "stage": ("stage", lambda run: run.stage),
    "task": ("task", lambda run: run.task),
}


def depends(paths: Sequence[Path], factor: str, notify: Callable[[str], None] = print) -> AnalysisResult:
    """Gains over random rows by the values of a `factor` of `FACTORS`, mean over tasks and seeds, in points.

    A method is a selection with its settings and the start of the student, the factor left out. `random`: the score of random
    rows at as many queries; `scoring_share`: FLOPs of scoring over those of the run. Table: `COLUMNS`. UserError for an
    unknown factor, or one with a single value.
    """
    from kdlab.reporting.analyses.one_run import AnalysisResult

    if factor not in FACTORS:
        raise UserError(f"--on {factor}: {', '.join(FACTORS)}")
    table = by_factor(read(paths, notify), factor)
    values = {row["value"] for row in table}
    if len(values) < 2:
        only = f"all have {factor} {next(iter(values))}" if values else "none has a random run as its baseline"
        return AnalysisResult(
            COLUMNS, table, style.canvas(1, "", ""), f"nothing depends on {factor} in these runs: {only}"
        )
    return AnalysisResult(COLUMNS, table, _lines(table, factor))


def by_factor(runs: Sequence[StudyRun], factor: str) -> list[dict[str, Any]]:
    """The rows of `COLUMNS`, by method and then by the factor's value."""
    value_of, random = FACTORS[factor][1], gains.curves(runs, "random")
    groups: dict[tuple[str, Value], list[list[StudyRun]]] = {}
    for members in gains.cells(runs).values():
        run = members[0]
        value = value_of(run)
        if not run.taught or run.ratio == 1 or value is None or run.plain_random:
            continue
        groups.setdefault((_method(run, factor), value), []).append(members)
    table = []
    for (method, value), cells in groups.items():
        pairs = [(members, gains.gains_at_queries(members, runs)) for members in cells]
        at_queries = [gain for _, found in pairs for gain in found.values()]
        at_cost = [gain for members in cells for gain in gains.gains_at_cost(members, random, None).values()]
        if not at_queries and not at_cost:
            continue
        every = [run for members in cells for run in members]
        score = 100 * statistics.fmean(run.score for run in every)
        mean = statistics.fmean(at_queries) if at_queries else None
        row = (
            factor, value, method, len({run.task for run in every}), len(every), sum(run.collapsed() for run in every), score,
            None if mean is None else score - mean, mean, statistics.fmean(at_cost) if at_cost else None,
            statistics.fmean(run.scoring_flops / run.flops for run in every),
        )  # fmt: skip
        table.append(dict(zip(COLUMNS, row, strict=True)))
    return sorted(table, key=lambda row: (row["method"], str(type(row["value"])), row["value"]))


def _method(run: StudyRun, factor: str) -> str:
    """The name of a run's method without the factor."""
    settings = re.sub(rf"(?:^|[ ,]+){factor}=\S+", "", run.settings).strip(" ,")
    start = "" if factor == "start" or run.start in ("", "backbone") else f"start={run.start}"
    ratio = "" if factor == "ratio" else f"{100 * run.ratio:g} %"
    labels = "labels_on=all" if factor != "labels_on" and run.labels_on == "all" else ""
    return " ".join(part for part in (run.select, settings, labels, run.other, start, ratio) if part)


def _lines(table: Sequence[Mapping[str, Any]], factor: str) -> Figure:
    """Two panels, equal queries and equal total cost: a line for each method with two values or more."""
    methods = {
        method: rows
        for method in dict.fromkeys(row["method"] for row in table)
        if len(rows := [row for row in table if row["method"] == method]) > 1
    } or {row["method"]: [row] for row in table}
    values = sorted({row["value"] for row in table}, key=lambda value: (isinstance(value, str), value))
    numeric = all(isinstance(value, float) and value > 0 for value in values)
    figure = style.canvas(
        6.0, f"Gain over random rows by {FACTORS[factor][0]}", "points of score, mean over tasks and seeds"
    )
    for place, (column, title) in enumerate((("gain_equal_cost", "at the same total cost"), ("gain_equal_queries", "at as many teacher queries"))):  # fmt: skip
        axes = style.panel(figure, 0.6 + 2.6 * place, 1.8)
        for method, rows in methods.items():
            points = [(row["value"], row[column]) for row in rows if row[column] is not None]
            xs = [x if numeric else values.index(x) for x, _ in points]
            axes.plot(xs, [y for _, y in points], "-o", color=colour(method.split(" ")[0]), markersize=4, label=method)
        axes.axhline(0, color=FAINT, linewidth=1)
        if numeric and max(values) / min(values) > 4:
            axes.set_xscale("log")
        axes.set_xticks(values if numeric else range(len(values)), [_shown(value) for value in values], fontsize=7)
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:+g}")
        axes.set_xlabel(FACTORS[factor][0])
        style.caption(axes, title)
        if place and methods:
            axes.legend(fontsize=6.5, frameon=False, ncols=max(1, math.ceil(len(methods) / 8)))
    return figure


def _shown(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"
