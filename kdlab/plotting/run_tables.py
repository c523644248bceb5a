"""Read the tables of a run folder for figures: sorted rows, the points of a column, the shares of arms."""

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
from kdlab.plotting.colours import COLOURS
from kdlab.storage.tables import read

Row = Mapping[str, str]


def rows_of(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table, sorted by step; [] without a table. UserError if one of the columns `needed` is missing, or a
    step is not a number."""
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
    """Share of the steps of each window in which each arm was in force: `edges` (W + 1,) in steps, `of[arm]` (W,), sums 1."""

    edges: np.ndarray
    of: dict[str, np.ndarray]


def window_shares(rows: Sequence[Row], total_steps: float, windows: int) -> Shares:
    """Shares of the arms in `windows` windows of equal length, from the first row's step to `total_steps`.

    `rows` of selector.csv (`step`, `arm`, `q_<arm>`), in order: an arm is in force from its step until the next row's, the
    last one until the end, so each step counts once, whatever the number of decisions in a window. The arms are those
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
        until = np.append(0.0, np.cumsum(served))  # steps in force before each bound; linear in between
        places, first = np.unique(bounds, return_index=True)  # of rows with the same step the last one counts
        of[name] = np.diff(np.interp(edges, places, until[first])) / np.diff(edges)
    return Shares(edges, of)


def queries_so_far(rows: Iterable[Row]) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps (ascending) and teacher queries so far at each; None without teacher queries."""
    at: dict[float, float] = {}
    for step, count in points_of(rows, "teacher_queries"):
        at[step] = max(count, at.get(step, 0.0))
    steps = np.array(sorted(at))
    counts = np.maximum.accumulate([at[step] for step in steps]) if at else np.zeros(0)
    return (steps, counts) if counts.any() else None


def points_of(rows: Iterable[Row], column: str) -> list[tuple[float, float]]:
    """(step, value) of the rows with a finite number in the column."""
    pairs = ((float(row["step"]), number_in(row, column)) for row in rows)
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def number_in(row: Row, column: str) -> float:
    """The number in a column, NaN if there is none."""
    try:
        return float(row.get(column) or "nan")
    except ValueError:
        return math.nan


def arms_in(rows: Sequence[Row]) -> list[str]:
    """All arms, in the same order for all runs: those of `colours.COLOURS`, then others by name."""
    valued = {column[2:] for column in (rows[0] if rows else ()) if column.startswith("q_")}
    found = valued | {row["arm"] for row in rows}
    return [arm for arm in COLOURS if arm in found] + sorted(found - COLOURS.keys())


def shares_csv(shares: Shares) -> str:
    """The shares as CSV, one line per window."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["from_step", "to_step", *(f"share_{arm}" for arm in shares.of)])
    for window, (start, end) in enumerate(itertools.pairwise(shares.edges.tolist())):
        writer.writerow([start, end, *(float(share[window]) for share in shares.of.values())])
    return stream.getvalue()
