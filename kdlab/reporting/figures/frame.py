"""The frame of a report's figures: one panel above its legend."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdlab.plotting import style as pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.3, 2.5  # inches: of a figure, of its panel
LEFT, RIGHT, BELOW, LINE = 0.72, 0.26, 0.56, 0.19  # inches: margins, a line of a legend
NAMES = 12  # in a legend, at most


def unit_scale(lower: bool) -> int:
    """Factor of values in figures: losses unscaled, scores times 100."""
    return 1 if lower else 100


def panel(legend: Mapping[str, str], tall: float = HEIGHT) -> tuple[Figure, Axes]:
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
