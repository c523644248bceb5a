"""Draw the figures of one run from its tables: the schedule of the selector, its Q values, the student's scores.

`draw` reads the tables and `result.json` of a run folder, finished or not, and writes `figures/`, those of teachers and
knowledge (`kdlab.plotting.teaching_figures`) with them.
The same tables give the same bytes on the same machine. Every strategy has one colour, in all figures of all runs.
"""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import UserError
from kdlab.plotting import files, style, teaching_figures
from kdlab.plotting.colours import FAINT, colours
from kdlab.plotting.metrics import metric_scale, metric_words, scored_by
from kdlab.plotting.run_tables import (
    Row,
    Shares,
    arms_in,
    number_in,
    points_of,
    queries_so_far,
    rows_of,
    shares_csv,
    window_shares,
)
from kdlab.runtime.progress import track
from kdlab.storage.files import atomic_write_bytes, atomic_write_text, user_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOWS = 24  # of the schedule, at most
PER_WINDOW = 3  # decisions of the selector in each window, at least
GROUPS = {"adopt": "adopt", "knowledge": "knowledge", "weigh": "policy", "select": "select"}  # keys in result.json
SCORES = ("loss", "accuracy", "score")  # columns heldout_... of metrics.csv that are drawn
STRIP = 400  # changes of arm that the strip shows, at most: more would be a grey blur


def draw(
    run: Path, result: Mapping[str, Any] | None = None, notify: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Draw the figures for which the run folder `run` has data, write each atomically, and return the files.

    `result`: the content of result.json, where that is not written yet; `notify` receives one line on figures that are
    not drawn, with the reasons.
    figures/schedule.png and schedule.csv (its data) if the selector took a decision, q_values.png if its policy learns,
    heldout.png if the student was evaluated, knowledge.png if rules decided on teachers or knowledge, ksm.png if a
    trained module weighs the terms. UserError if a table is damaged.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run} is no run folder: figures are drawn from the tables in it")
    selector = [row for row in rows_of(run / "selector.csv", ("step", "arm")) if row["arm"]]
    metrics = rows_of(run / "metrics.csv", ("step",))
    result = _result(run / "result.json") if result is None else result
    knowledge = rows_of(run / "knowledge.csv", ("step",))
    phases = rows_of(run / teaching_figures.LOG, ("episode", "step"))
    total = _total_steps(result, [*selector, *knowledge], metrics)
    selector = [row for row in selector if float(row["step"]) < total]
    queries = queries_so_far([*selector, *metrics])
    colour = colours(arms_in(selector))
    about = _about(result)

    texts: dict[str, str] = {}
    drawn: dict[str, Figure] = {}
    if selector:
        windows = max(1, min(WINDOWS, len(selector) // PER_WINDOW))
        shares = window_shares(selector, total, windows)
        texts["schedule.csv"] = shares_csv(shares)
        drawn["schedule.png"] = _schedule(selector, shares, queries, colour, about)
    if any(points_of(selector, column) for column in (selector[0] if selector else ()) if column.startswith("q_")):
        drawn["q_values.png"] = _q_values(selector, total, colour, about)
    if any(points_of(metrics, column) for column in (f"heldout_{name}" for name in SCORES)):
        drawn["heldout.png"] = _heldout(metrics, result, about)
    taught = teaching_figures.knowledge(knowledge, total, _choices(result))
    if taught is not None:
        drawn["knowledge.png"] = taught
    module = teaching_figures.phases(phases, _choices(result))
    if module is not None:
        drawn["ksm.png"] = module
    if missing := _missing(drawn, result):
        notify(f"figures not drawn: {'; '.join(missing)}")
    if not drawn:
        return []

    folder = run / "figures"
    with user_errors("making figures", run):
        folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        atomic_write_text(folder / name, text)
    for name, figure in track(drawn.items(), "drawing", "figures"):
        atomic_write_bytes(folder / name, files.png(figure))
    return [folder / name for name in (*drawn, *texts)]


def _missing(drawn: Mapping[str, Figure], result: Mapping[str, Any]) -> list[str]:
    """The figures of selection and scores that are not among those `drawn`, each with the reason."""
    select = result.get("select")
    every = isinstance(select, Mapping) and select.get("ratio") == 1
    found = []
    if "schedule.png" not in drawn:
        why = "select.ratio=1 selects every row" if every else "no strategy chose rows"
        found.append(f"schedule and Q values ({why})")
    elif "q_values.png" not in drawn:
        found.append("Q values (the selection learns none)")
    if "heldout.png" not in drawn:
        found.append("scores along the training (metrics.csv has no evaluation)")
    return found


# ---- reading the tables


def _result(path: Path) -> dict[str, Any]:
    """result.json, or {} if it cannot be read: figures only take their titles from it."""
    try:
        result = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def _total_steps(result: Mapping[str, Any], selector: Sequence[Row], metrics: Sequence[Row]) -> float:
    """The end of the x axis: the run's last step, or the end of the tables of an unfinished run."""
    steps = result.get("steps")
    if isinstance(steps, int | float) and 0 < steps < 1e15:
        return float(steps)
    return max([float(row["step"]) for row in metrics] + [float(row["step"]) + 1 for row in selector], default=0.0)


def _about(result: Mapping[str, Any]) -> str:
    """A subtitle from the name, data, select, seed and scale of result.json."""
    select = result.get("select")
    select = select if isinstance(select, dict) else {}
    words = [str(result["name"])] if result.get("name") else []
    words += _rows_and_seed(result)
    if select.get("name"):
        words.append(f"select={select['name']}")
    if isinstance(select.get("ratio"), int | float) and 0 < select["ratio"] <= 1:
        words.append(f"{100 * select['ratio']:g} % of the rows query the teacher")
    if result.get("scale"):
        words.append(f"scale={result['scale']}")
    return "   ·   ".join(words)


def _rows_and_seed(result: Mapping[str, Any]) -> list[str]:
    """Words of a subtitle: data set, metric and seed."""
    data = result.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    seed = [f"seed {result['seed']}"] if "seed" in result else []
    return [word for word in (str(name or "")[:40], metric_words(result)[:40], *seed) if word]


def _choices(result: Mapping[str, Any]) -> str:
    """A subtitle from the choices of result.json: adopt, knowledge, policy, select, and rewards from dev."""
    found = {group: result.get(key) for group, key in GROUPS.items()}
    names = {group: one.get("name") if isinstance(one, dict) else one for group, one in found.items()}
    words = [f"{group}={name}" for group, name in names.items() if name]
    select, weigh = found["select"], found["weigh"]
    ratio = select.get("ratio") if isinstance(select, dict) else None
    words = [*_rows_and_seed(result), *words]
    words += [f"select.ratio={ratio:g}"] if isinstance(ratio, int | float) and ratio < 1 else []
    if isinstance(weigh, dict) and weigh.get("reward_data") == "dev":
        words = ["rewarded on dev", *words]
    return textwrap.shorten(" · ".join(words), 115, placeholder=" …")


# ---- figures


def _schedule(rows: Sequence[Row], shares: Shares, queries: Any, colour: Mapping[str, str], about: str) -> Figure:
    figure = style.canvas(4.4, "Which strategy chose the data: share of the training steps", about)
    area = style.panel(figure, 0.92, 2.35)
    edges = shares.edges
    floor = np.zeros(len(edges))
    for arm, share in shares.of.items():
        top = floor + 100 * np.append(share, share[-1])
        area.fill_between(edges, floor, top, step="post", facecolor=colour[arm], edgecolor="white", linewidth=0.6)
        floor = top
    area.set_xlim(edges[0], edges[-1])
    area.set_ylim(0, 100)
    area.set_ylabel("share of steps (%)")
    style.legend(
        area, {f"{style.shown(arm)}  {100 * share.mean():.0f} %": colour[arm] for arm, share in shares.of.items()}
    )
    if queries is not None:
        _queries_above(area, *queries)

    starts = [i for i, row in enumerate(rows) if i == 0 or row["arm"] != rows[i - 1]["arm"]]
    if len(starts) > STRIP:
        area.set_xlabel("training step")
        return figure
    area.tick_params(labelbottom=False)
    strip = style.panel(figure, 0.54, 0.22, sharex=area)
    bounds = [float(rows[i]["step"]) for i in starts] + [edges[-1]]
    spans = [(start, end - start) for start, end in itertools.pairwise(bounds)]
    strip.broken_barh(spans, (0, 1), facecolors=[colour[rows[i]["arm"]] for i in starts], linewidth=0)
    strip.set_ylim(0, 1)
    strip.set_yticks([])
    strip.text(1.02, 0.5, "every single choice", transform=strip.transAxes, va="center", fontsize=9, color=FAINT)
    strip.set_xlabel("training step")
    return figure


def _q_values(rows: Sequence[Row], total: float, colour: Mapping[str, str], about: str) -> Figure:
    figure = style.canvas(5.2, "What the selector has learnt: value Q of each strategy", about)
    values = style.panel(figure, 2.1, 2.2)
    ends = []
    for arm in arms_in(rows):
        points = points_of(rows, f"q_{arm}")
        if points:
            steps, q = zip(*[*points, (total, points[-1][1])], strict=True)
            values.plot(steps, q, drawstyle="steps-post", color=colour[arm], linewidth=1.8)
            ends.append((q[-1], style.shown(arm), colour[arm]))
    start = float(rows[0]["step"])
    values.set_xlim(start, total)
    style.caption(values, "Q (in units of the reward)")
    values.tick_params(labelbottom=False)
    style.end_labels(values, ends)

    rewards = style.panel(figure, 0.54, 1.2, sharex=values)
    earned = [
        (float(row["step"]), number_in(row, "reward"), colour[before["arm"]])
        for before, row in itertools.pairwise(rows)
        if math.isfinite(number_in(row, "reward"))
    ]
    width = min(3.0, max(0.5, 0.5 * 72 * style.PANEL / len(rows)))
    if earned:
        at, heights, hues = zip(*earned, strict=True)
        rewards.vlines(at, 0, heights, colors=hues, linewidth=width)
    rewards.axhline(0, color=FAINT, linewidth=0.8)
    style.caption(rewards, "reward (nats per observation)")
    rewards.set_xlabel("training step")
    note = "in the colour of the\nstrategy that earned it" if earned else "none yet"
    rewards.text(1.02, 0.5, note, transform=rewards.transAxes, va="center", fontsize=9, color=FAINT)
    return figure


def _heldout(rows: Sequence[Row], result: Mapping[str, Any], about: str) -> Figure:
    evaluated = [row for row in rows if any(math.isfinite(number_in(row, f"heldout_{name}")) for name in SCORES)]
    asked = queries_so_far(evaluated) is not None
    against = "teacher_queries" if asked else "step"
    task = any(points_of(rows, "heldout_score"))
    where = "the dev set" if task else "held-out text"
    loss = "loss (nats a row; squared error in regression)" if task else "masked-LM loss (nats per masked token)"
    good = metric_scale("score", scored_by(result)).unit if task else "masked-LM accuracy (% of masked tokens)"
    shown = {
        "loss": (loss, 1, "{:.2f}"),
        "score" if task else "accuracy": (good, 100, "{:.1f}" if task else "{:.1f} %"),
    }
    shown = {name: one for name, one in shown.items() if points_of(rows, f"heldout_{name}")}
    figure = style.canvas(
        1.04 + 2.18 * len(shown), f"How good the student is on {where}, by {against.replace('_', ' ')}", about
    )
    lowest, right = None, 0.0
    for place, (name, (title, scale, form)) in enumerate(reversed(shown.items())):
        panel = style.panel(figure, 0.54 + 2.18 * place, 1.75, sharex=lowest)
        if lowest is None:
            lowest = panel
            panel.set_xlabel("teacher queries so far" if asked else "training step")
        else:
            panel.tick_params(labelbottom=False)
        points = [(number_in(row, against), scale * number_in(row, f"heldout_{name}")) for row in rows]
        x, y = np.array([point for point in points if np.isfinite(point).all()]).reshape(-1, 2).T.tolist()
        panel.plot(
            x, y, color=style.STUDENT, linewidth=1.8, marker="o" if len(x) <= 60 else "", markersize=4, clip_on=False
        )
        right = max([right, *x])
        ends = [(y[-1], f"student {form.format(y[-1])}", style.STUDENT)] if y else []
        for other, at in _levels(result, name).items():
            panel.axhline(scale * at, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
            ends.append((scale * at, f"{other} {form.format(scale * at)}", FAINT))
        style.end_labels(panel, ends)
        style.caption(panel, title)
    assert lowest is not None  # a figure is drawn where a column has numbers
    lowest.set_xlim(0, right or 1)
    return figure


def _levels(result: Mapping[str, Any], name: str) -> dict[str, float]:
    """Scores `name` of the teachers and baselines, by title: reference lines for the student's."""
    metrics = result.get("metrics")
    found = {}
    for other, scores in metrics.items() if isinstance(metrics, Mapping) else ():
        value = scores.get(name) if isinstance(scores, Mapping) else None
        if other != "student" and isinstance(value, int | float) and math.isfinite(value):
            found[str(other)] = float(value)
    return found


def _queries_above(axes: Axes, steps: np.ndarray, counts: np.ndarray) -> None:
    """Add a second x axis on top: the steps at which the teacher queries reached round numbers."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    start, end = axes.get_xlim()
    low, high = np.interp((start, end), steps, counts)
    ticks: dict[float, str] = {}
    for count in MaxNLocator(8, steps=(1, 2, 5, 10)).tick_values(low, high):
        place = float(np.interp(count, counts, steps))
        if low <= count <= high and all(place - other > 0.08 * (end - start) for other in ticks):
            ticks[place] = EngFormatter(sep=" ")(count)
    above = axes.twiny()
    style.plain(above)
    above.set_xlim(start, end)
    above.set_xticks(list(ticks), list(ticks.values()))
    above.set_xlabel("teacher queries so far")
