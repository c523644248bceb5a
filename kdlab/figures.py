"""Pictures of one run, drawn from its tables alone: the selector's schedule, its Q values, and how good the student is.

`draw` reads `selector.csv`, `metrics.csv` and `result.json` of a run folder, finished or not, and writes `figures/`.
The same tables give the same bytes on the same machine. Every strategy has one colour, in all figures of all runs.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import UserError
from kdlab.files import atomic_write_bytes, atomic_write_text, plain_errors
from kdlab.seeding import stable
from kdlab.tables import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, str]

DPI = 150
WIDTH = 8.0  # inches: 1200 px
WINDOWS = 24  # of the schedule, at most
PER_WINDOW = 3  # decisions of the selector in each window, at least
STRIP = 400  # more changes of arm than this would be a grey blur in the strip

# Okabe and Ito's palette, which stays apart for the common kinds of colour blindness, with greys for the baselines.
COLOURS = {
    "entropy": "#E69F00",
    "scaled_entropy": "#F0E442",
    "margin": "#56B4E9",
    "least_confidence": "#009E73",
    "certainty": "#0072B2",
    "cluster": "#D55E00",
    "density": "#CC79A7",
    "random": "#A6A6A6",
    "ensemble": "#404040",
}
OTHERS = ("#332288", "#882255", "#999933", "#9FE2BF", "#0F4C4C")  # hues that are left
STUDENT = "#0072B2"
INK, FAINT, GRID = "#222222", "#666666", "#DDDDDD"


@dataclass(frozen=True)
class Shares:
    """Share of the steps of each window that each arm served: `edges` (W + 1,) in steps, `of[arm]` (W,), sums 1."""

    edges: np.ndarray
    of: dict[str, np.ndarray]


def window_shares(rows: Sequence[Row], total_steps: float, windows: int) -> Shares:
    """Shares of the arms in `windows` windows of equal length, from the first row's step to `total_steps`.

    `rows` of selector.csv (`step`, `arm`, `q_<arm>`), in order: an arm serves from its step until the next row's, the
    last one until the end, so a step counts once however many or few decisions a window holds. The arms are those
    taken and those of the q_ columns. ValueError without a row before `total_steps`, or without a window.
    """
    taken = [(float(row["step"]), row["arm"]) for row in rows if float(row["step"]) < total_steps]
    if not taken or windows < 1:
        raise ValueError(f"one window or more, and a row before step {total_steps}, are needed")
    bounds = np.array([step for step, _ in taken] + [float(total_steps)])
    if (np.diff(bounds) < 0).any():
        raise ValueError("the rows' steps must not descend")
    edges = np.linspace(bounds[0], bounds[-1], windows + 1)
    of = {}
    for name in _arms(rows):
        served = np.diff(bounds) * [arm == name for _, arm in taken]
        until = np.append(0.0, np.cumsum(served))  # steps served before each bound; in between it grows linearly
        places, first = np.unique(bounds, return_index=True)  # rows of one step: the last one holds, others serve 0
        of[name] = np.diff(np.interp(edges, places, until[first])) / np.diff(edges)
    return Shares(edges, of)


def draw(run: Path) -> list[Path]:
    """Write the figures that the tables in the run folder `run` allow, each atomically; the files written.

    figures/schedule.png and schedule.csv (the data behind it) where the selector took a decision, q_values.png where
    its policy learns, heldout.png where the student was evaluated. `UserError` if a table is damaged.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run} is no run folder: figures are drawn from its selector.csv and metrics.csv")
    selector = [row for row in _rows(run / "selector.csv", ("step", "arm")) if row["arm"]]
    metrics = _rows(run / "metrics.csv", ("step",))
    result = _result(run / "result.json")
    total = _total_steps(result, selector, metrics)
    selector = [row for row in selector if float(row["step"]) < total]
    queries = _queries([*selector, *metrics])
    colour = colours(_arms(selector))
    about = _about(result)

    texts: dict[str, str] = {}
    pictures: dict[str, Figure] = {}
    if selector:
        windows = max(1, min(WINDOWS, len(selector) // PER_WINDOW))
        shares = window_shares(selector, total, windows)
        texts["schedule.csv"] = _csv(shares)
        pictures["schedule.png"] = _schedule(selector, shares, queries, colour, about)
    if any(_points(selector, column) for column in (selector[0] if selector else ()) if column.startswith("q_")):
        pictures["q_values.png"] = _q_values(selector, total, colour, about)
    if any(_points(metrics, column) for column in ("heldout_loss", "heldout_accuracy")):
        pictures["heldout.png"] = _heldout(metrics, result, about)
    if not pictures:
        return []

    folder = run / "figures"
    with plain_errors("making figures", run):
        folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        atomic_write_text(folder / name, text)
    for name, figure in pictures.items():
        atomic_write_bytes(folder / name, _png(figure))
    return [folder / name for name in (*pictures, *texts)]


def colours(arms: Iterable[str]) -> dict[str, str]:
    """A colour for each arm: always the same for the package's strategies, by a hash of the name for others.

    Others that meet on one colour move on to the next free one; beyond five of them colours repeat.
    """
    found: dict[str, str] = {}
    for arm in sorted(set(arms)):
        start = stable(arm) % len(OTHERS)
        order = OTHERS[start:] + OTHERS[:start]
        free = [colour for colour in order if colour not in found.values()]
        found[arm] = COLOURS.get(arm) or (free or order)[0]
    return found


# ---- what the tables say


def _rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists() or path.stat().st_size == 0:
        return []
    rows = read(path)
    for number, row in enumerate(rows, 2):
        for column in needed:
            if column not in row:
                raise UserError(f"{path} has no column {column}; found {', '.join(row)}")
        if not math.isfinite(_number(row, "step")):
            raise UserError(f"{path} line {number}: step must be a number, found {row['step']!r}")
    return sorted(rows, key=lambda row: float(row["step"]))


def _result(path: Path) -> dict[str, Any]:
    """result.json, or nothing where a run has not written it: figures only take their titles from it."""
    try:
        result = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def _total_steps(result: Mapping[str, Any], selector: Sequence[Row], metrics: Sequence[Row]) -> float:
    """Where the x axis ends: the run's last step, or, in a run that goes on, where its tables end."""
    steps = result.get("steps")
    if isinstance(steps, int | float) and steps > 0:
        return float(steps)
    return max([float(row["step"]) for row in metrics] + [float(row["step"]) + 1 for row in selector], default=0.0)


def _about(result: Mapping[str, Any]) -> str:
    """The run in a few words, from what result.json holds of name, select and scale."""
    select = result.get("select")
    select = select if isinstance(select, dict) else {}
    words = [str(result["name"])] if result.get("name") else []
    if select.get("name"):
        words.append(f"select={select['name']}")
    if isinstance(select.get("ratio"), int | float):
        words.append(f"{100 * select['ratio']:g} % of the rows query the teacher")
    if result.get("scale"):
        words.append(f"scale={result['scale']}")
    return "   ·   ".join(words)


def _queries(rows: Iterable[Row]) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps (ascending) and teacher queries so far at each; None where no teacher was asked."""
    at: dict[float, float] = {}
    for step, count in _points(rows, "teacher_queries"):
        at[step] = max(count, at.get(step, 0.0))
    steps = np.array(sorted(at))
    counts = np.maximum.accumulate([at[step] for step in steps]) if at else np.zeros(0)
    return (steps, counts) if counts.any() else None


def _points(rows: Iterable[Row], column: str) -> list[tuple[float, float]]:
    """(step, value) wherever the column holds a finite number."""
    pairs = ((float(row["step"]), _number(row, column)) for row in rows)
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def _number(row: Row, column: str) -> float:
    try:
        return float(row.get(column) or "nan")
    except ValueError:
        return math.nan


def _arms(rows: Sequence[Row]) -> list[str]:
    """All arms, in an order that is the same in all runs: the package's own, then others by name."""
    learnt = {column[2:] for column in (rows[0] if rows else ()) if column.startswith("q_")}
    arms = learnt | {row["arm"] for row in rows}
    return [arm for arm in COLOURS if arm in arms] + sorted(arms - COLOURS.keys())


def _csv(shares: Shares) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["from_step", "to_step", *(f"share_{arm}" for arm in shares.of)])
    for window, (start, end) in enumerate(itertools.pairwise(shares.edges.tolist())):
        writer.writerow([start, end, *(float(share[window]) for share in shares.of.values())])
    return stream.getvalue()


# ---- pictures: inches from the lower left corner, one column of panels with the names to their right

LEFT, PANEL = 0.78, 5.36


def _schedule(rows: Sequence[Row], shares: Shares, queries: Any, colour: Mapping[str, str], about: str) -> Figure:
    figure = _figure(4.4, "Which strategy chose the data: share of the training steps", about)
    area = _panel(figure, 0.92, 2.35)
    edges = shares.edges
    floor = np.zeros(len(edges))
    for arm, share in shares.of.items():
        top = floor + 100 * np.append(share, share[-1])
        area.fill_between(edges, floor, top, step="post", facecolor=colour[arm], edgecolor="white", linewidth=0.6)
        floor = top
    area.set_xlim(edges[0], edges[-1])
    area.set_ylim(0, 100)
    area.set_ylabel("share of steps (%)")
    _names(area, {f"{_shown(arm)}  {100 * share.mean():.0f} %": colour[arm] for arm, share in shares.of.items()})
    if queries is not None:
        _queries_above(area, *queries)

    starts = [i for i, row in enumerate(rows) if i == 0 or row["arm"] != rows[i - 1]["arm"]]
    if len(starts) > STRIP:
        area.set_xlabel("training step")
        return figure
    area.tick_params(labelbottom=False)
    strip = _panel(figure, 0.54, 0.22, sharex=area)
    bounds = [float(rows[i]["step"]) for i in starts] + [edges[-1]]
    spans = [(start, end - start) for start, end in itertools.pairwise(bounds)]
    strip.broken_barh(spans, (0, 1), facecolors=[colour[rows[i]["arm"]] for i in starts], linewidth=0)
    strip.set_ylim(0, 1)
    strip.set_yticks([])
    strip.text(1.02, 0.5, "every single choice", transform=strip.transAxes, va="center", fontsize=9, color=FAINT)
    strip.set_xlabel("training step")
    return figure


def _q_values(rows: Sequence[Row], total: float, colour: Mapping[str, str], about: str) -> Figure:
    figure = _figure(5.2, "What the selector has learnt: value Q of each strategy", about)
    values = _panel(figure, 2.1, 2.2)
    ends = []
    for arm in _arms(rows):
        points = _points(rows, f"q_{arm}")
        if points:
            steps, q = zip(*[*points, (total, points[-1][1])], strict=True)
            values.plot(steps, q, drawstyle="steps-post", color=colour[arm], linewidth=1.8)
            ends.append((q[-1], _shown(arm), colour[arm]))
    start = float(rows[0]["step"])
    values.set_xlim(start, total)
    _caption(values, "Q (in units of the reward)")
    values.tick_params(labelbottom=False)
    _end_labels(values, ends)

    rewards = _panel(figure, 0.54, 1.2, sharex=values)
    earned = [
        (float(row["step"]), _number(row, "reward"), colour[before["arm"]])
        for before, row in itertools.pairwise(rows)
        if math.isfinite(_number(row, "reward"))
    ]
    width = min(3.0, max(0.5, 0.5 * 72 * PANEL / len(rows)))
    if earned:
        at, heights, hues = zip(*earned, strict=True)
        rewards.vlines(at, 0, heights, colors=hues, linewidth=width)
    rewards.axhline(0, color=FAINT, linewidth=0.8)
    _caption(rewards, "reward (nats per observation)")
    rewards.set_xlabel("training step")
    note = "in the colour of the\nstrategy that earned it" if earned else "none yet"
    rewards.text(1.02, 0.5, note, transform=rewards.transAxes, va="center", fontsize=9, color=FAINT)
    return figure


def _heldout(rows: Sequence[Row], result: Mapping[str, Any], about: str) -> Figure:
    asked = _queries(rows) is not None
    against = "teacher_queries" if asked else "step"
    task = any(_points(rows, "heldout_score"))
    where = "the dev set" if task else "held-out text"
    figure = _figure(5.4, f"How good the student is on {where}, by {against.replace('_', ' ')}", about)
    good = _panel(figure, 0.54, 1.75)
    good.set_xlabel("teacher queries so far" if asked else "training step")
    loss = _panel(figure, 2.72, 1.75, sharex=good)
    loss.tick_params(labelbottom=False)
    right = 0.0
    score = ("score", 100, "{:.1f}") if task else ("accuracy", 100, "{:.1f} %")
    for panel, (name, scale, form) in ((loss, ("loss", 1, "{:.2f}")), (good, score)):
        points = [(_number(row, against), scale * _number(row, f"heldout_{name}")) for row in rows]
        x, y = np.array([point for point in points if np.isfinite(point).all()]).reshape(-1, 2).T.tolist()
        panel.plot(x, y, color=STUDENT, linewidth=1.8, marker="o" if len(x) <= 60 else "", markersize=4, clip_on=False)
        right = max([right, *x])
        ends = [(y[-1], f"student {form.format(y[-1])}", STUDENT)] if y else []
        for other, at in _levels(result, name).items():
            panel.axhline(scale * at, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
            ends.append((scale * at, f"{other} {form.format(scale * at)}", FAINT))
        _end_labels(panel, ends)
    _caption(
        loss, "loss (nats a row; squared error in regression)" if task else "masked-LM loss (nats per masked token)"
    )
    _caption(good, "the task's score x 100" if task else "masked-LM accuracy (% of masked tokens)")
    good.set_xlim(0, right or 1)
    return figure


def _levels(result: Mapping[str, Any], name: str) -> dict[str, float]:
    """What the student is read against: the scores called `name` of the teacher and the baselines."""
    metrics = result.get("metrics")
    found = {}
    for other, scores in metrics.items() if isinstance(metrics, Mapping) else ():
        value = scores.get(name) if isinstance(scores, Mapping) else None
        if other != "student" and isinstance(value, int | float) and math.isfinite(value):
            found[str(other)] = float(value)
    return found


def _shown(arm: str) -> str:
    return arm.replace("_", " ").strip()


def _figure(height: float, title: str, about: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    plain = {"parse_math": False, "va": "baseline", "ha": "left"}  # a run's name may hold any character
    figure.text(0.12 / WIDTH, 1 - 0.27 / height, title, fontsize=12, fontweight="bold", color=INK, **plain)
    figure.text(0.12 / WIDTH, 1 - 0.48 / height, about, fontsize=9, color=FAINT, **plain)
    return figure


def _panel(figure: Figure, bottom: float, height: float, sharex: Axes | None = None) -> Axes:
    whole = figure.get_figheight()
    panel = figure.add_axes((LEFT / WIDTH, bottom / whole, PANEL / WIDTH, height / whole), sharex=sharex)
    _plain(panel)
    panel.grid(axis="y", color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    return panel


def _caption(axes: Axes, text: str) -> None:
    """What the y axis shows, above it, where tick labels of any width leave it room."""
    axes.set_title(text, loc="left", fontsize=10, color=INK, pad=6)


def _plain(axes: Axes) -> None:
    """No box; ticks and labels of one size and colour; large counts as 1.5 k."""
    from matplotlib.ticker import EngFormatter

    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    axes.tick_params(labelsize=9, color=FAINT, labelcolor=INK, length=3)
    axes.xaxis.label.set(fontsize=10, color=INK)
    axes.yaxis.label.set(fontsize=10, color=INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


def _queries_above(axes: Axes, steps: np.ndarray, counts: np.ndarray) -> None:
    """A second x axis on top: the step at which the count of teacher queries reached each round number."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    start, end = axes.get_xlim()
    low, high = np.interp((start, end), steps, counts)
    ticks: dict[float, str] = {}
    for count in MaxNLocator(8, steps=(1, 2, 5, 10)).tick_values(low, high):
        place = float(np.interp(count, counts, steps))
        if low <= count <= high and all(place - other > 0.08 * (end - start) for other in ticks):
            ticks[place] = EngFormatter(sep=" ")(count)
    above = axes.twiny()
    _plain(above)
    above.set_xlim(start, end)
    above.set_xticks(list(ticks), list(ticks.values()))
    above.set_xlabel("teacher queries so far")


def _names(axes: Axes, entries: Mapping[str, str]) -> None:
    """A legend to the right, in the order in which the bands lie, the lowest last."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=hue, label=name) for name, hue in entries.items()][::-1]
    place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.03), "borderaxespad": 0.0}
    axes.legend(handles=handles, frameon=False, fontsize=9, labelcolor=INK, handlelength=1.0, **place)


def _end_labels(axes: Axes, entries: Sequence[tuple[float, str, str]]) -> None:
    """A name to the right of each line's last value (value, name, colour), moved apart where they would overlap."""
    if not entries:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    entries = sorted(entries)
    ends = [(value - low) / (high - low) for value, _, _ in entries]
    gap = 0.17 * DPI / axes.bbox.height  # one line of 9 points
    for end, place, (_, name, hue) in zip(ends, _apart(ends, gap), entries, strict=True):
        where = {"transform": axes.transAxes, "clip_on": False}
        axes.plot((1.0, 1.022, 1.045), (end, place, place), color=hue, linewidth=1.8, **where)
        axes.text(1.053, place, name, va="center", fontsize=9, color=INK, parse_math=False, **where)


def _apart(ends: Sequence[float], gap: float) -> np.ndarray:
    """Ascending places near the ascending `ends` (shares of a panel's height), `gap` apart or more, within the panel."""
    ranks = gap * np.arange(len(ends))
    free = np.array(ends) - ranks
    up, down = np.maximum.accumulate(free), np.minimum.accumulate(free[::-1])[::-1]
    return np.clip((up + down) / 2, 0, max(0.0, 1 - ranks[-1])) + ranks


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    assert isinstance(figure.canvas, FigureCanvasAgg)
    stream = io.BytesIO()
    figure.canvas.print_png(stream, metadata={"Software": None})  # the version would change the bytes
    return stream.getvalue()
