"""What the tables of a run folder say, as figures need it: rows in order, the points of a column, how long each arm served."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlab.errors import UserError
from kdlab.plotting import style
from kdlab.storage.tables import read

Row = Mapping[str, str]


def rows_of(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table by their step; none where there is no table. UserError where one of the columns `needed` is
    missing, or a step is no number."""
    if not path.exists() or path.stat().st_size == 0:
        return []
    rows = read(path)
    for number, row in enumerate(rows, 2):
        for column in needed:
            if column not in row:
                raise UserError(f"{path} has no column {column}; found {', '.join(row)}")
        if not math.isfinite(number_in(row, "step")):
            raise UserError(f"{path} line {number}: step must be a number, found {row['step']!r}")
    return sorted(rows, key=lambda row: float(row["step"]))


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
    for name in arms_in(rows):
        served = np.diff(bounds) * [arm == name for _, arm in taken]
        until = np.append(0.0, np.cumsum(served))  # steps served before each bound; in between it grows linearly
        places, first = np.unique(bounds, return_index=True)  # rows of one step: the last one holds, others serve 0
        of[name] = np.diff(np.interp(edges, places, until[first])) / np.diff(edges)
    return Shares(edges, of)


def queries_so_far(rows: Iterable[Row]) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps (ascending) and teacher queries so far at each; None where no teacher was asked."""
    at: dict[float, float] = {}
    for step, count in points_of(rows, "teacher_queries"):
        at[step] = max(count, at.get(step, 0.0))
    steps = np.array(sorted(at))
    counts = np.maximum.accumulate([at[step] for step in steps]) if at else np.zeros(0)
    return (steps, counts) if counts.any() else None


def points_of(rows: Iterable[Row], column: str) -> list[tuple[float, float]]:
    """(step, value) wherever the column holds a finite number."""
    pairs = ((float(row["step"]), number_in(row, column)) for row in rows)
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def number_in(row: Row, column: str) -> float:
    """The number in a column, NaN where there is none."""
    try:
        return float(row.get(column) or "nan")
    except ValueError:
        return math.nan


def arms_in(rows: Sequence[Row]) -> list[str]:
    """All arms, in an order that is the same in all runs: the package's own, then others by name."""
    learnt = {column[2:] for column in (rows[0] if rows else ()) if column.startswith("q_")}
    found = learnt | {row["arm"] for row in rows}
    return [arm for arm in style.COLOURS if arm in found] + sorted(found - style.COLOURS.keys())


def shares_csv(shares: Shares) -> str:
    """A table of shares: a line a window."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["from_step", "to_step", *(f"share_{arm}" for arm in shares.of)])
    for window, (start, end) in enumerate(itertools.pairwise(shares.edges.tolist())):
        writer.writerow([start, end, *(float(share[window]) for share in shares.of.values())])
    return stream.getvalue()
