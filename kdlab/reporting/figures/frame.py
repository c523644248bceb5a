"""The frame of a report's figures: one panel above its legend, narrow enough for a phone, and the data drawn in it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdlab.plotting import style
from kdlab.plotting.colours import FAINT, GRID, INK, colour
from kdlab.plotting.metrics import MetricScale
from kdlab.reporting.score_columns import reference_on_test

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kdlab.reporting.tables import TableRow, TaskTable

WIDTH, HEIGHT = 4.3, 2.5  # inches: of a figure, of its panel
LEFT, RIGHT, BELOW, LINE = 0.72, 0.26, 0.56, 0.185  # inches: margins, a line of a legend
NAMES = 12  # in a legend, at most
MARKERS = "osD^vPX"
# Dashes of the levels: teachers, groups at full data, groups without a teacher
TEACHER, WHOLE, UNTAUGHT = (0, (7, 2, 1.5, 2)), (0, (4, 3)), (0, (1, 2))


@dataclass
class Drawing:
    """A figure with its caption and the rows of numbers that it shows. `name`: of its files, within a task."""

    name: str
    figure: Figure
    caption: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Level:
    """Least and largest score of a teacher, and its mean on test; None without labelled test rows."""

    low: float
    high: float
    test: float | None = None


@dataclass
class Legend:
    """Entries of a legend: label, colour, "area", "dot" or the dashes of a line ("-" for a plain one), and the marker
    (of a line: "" for none)."""

    entries: list[tuple[str, str, Any, str]] = field(default_factory=list)

    def add(self, label: str, hue: str, look: Any, marker: str = "") -> None:
        """Add an entry, once."""
        if all(label != entry[0] for entry in self.entries):
            self.entries.append((label, hue, look, marker))

    def add_groups(self, rows: Sequence[TableRow], look: Any, shapes: Shapes) -> None:
        """Add the groups with their numbers, or, of more than `NAMES`, the strategies, and what the markers are of."""
        whole = len(rows) <= NAMES
        for row in rows:
            select = row.group.one.select
            name = f"{row.number}  {row.title}" if whole else style.shown(select)
            self.add(name, colour(select), look, shapes.of[row.number] if whole else shapes.first)
        for label, marker in {} if whole else shapes.labels.items():
            self.add(label, FAINT, "dot", marker)


class Shapes:
    """A marker for each group of a task (`of`, by its number): one for all that differ in selection and ratio alone.

    `first`: that of a task without other differences. `labels`: marker by the settings that it stands for; `caption`: a
    sentence, "" where all have one marker.
    """

    def __init__(self, rows: Sequence[TableRow], first: str) -> None:
        own = [
            {name: value for name, value in row.group.settings.items() if name not in ("select", "ratio")}
            for row in rows
        ]
        keys = [", ".join(f"{name} {value}" for name, value in one.items()) for one in own]
        distinct = list(dict.fromkeys(keys))
        several = len(distinct) > 1
        markers = {key: MARKERS[i % len(MARKERS)] if several else first for i, key in enumerate(distinct)}
        names = list(dict.fromkeys(name for one in own for name in one))
        self.first = first
        self.of = {row.number: markers[key] for row, key in zip(rows, keys, strict=True)}
        self.labels = {key or "others": marker for key, marker in markers.items()} if several else {}
        said = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        self.caption = f" Shapes: {said}." if several else ""


def panel(legend: Legend, tall: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one panel above its legend, of two columns where all labels are short enough."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = legend.entries[:NAMES]
    if len(legend.entries) > NAMES:
        entries = [*entries[: NAMES - 1], (f"and {len(legend.entries) - NAMES + 1} more", "none", "area", "")]
    columns = 2 if all(len(entry[0]) <= 24 for entry in entries) else 1
    lines = -(-len(entries) // columns)
    height = 0.14 + tall + BELOW + LINE * lines + 0.06
    figure = Figure(figsize=(WIDTH, height), dpi=style.DPI, facecolor="white")
    FigureCanvasAgg(figure)
    bottom = BELOW + LINE * lines + 0.06
    axes = figure.add_axes((LEFT / WIDTH, bottom / height, 1 - (LEFT + RIGHT) / WIDTH, tall / height))
    style.plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for i, entry in enumerate(entries):
        column, line = divmod(i, lines)
        left = 0.16 + column * (WIDTH - 0.2) / 2
        _entry(figure, entry, left, 0.06 + LINE * (lines - line - 0.5), (WIDTH - 0.2) / columns - 0.42)
    return figure, axes


def _entry(figure: Figure, entry: tuple[str, str, Any, str], left: float, middle: float, width: float) -> None:
    """Draw an entry of a legend `left` and `middle` inches from the corner, its label at most `width` inches wide."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    label, hue, look, marker = entry
    wide, tall = figure.get_size_inches()
    place = {"transform": figure.transFigure, "figure": figure}
    if look == "area":
        size = (0.2 / wide, 0.09 / tall)
        figure.add_artist(Rectangle((left / wide, (middle - 0.045) / tall), *size, facecolor=hue, **place))
    elif look == "dot":
        at = ([(left + 0.1) / wide], [middle / tall])
        figure.add_artist(Line2D(*at, marker=marker or "o", markersize=5.5, color=hue, linestyle="", **place))
    else:
        at = ([left / wide, (left + 0.12) / wide, (left + 0.24) / wide], [middle / tall] * 3)
        mark = {"marker": marker, "markevery": [1], "markersize": 4}
        figure.add_artist(Line2D(*at, color=hue, linewidth=1.5, linestyle=look, **mark, **place))
    text = figure.text((left + 0.31) / wide, middle / tall, label, fontsize=8, color=INK, va="center", parse_math=False)
    style.fit(text, width * style.DPI, 8)


def levels(table: TaskTable) -> dict[str, Level]:
    """The scores of the teachers of a table, by name."""
    groups, metric = [row.group for row in table.rows], table.comparison.metric
    return {
        name: Level(*ends, reference_on_test(groups, name, metric))
        for name, ends in table.references.items()
        if name.split(" ")[0] == "teacher"
    }


def mean_levels(tables: Sequence[TaskTable]) -> dict[str, Level]:
    """The mean over tasks of the scores of each teacher that all tasks name, each task counted `TaskTable.scores` times."""
    each, weights = [levels(table) for table in tables], [table.scores for table in tables]

    def mean(values: Sequence[float]) -> float:
        return statistics.fmean(values, weights)

    return {
        name: Level(mean([one[name].low for one in each]), mean([one[name].high for one in each]))
        for name in each[0]
        if all(name in one for one in each)
    }


def panel_with_levels(
    legend: Legend, teachers: Mapping[str, Level], scale: MetricScale
) -> tuple[Figure, Axes, list[dict[str, Any]]]:
    """A panel above its legend with the teachers' levels, which the axes grow to have, and their rows of data."""
    for name, level in teachers.items():
        legend.add(_level_label(name, level, scale), FAINT, TEACHER)
    figure, axes = panel(legend)
    rows = []
    for name, level in teachers.items():
        for value in dict.fromkeys((level.low, level.high)):
            axes.axhline(scale.scale * value, color=FAINT, linewidth=1.3, linestyle=TEACHER, zorder=1)
            rows.append({"group": name, scale.unit: scale.scale * value} | cell_of_test(level.test, scale))
    return figure, axes, rows


def cell_of_test(value: float | None, scale: MetricScale) -> dict[str, float]:
    """The cell of a score on test in a figure's data, which no figure draws; none without one."""
    return {} if value is None else {f"test {scale.unit}": scale.scale * value}


def tests_said(rows: Sequence[Mapping[str, Any]], scale: MetricScale) -> str:
    """The sentence of a caption on scores on test, which the figure's data have and the figure has not."""
    return " Scores on dev; those on test are in the table." if any(f"test {scale.unit}" in row for row in rows) else ""


def _level_label(name: str, level: Level, scale: MetricScale) -> str:
    """A teacher's entry in the legend: its name and score, or the range of its scores."""
    low, high = (f"{scale.scale * end:.{4 if scale.scale == 1 else 1}f}" for end in (level.low, level.high))
    return f"{name} {low}" + (f" to {high}" if high != low else "")


def keep_in_range(axes: Axes, scale: MetricScale) -> None:
    """End the y axis at the metric's range, with room for marks on its edge."""
    low, high = axes.get_ylim()
    room = 0.03 * (high - low)
    axes.set_ylim(max(low, scale.low - room), min(high, scale.high + room))
    ticks = [tick for tick in axes.get_yticks() if max(low, scale.low) <= tick <= min(high, scale.high)]
    if math.isfinite(scale.high) and len(ticks) > 1:
        axes.set_yticks(ticks)
