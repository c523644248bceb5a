"""Figures of adoption and weighing: term weights, teachers of the rows, layers chosen, the training of a KSM."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kdlab.plotting import style
from kdlab.plotting.colours import FAINT, INK, OTHERS, colours
from kdlab.plotting.run_tables import Row, arms_in, number_in, points_of, window_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG = "ksm.csv"  # one row per phase of the module's training
TERMS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", *OTHERS)
WINDOWS = 60  # columns of a heat map, at most
MAPS = 6  # heat maps in one figure, at most
SPANS = 25  # a moving mean covers 1 / SPANS of a run
NAME = 18  # characters that fit beside a panel, with a value

Panel = tuple[float, Callable[["Axes"], None]]  # height in inches, function that draws it
Points = Sequence[tuple[float, float]]


def knowledge(rows: Sequence[Row], total: float, about: str) -> Figure | None:
    """The figure of knowledge.csv up to step `total`, with subtitle `about`; None without data.

    Panels from top to bottom, each if there is data: weights of the terms (Dynamic KD Fig. 6), arms in force, share of
    rows of each teacher, teacher layers chosen (DeKD's alignment).
    """
    rows = [row for row in rows if float(row["step"]) < total]
    panels: list[Panel] = []
    weights = _series(rows, "weight_")
    if weights:
        panels.append((_tall(weights), partial(_weights, weights, total)))
    for column in ("weigh", "adopt"):
        served = [{"step": row["step"], "arm": row[column]} for row in rows if row.get(column)]
        if len({row["arm"] for row in served}) > 1:
            panels.append((1.0, partial(_arms, served, total, column)))
    asked = _series(rows, "asked_")
    if asked:
        panels.append((_tall(asked), partial(_asked, asked, total)))
    maps = _layers(rows, list(asked))
    for i, (name, layers) in enumerate(list(maps.items())[:MAPS]):
        more = len(maps) - MAPS if i == MAPS - 1 else 0
        height = min(2.4, max(0.7, 0.16 * len(layers)))
        panels.append((height, partial(_heat, name, layers, float(rows[0]["step"]), total, more)))
    if not panels:
        return None
    figure, all_axes = _stacked("Which teacher, which knowledge", about, panels, "training step")
    all_axes[0].set_xlim(float(rows[0]["step"]), total)
    return figure


def phases(rows: Sequence[Row], about: str) -> Figure | None:
    """The figure of a module's training, from the rows of ksm.csv in any order; None without rewards.

    Over the phases of all episodes: the reward (KSM Fig. 7), the weights chosen, the error of the critic.
    """
    rows = sorted(rows, key=lambda row: (number_in(row, "episode"), float(row["step"])))
    counted = [{**row, "step": str(i)} for i, row in enumerate(rows, 1)]
    ends = [i for i, (a, b) in enumerate(itertools.pairwise(counted), 1) if a["episode"] != b["episode"]]
    bounds = [0, *ends, len(counted)]
    rewards = points_of(counted, "reward")
    if not rewards:
        return None
    panels: list[Panel] = [(1.5, partial(_rewards, rewards, bounds, counted))]
    weights = _series(counted, "weight_")
    if weights:
        panels.append((_tall(weights), partial(_actions, weights, bounds)))
    errors = {name: points_of(counted, name) for name in ("phase_error", "exploration_error")}
    errors = {name: [(x, y) for x, y in found if y > 0] for name, found in errors.items()}
    if any(errors.values()):
        panels.append((1.3, partial(_errors, {name: found for name, found in errors.items() if found}, bounds)))
    length = float(rows[0]["step"])
    axis = f"phase of the module's training ({length:g} step{'s' * (length != 1)} each)"
    figure, all_axes = _stacked("How the knowledge selection module learnt", about, panels, axis)
    from matplotlib.ticker import MaxNLocator

    all_axes[0].set_xlim(0.5, len(counted) + 0.5)
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    for axes in all_axes:
        for end in ends:
            axes.axvline(end + 0.5, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
    return figure


def smoothed(values: Iterable[float], width: int) -> np.ndarray:
    """Moving mean over `width` (odd) values, fewer at the ends; same length as `values`."""
    values = np.array(list(values), dtype=float)
    ones = np.ones(width)
    middle = slice((width - 1) // 2, (width - 1) // 2 + len(values))
    return np.convolve(values, ones)[middle] / np.convolve(np.ones(len(values)), ones)[middle]


# ---- reading the tables


def _series(rows: Sequence[Row], prefix: str) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each numeric column that begins with `prefix`, by the rest of its name."""
    found = {
        name[len(prefix) :]: points_of(rows, name) for name in (rows[0] if rows else ()) if name.startswith(prefix)
    }
    return {name: points for name, points in found.items() if points}


def _layers(rows: Sequence[Row], teachers: Sequence[str]) -> dict[str, list[list[tuple[float, float]]]]:
    """Shares of rows of each teacher layer, from 1 up, by term and teacher, for terms that choose layers."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for column, points in _series(rows, "layer_").items():
        name, number = re.fullmatch(r"(.+)_(\d+)", column).groups()  # pyright: ignore[reportOptionalMemberAccess]
        found.setdefault(name, {})[int(number)] = points
    return {_words(name, teachers): [one[n] for n in sorted(one)] for name, one in found.items()}


def _words(name: str, teachers: Sequence[str]) -> str:
    owner = next((one for one in sorted(teachers, key=len, reverse=True) if name.endswith(f"_{one}")), None)
    return f"{name[: -len(owner) - 1]} · {owner}" if owner else style.shown(name)


# ---- layout


def _stacked(title: str, about: str, panels: Sequence[Panel], axis: str) -> tuple[Figure, list[Axes]]:
    """A figure of panels from top to bottom over one x axis with the label `axis`; the figure and its axes."""
    height = 0.72 + sum(tall + 0.36 for tall, _ in panels) + 0.36
    figure = style.canvas(height, title, about)
    top, found = height - 0.62, []
    for tall, draw in panels:
        top -= tall + 0.36
        axes = style.panel(figure, top + 0.02, tall, sharex=found[0] if found else None)
        draw(axes)
        axes.tick_params(labelbottom=False)
        found.append(axes)
    found[-1].tick_params(labelbottom=True)
    found[-1].set_xlabel(axis)
    return figure, found


def _tall(series: Mapping[str, Points]) -> float:
    return max(1.3, 0.19 * len(series))


def _label(name: str, value: str) -> str:
    name = style.shown(name)
    return f"{name if len(name) <= NAME - len(value) else name[: NAME - len(value) - 1] + '…'} {value}"


def _hues(count: int) -> list[str]:
    """`count` colours from light to dark, for teachers from small to large."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](place)) for place in np.linspace(0.8, 0.1, count)]


def _lines(axes: Axes, series: Mapping[str, Points], hues: Sequence[str], form: str, scale: float, end: float) -> None:
    """Draw a moving mean of each series up to step `end`, its values faint behind it, its last value at the right.

    Of lines that coincide the lower ones are wider, so that all stay visible.
    """
    means = {
        name: scale * smoothed([y for _, y in points], len(points) // SPANS | 1) for name, points in series.items()
    }
    ends = []
    for i, (name, points) in enumerate(series.items()):
        x, y, mean, hue = np.array(points)[:, 0], np.array(points)[:, 1], means[name], hues[i % len(hues)]
        if len(points) >= 2 * SPANS and not np.isin(y, (0, 1)).all():
            axes.plot(x, scale * y, color=hue, linewidth=0.7, alpha=0.22)
        later = list(means.values())[i + 1 :]
        above = sum(len(one) == len(mean) and np.median(abs(one - mean)) < 0.01 * scale for one in later)
        axes.plot([*x, end], [*mean, mean[-1]], color=hue, linewidth=min(6.0, 1.7 + 1.6 * above))
        ends.append((mean[-1], _label(name, form.format(mean[-1])), hue))
    low, high = axes.get_ylim()
    axes.set_ylim(min(-0.02 * scale, low), max(1.04 * scale, high))
    style.end_labels(axes, ends)


# ---- panels


def _weights(series: Mapping[str, Points], total: float, axes: Axes) -> None:
    style.caption(axes, "factor of each term's weight (mean over rows; moving mean)")
    _lines(axes, series, TERMS, "{:.2f}", 1.0, total)


def _asked(series: Mapping[str, Points], total: float, axes: Axes) -> None:
    style.caption(axes, "rows that heed each teacher (% of the rows that ask one; moving mean)")
    _lines(axes, series, _hues(len(series)), "{:.0f} %", 100.0, total)


def _arms(served: Sequence[Row], total: float, column: str, axes: Axes) -> None:
    shares = window_shares(served, total, max(1, min(WINDOWS, len(served) // 3)))
    hues = colours(arms_in(served))
    floor = np.zeros(len(shares.edges))
    for arm, share in shares.of.items():
        top = floor + 100 * np.append(share, share[-1])
        axes.fill_between(shares.edges, floor, top, step="post", facecolor=hues[arm], edgecolor="white", linewidth=0.4)
        floor = top
    axes.set_ylim(0, 100)
    what = "weighing" if column == "weigh" else "adoption"
    style.caption(axes, f"arm of {what} in force (% of the steps)")
    named = {f"{style.shown(arm)}  {100 * share.mean():.0f} %": hues[arm] for arm, share in shares.of.items()}
    style.legend(axes, named)


def _heat(name: str, layers: Sequence[Points], start: float, total: float, more: int, axes: Axes) -> None:
    """Draw a heat map: the share of rows that learn from each layer, in windows of equal length."""
    steps = sorted({x for points in layers for x, _ in points})
    edges = np.linspace(start, total, max(1, min(WINDOWS, len(steps))) + 1)
    cells = np.full((len(layers), len(edges) - 1), np.nan)
    for number, points in enumerate(layers):
        x, y = np.array(points).reshape(-1, 2).T
        window = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
        counts = np.bincount(window, minlength=len(edges) - 1)
        sums = np.bincount(window, y, len(edges) - 1)
        cells[number] = np.divide(100 * sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    axes.grid(visible=False)
    mesh = axes.pcolormesh(edges, np.arange(len(layers) + 1) + 0.5, cells, cmap="Blues", vmin=0, vmax=100)
    every = math.ceil(len(layers) / 12)
    axes.set_yticks(range(every, len(layers) + 1, every))
    axes.set_ylabel("layer")
    rest = f" (and {more} more, not drawn)" if more else ""
    style.caption(axes, f"teacher layers learnt from (% of rows): {name}{rest}")
    beside = axes.inset_axes((1.03, 0.0, 0.02, 1.0))
    bar = axes.get_figure().colorbar(mesh, cax=beside, ticks=(0, 50, 100))  # pyright: ignore
    bar.outline.set_visible(False)  # pyright: ignore
    beside.tick_params(labelsize=9, color=FAINT, labelcolor=INK, length=3)


def _rewards(points: Points, bounds: Sequence[int], rows: Sequence[Row], axes: Axes) -> None:
    measured = [value for _, value in points_of(rows, "measured")]
    score = bool(measured) and max(measured) <= 0  # minus a score is measured, so that it falls
    what = "rise of the student's score" if score else "fall of the student's loss (nats)"
    style.caption(axes, f"reward of each phase: {what}")
    x, y = np.array(points).T
    hues = [TERMS[0] if value >= 0 else TERMS[5] for value in y]
    axes.vlines(x, 0, y, colors=hues, linewidth=min(9.0, max(0.6, 0.6 * 72 * style.PANEL / len(rows))))
    axes.axhline(0, color=FAINT, linewidth=0.8)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.18 * (high - low))
    sums = []
    for start, end in itertools.pairwise(bounds):
        episode = rows[start]["episode"]
        sums.append(f"episode {episode}  {sum(v for place, v in points if start < place <= end):+.3f}")
        share = (end - start) / len(rows)
        text = f"episode {episode}" if share > 0.12 else episode if share > 0.03 else ""
        at = {"ha": "center", "va": "top", "fontsize": 8, "color": FAINT}
        axes.text((start + end) / 2 + 0.5, 0.99, text, transform=axes.get_xaxis_transform(), **at)
    if len(sums) > 6:
        sums = [*sums[:3], "…", *sums[-3:]]
    at = {"va": "top", "fontsize": 9, "color": INK, "linespacing": 1.3}
    axes.text(1.03, 1.0, "\n".join(["sums", *sums]), transform=axes.transAxes, **at)


def _actions(series: Mapping[str, Points], bounds: Sequence[int], axes: Axes) -> None:
    style.caption(axes, "weights the module took (mean over the phase)")
    ends = []
    for (name, points), hue in zip(series.items(), itertools.cycle(TERMS), strict=False):
        _by_episode(axes, points, bounds, hue)
        last = [y for x, y in points if x > bounds[-2]] or [points[-1][1]]
        value = smoothed(last, len(last) // SPANS | 1)[-1]
        ends.append((value, _label(name, f"{value:.2f}"), hue))
    axes.set_ylim(-0.04, 1.04)
    style.end_labels(axes, ends)


def _errors(series: Mapping[str, Points], bounds: Sequence[int], axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    style.caption(axes, "squared error of the critic (Eq. 10 and 9), before it learnt from the phase")
    axes.set_yscale("log")
    hues = {"phase_error": INK, "exploration_error": TERMS[3]}
    shown = {"phase_error": "phase reward", "exploration_error": "exploration"}
    for name, points in series.items():
        _by_episode(axes, points, bounds, hues[name])
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    for place, name in zip((0.75, 0.45), series, strict=False):
        axes.plot(
            (1.02, 1.045), (place, place), color=hues[name], linewidth=1.8, transform=axes.transAxes, clip_on=False
        )
        axes.text(1.053, place, shown[name], transform=axes.transAxes, va="center", fontsize=9, color=INK)


def _by_episode(axes: Axes, points: Points, bounds: Sequence[int], hue: str) -> None:
    """Draw one line per episode; for a long episode a moving mean, with its values faint behind it."""
    for start, end in itertools.pairwise(bounds):
        mine = [(x, y) for x, y in points if start < x <= end]
        if not mine:
            continue
        x, y = zip(*mine, strict=True)
        if len(mine) >= 2 * SPANS:
            axes.plot(x, y, color=hue, linewidth=0.7, alpha=0.22)
        dots = {"marker": "o", "markersize": 3} if len(points) <= 60 else {}
        axes.plot(x, smoothed(y, len(mine) // SPANS | 1), color=hue, linewidth=1.6, **dots)
