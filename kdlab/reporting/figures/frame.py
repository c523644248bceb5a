"""The frame of a report's figures: one panel above its legend, narrow enough for a phone, and the data drawn in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdlab.plotting import style
from kdlab.plotting.colours import FAINT, GRID, INK, colour
from kdlab.plotting.metrics import MetricScale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kdlab.reporting.tables import TableRow, TaskTable

WIDTH, HEIGHT = 4.3, 2.5  # inches: of a figure, of its panel
LEFT, RIGHT, BELOW, LINE = 0.72, 0.26, 0.56, 0.185  # inches: margins, a line of a legend
NAMES = 12  # in a legend, at most
# Dashes of the levels: teachers, groups at full data, groups without a teacher
TEACHER, WHOLE, UNTAUGHT = (0, (7, 2, 1.5, 2)), (0, (4, 3)), (0, (1, 2))


@dataclass
class Drawing:
    """A figure with its caption and the rows of numbers that it shows. `name`: of its files, within a task."""

    name: str
    figure: Figure
    caption: str
    rows: list[dict[str, Any]]


@dataclass
class Legend:
    """Entries of a legend: label, colour, and "area", "dot", or the dashes of a line ("-" for a plain one)."""

    entries: list[tuple[str, str, Any]] = field(default_factory=list)

    def add(self, label: str, hue: str, look: Any) -> None:
        """Add an entry, once."""
        if all(label != other for other, _, _ in self.entries):
            self.entries.append((label, hue, look))

    def add_groups(self, rows: Sequence[TableRow], look: Any) -> None:
        """Add the groups with their numbers, or, of more than `NAMES`, the strategies."""
        for row in rows:
            select = row.group.one.select
            name = f"{row.number}  {row.title}" if len(rows) <= NAMES else style.shown(select)
            self.add(name, colour(select), look)


def panel(legend: Legend, tall: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one panel above its legend, of two columns where all labels are short enough."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = legend.entries[:NAMES]
    if len(legend.entries) > NAMES:
        entries = [*entries[: NAMES - 1], (f"and {len(legend.entries) - NAMES + 1} more", "none", "area")]
    columns = 2 if all(len(label) <= 24 for label, _, _ in entries) else 1
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


def _entry(figure: Figure, entry: tuple[str, str, Any], left: float, middle: float, width: float) -> None:
    """Draw an entry of a legend `left` and `middle` inches from the corner, its label at most `width` inches wide."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    label, hue, look = entry
    wide, tall = figure.get_size_inches()
    place = {"transform": figure.transFigure, "figure": figure}
    if look == "area":
        size = (0.2 / wide, 0.09 / tall)
        figure.add_artist(Rectangle((left / wide, (middle - 0.045) / tall), *size, facecolor=hue, **place))
    elif look == "dot":
        at = ([(left + 0.1) / wide], [middle / tall])
        figure.add_artist(Line2D(*at, marker="o", markersize=5.5, color=hue, linestyle="", **place))
    else:
        at = ([left / wide, (left + 0.24) / wide], [middle / tall] * 2)
        figure.add_artist(Line2D(*at, color=hue, linewidth=1.5, linestyle=look, **place))
    text = figure.text((left + 0.31) / wide, middle / tall, label, fontsize=8, color=INK, va="center", parse_math=False)
    style.fit(text, width * style.DPI, 8)


def levels(table: TaskTable) -> dict[str, tuple[float, float]]:
    """Least and largest score of the teachers of a table, by name."""
    return {name: ends for name, ends in table.references.items() if name.split(" ")[0] == "teacher"}


def add_levels(axes: Axes, legend: Mapping[str, tuple[float, float]], scale: MetricScale) -> list[dict[str, Any]]:
    """Draw the levels of teachers and their rows of data; the axes grow to have them."""
    rows = []
    for name, (low, high) in legend.items():
        for value in dict.fromkeys((low, high)):
            axes.axhline(scale.scale * value, color=FAINT, linewidth=1.3, linestyle=TEACHER, zorder=1)
            rows.append({"group": name, scale.unit: scale.scale * value})
    return rows


def level_label(name: str, ends: tuple[float, float], scale: MetricScale) -> str:
    """A teacher's entry in the legend: its name and score, or the range of its scores."""
    low, high = (f"{scale.scale * end:.{4 if scale.scale == 1 else 1}f}" for end in ends)
    return f"{name} {low}" + (f" to {high}" if high != low else "")


def keep_in_range(axes: Axes, scale: MetricScale) -> None:
    """End the y axis at the metric's range, with room for marks on its edge."""
    low, high = axes.get_ylim()
    room = 0.03 * (high - low)
    axes.set_ylim(max(low, scale.low - room), min(high, scale.high + room))
    ticks = [tick for tick in axes.get_yticks() if max(low, scale.low) <= tick <= min(high, scale.high)]
    if math.isfinite(scale.high) and len(ticks) > 1:
        axes.set_yticks(ticks)
