"""The style of all figures: layout, panels, names of lines.

Lengths are inches from the lower left corner. A figure is one column of panels, with the names of the lines at their
right. Uses neither pyplot nor matplotlib's global settings.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.plotting.colours import FAINT, GRID, INK, OTHERS, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

DPI = 150
WIDTH = 8.0  # inches: 1200 px
LEFT, PANEL = 0.78, 5.36  # inches: where a panel begins and how wide it is

STUDENT = "#0072B2"


def shown(arm: str) -> str:
    """The name of a strategy or arm as figures print it: spaces for underscores."""
    return arm.replace("_", " ").strip()


def canvas(height: float, title: str, about: str) -> Figure:
    """An empty figure of `height` inches with a title and a subtitle `about`, which may have any characters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    as_is = {"parse_math": False, "va": "baseline", "ha": "left"}
    head = figure.text(0.12 / WIDTH, 1 - 0.27 / height, title, fontsize=12, fontweight="bold", color=INK, **as_is)
    below = figure.text(0.12 / WIDTH, 1 - 0.48 / height, about, fontsize=9, color=FAINT, **as_is)
    for text, least in ((head, 10.0), (below, 8.0)):
        fit(text, (WIDTH - 0.24) * DPI, least)
    return figure


def fit(text: Text, width: float, least: float) -> None:
    """Set a text smaller, down to `least` points, then shorten it, until it is at most `width` pixels wide."""
    while text.get_window_extent().width > width and float(text.get_fontsize()) > least:
        text.set_fontsize(float(text.get_fontsize()) - 0.5)
    whole = text.get_text()
    if text.get_window_extent().width <= width:
        return
    fits, too_long = 0, len(whole)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        text.set_text(whole[:middle].rstrip() + "…")
        fits, too_long = (middle, too_long) if text.get_window_extent().width <= width else (fits, middle)
    text.set_text(whole[:fits].rstrip() + "…")


def number_points(axes: Axes, points: Sequence[tuple[float, float, str]], above: bool = False) -> list[Text]:
    """Write a label (x, y, label) at the right of each point, or `above` at its left, stacked where labels would overlap.

    The limits of the axes must be set. Points on one another share a label; a line leads to a label that had to move.
    Returns the texts."""
    at: dict[tuple[int, int], list[str]] = {}
    for x, y, name in points:
        left, height = axes.transData.transform((x, y))
        at.setdefault((round(left / 2), round(height / 2)), []).append(name)
    point, within = DPI / 72, axes.transAxes.inverted()  # a position in pixels would not hold for another resolution
    texts, boxes = [], []
    look: dict[str, Any] = {"fontsize": 8, "color": INK, "va": "center", "ha": "left", "parse_math": False}
    for (left, height), names in at.items():
        text = axes.text(0, 0, _joined(names), transform=axes.transAxes, **look)
        box = text.get_window_extent()
        texts.append(text)
        start = 2 * left + (-4 * point - box.width if above else 5.5 * point)
        start = max(0.0, min(start, axes.figure.bbox.width - box.width - point))  # within the figure
        boxes.append([start, start + box.width, 2 * height + (6 * point if above else 0), box.height])
    low, high = axes.bbox.y0, axes.bbox.y1
    for cluster in _columns(boxes):
        cluster.sort(key=lambda i: boxes[i][2])
        gap = 1.02 * max(boxes[i][3] for i in cluster)
        places = apart([(boxes[i][2] - low) / (high - low) for i in cluster], gap / (high - low))
        for i, place in zip(cluster, places, strict=True):
            left, right, height, tall = boxes[i]
            moved = low + place * (high - low)
            texts[i].set_position(within.transform((left, moved)))
            if abs(moved - height) > 0.6 * tall:
                inner, outer = (
                    (right + 0.5 * point, right + 2 * point) if above else (left - 0.5 * point, left - 2 * point)
                )
                ends = within.transform(((outer, height - (6 * point if above else 0)), (inner, moved)))
                axes.plot(*ends.T, color=FAINT, linewidth=0.6, transform=axes.transAxes, clip_on=False, zorder=2)
    return texts


def _joined(names: Sequence[str]) -> str:
    """Labels in one: 1, 2, 3, 5 as "1-3,5", others with commas."""
    if not all(name.isdecimal() for name in names):
        return ",".join(names)
    runs: list[list[int]] = []
    for number in sorted({int(name) for name in names}):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def _columns(boxes: Sequence[Sequence[float]]) -> list[list[int]]:
    """Indices of boxes (left, right, ...) in groups of which no two overlap horizontally."""
    groups: list[list[int]] = []
    end = -np.inf
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i][0]):
        if boxes[i][0] > end:
            groups.append([])
        groups[-1].append(i)
        end = max(end, boxes[i][1])
    return groups


def panel(figure: Figure, bottom: float, height: float, sharex: Axes | None = None) -> Axes:
    """Axes of the column's width, `bottom` inches above the figure's edge."""
    whole = figure.get_figheight()
    axes = figure.add_axes((LEFT / WIDTH, bottom / whole, PANEL / WIDTH, height / whole), sharex=sharex)
    plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def caption(axes: Axes, text: str) -> None:
    """Label the y axis above it, where wide tick labels leave room."""
    if len(text) > 105:
        text = text[:104] + "…"
    axes.set_title(text, loc="left", fontsize=10, color=INK, pad=6).set_parse_math(False)


def plain(axes: Axes) -> None:
    """Remove the box, set sizes and colours of ticks and labels, print large counts as 1.5 k."""
    from matplotlib.ticker import EngFormatter

    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    axes.tick_params(labelsize=9, color=FAINT, labelcolor=INK, length=3)
    axes.xaxis.label.set(fontsize=10, color=INK)
    axes.yaxis.label.set(fontsize=10, color=INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


def legend(axes: Axes, entries: Mapping[str, str]) -> None:
    """Add a legend (name: colour) at the right, in the order of the bands, the lowest last."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=hue, label=textwrap.fill(name, 26)) for name, hue in entries.items()][::-1]
    place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.03), "borderaxespad": 0.0}
    _legend(axes, handles, fontsize=9, handlelength=1.0, **place)


def _legend(where: Axes | Figure, handles: Sequence[Any], **more: Any) -> None:
    for text in where.legend(handles=handles, frameon=False, labelcolor=INK, **more).get_texts():
        text.set_parse_math(False)


def end_labels(axes: Axes, entries: Sequence[tuple[float, str, str]]) -> None:
    """Write a name at the right of each line's last value (value, name, colour), shifted where names would overlap."""
    if not entries:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    entries = sorted(entries)
    ends = [(value - low) / (high - low) for value, _, _ in entries]
    gap = 0.17 * DPI / axes.bbox.height  # one line of 9 points
    for end, place, (_, name, hue) in zip(ends, apart(ends, gap), entries, strict=True):
        where = {"transform": axes.transAxes, "clip_on": False}
        axes.plot((1.0, 1.022, 1.045), (end, place, place), color=hue, linewidth=1.8, **where)
        axes.text(1.053, place, name, va="center", fontsize=9, color=INK, parse_math=False, **where)


def apart(ends: Sequence[float], gap: float) -> np.ndarray:
    """Ascending places near the ascending `ends` (shares of a panel's height), `gap` apart or more, within the panel."""
    ranks = gap * np.arange(len(ends))
    free = np.array(ends) - ranks
    up, down = np.maximum.accumulate(free), np.minimum.accumulate(free[::-1])[::-1]
    return np.clip((up + down) / 2, 0, max(0.0, 1 - ranks[-1])) + ranks


def lines(
    axes: Axes,
    series: Mapping[str, Sequence[tuple[float, float]]],
    levels: Mapping[str, float] | None = None,
    spread: Mapping[str, Sequence[float]] | None = None,
    against: str = "",
) -> None:
    """Draw a line of (x, y) points for each strategy, in its colour, with a legend in the order of their ends.

    References are dashed: the line called `against` and `levels` (horizontal, by name). `spread`: half the length of an
    error bar at each point, NaN for none.
    """
    levels = levels or {}
    hue = colours(series)
    ends: list[tuple[float, str, str]] = [(value, name, FAINT) for name, value in levels.items()]
    for name, points in series.items():
        x, y = np.array(sorted(points), dtype=float).reshape(-1, 2).T
        colour, style = (FAINT, (0, (4, 3))) if name == against else (hue[name], "-")
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.8, marker="o", markersize=4, clip_on=False)
        if spread is not None:
            bars = [bar for _, bar in sorted(zip(points, spread[name], strict=True))]
            some = np.isfinite(bars)
            axes.errorbar(x[some], y[some], np.array(bars)[some], fmt="none", ecolor=colour, elinewidth=1, capsize=3)
        if len(y):
            ends.append((y[-1], shown(name), colour))
    for value in levels.values():
        axes.axhline(value, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
    legend(axes, {name: colour for _, name, colour in sorted(ends)})


def shares(axes: Axes, at: Iterable[float]) -> None:
    """Label the x axis with the shares `at` (0 to 1) as percentages."""
    at = sorted(set(at))
    axes.set_xticks(at, [f"{100 * share:g} %" for share in at])


def scatter(
    title: str, about: str, place: np.ndarray, labels: Sequence[str | float], marked: Mapping[str, np.ndarray]
) -> Figure:
    """Scatter plots of `place` (N, 2), coloured by class or number, one for each of `marked`, whose rows ((N,) bool) get a
    cross. The legend omits classes for which it has no room."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    numbers = not isinstance(labels[0], str)
    names = [] if numbers else sorted({str(label) for label in labels})
    own = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", *OTHERS[:3]]
    hues = own if len(names) <= len(own) else [colormaps["turbo"](i / len(names)) for i in range(len(names))]
    of = dict(zip(names, hues, strict=False))
    values = np.array(labels, dtype=float) if numbers else None
    across, gap = min(2, len(marked)), 0.2
    side = min(3.4, (PANEL + LEFT - 0.3 - gap) / 2)
    down = -(-len(marked) // across)
    figure = canvas(0.7 + down * (side + 0.4), title, about)
    whole = figure.get_figheight()
    for i, (name, mine) in enumerate(marked.items()):
        left, bottom = 0.2 + (i % across) * (side + gap), 0.15 + (down - 1 - i // across) * (side + 0.4)
        axes = figure.add_axes((left / WIDTH, bottom / whole, side / WIDTH, side / whole))
        plain(axes)
        axes.set_xticks([])
        axes.set_yticks([])
        caption(axes, shown(name))
        look = {"c": values, "cmap": "viridis"} if numbers else {"c": [of[str(label)] for label in labels]}
        axes.scatter(*place.T, s=9, linewidths=0, alpha=0.65, **look)
        axes.scatter(*place[mine].T, s=22, c=INK, marker="x", linewidths=0.9)
    small = len(names) > 14
    fits = int((whole - 0.75) / 0.112) - 2 if small else len(names)  # lines of the legend that are left for classes
    handles = [Line2D([], [], color=INK, marker="x", linestyle="", markersize=5, label="selected")]
    # matplotlib leaves out names that begin with an underscore
    handles += [
        Line2D([], [], color=of[name], marker="o", linestyle="", markersize=4, label=name.lstrip("_") or "-")
        for name in names[:fits]
    ]
    if len(names) > fits:
        handles.append(Line2D([], [], linestyle="", label=f"and {len(names) - fits} more"))
    at = (0.2 + across * (side + gap)) / WIDTH, 1 - 0.6 / whole
    size = {"fontsize": 7, "labelspacing": 0.15} if small else {"fontsize": 9}
    _legend(figure, handles, loc="upper left", bbox_to_anchor=at, **size)
    return figure
