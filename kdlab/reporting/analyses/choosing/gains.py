"""Gains of selection over random rows, seed by seed: at as many teacher queries, and at the same total cost.

The price of the teacher may be another than in the runs (`teacher_ratio`): costs are counted anew, scores stay.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdlab.reporting.analyses.choosing.runs import StudyRun
from kdlab.reporting.statistics import Paired, holm, paired

SAME = 0.05  # relative difference up to which two numbers of queries are equal
Cell = tuple[str, str, float, int, int]  # task, method, ratio, steps, batch: runs that differ in the seed alone
Line = tuple[str, str, float, int, int]  # task, footing, ratio, batch, seed: runs that differ in their steps alone


@dataclass(frozen=True)
class MethodRow:
    """A method on a task, over seeds; differences are in points (score times 100), of the seeds both have.

    `share` of the score of all data, as many steps; `collapsed`: number of seeds at the majority class or below it.
    `equal_queries` and `equal_cost`: against random rows; None where no random run fits. `of_all`: against all data.
    """

    cell: Cell
    seeds: int
    mean: float
    std: float | None
    collapsed: int
    queries: float
    flops: float
    seconds: float | None
    share: float | None
    equal_queries: Paired | None
    equal_cost: Paired | None
    all_equal_cost: Paired | None
    holm_queries: float | None = None
    holm_cost: float | None = None


def cells(runs: Iterable[StudyRun]) -> dict[Cell, list[StudyRun]]:
    """Runs by task, method, ratio, steps and batch, in the order of their first ones."""
    found: dict[Cell, list[StudyRun]] = {}
    for run in runs:
        name = run.method if run.taught or run.ratio < 1 else "no KD"
        found.setdefault((run.task, name, run.ratio, run.steps, run.batch), []).append(run)
    return found


def score_at(curve: Sequence[tuple[float, float]], cost: float) -> float | None:
    """The score at a cost, between the two neighbours in cost of (cost, score) points, linear in log cost.

    None outside their costs (by more than 5 %): nothing is extrapolated.
    """
    points = sorted(curve)
    if not points or cost < points[0][0] * (1 - SAME) or cost > points[-1][0] * (1 + SAME):
        return None
    cost = min(max(cost, points[0][0]), points[-1][0])
    for (low, before), (high, after) in zip(points, points[1:], strict=False):
        if low <= cost <= high:
            part = 0.0 if high == low else math.log(cost / low) / math.log(high / low)
            return before + part * (after - before)
    return points[-1][1]


def curves(
    runs: Iterable[StudyRun], select: str, teacher_ratio: float | None = None
) -> dict[Line, list[tuple[float, float]]]:
    """(cost, score) points of the runs of one selection without further settings, by task, footing, ratio, batch and seed;
    of all data the footing is its start and knowledge."""
    found: dict[Line, list[tuple[float, float]]] = {}
    for run in runs:
        if run.select == select and not run.settings and run.taught:
            found.setdefault(_line(run, run.ratio), []).append((run.cost(teacher_ratio), run.score))
    return found


def _line(run: StudyRun, ratio: float) -> Line:
    """The line of random rows at `ratio`, or of all data (1), that a run is compared with, or lies on."""
    return run.task, " ".join(run.taught_as) if ratio == 1 else run.footing, ratio, run.batch, run.seed


def gains_at_cost(
    members: Sequence[StudyRun],
    against: Mapping[Line, Sequence[tuple[float, float]]],
    ratio: float | None,
    teacher_ratio: float | None = None,
) -> dict[int, float]:
    """Points by which each seed's run beats the curve of its seed at the run's own cost; `ratio`: of the curve (None: its own)."""
    found = {}
    for run in members:
        curve = against.get(_line(run, run.ratio if ratio is None else ratio), [])
        base = score_at(curve, run.cost(teacher_ratio))
        if base is not None:
            found[run.seed] = 100 * (run.score - base)
    return found


def gains_at_queries(members: Sequence[StudyRun], runs: Iterable[StudyRun]) -> dict[int, float]:
    """Points by which each seed's run beats random rows of as many queries, at its own ratio."""
    found = {}
    pool = [run for run in runs if run.plain_random and run.taught]
    for run in members:
        near = [
            other
            for other in pool
            if (other.task, other.footing, other.ratio, other.batch, other.seed)
            == (run.task, run.footing, run.ratio, run.batch, run.seed)
            and abs(other.queries - run.queries) <= SAME * run.queries
        ]
        if near:
            best = min(near, key=lambda other: abs(other.queries - run.queries))
            found[run.seed] = 100 * (run.score - best.score)
    return found


def table(runs: Sequence[StudyRun]) -> list[MethodRow]:
    """A row for each task, method, ratio and number of steps; p values are Holm-adjusted over the tasks of a method."""
    random, whole = curves(runs, "random"), curves(runs, "all")
    found = []
    for cell, members in cells(runs).items():
        choosing = members[0].taught and members[0].ratio < 1 and not members[0].plain_random
        scores = [run.score for run in members]
        seconds = [run.seconds for run in members if run.seconds is not None]
        found.append(
            MethodRow(
                cell,
                len(members),
                100 * statistics.fmean(scores),
                100 * statistics.stdev(scores) if len(scores) > 1 else None,
                sum(run.collapsed() for run in members),
                statistics.fmean(run.queries for run in members),
                statistics.fmean(run.flops for run in members),
                statistics.fmean(seconds) if seconds else None,
                _share(members, runs),
                _tested(gains_at_queries(members, runs)) if choosing else None,
                _tested(gains_at_cost(members, random, None)) if choosing else None,
                _tested(gains_at_cost(members, whole, 1.0)) if members[0].taught and members[0].ratio < 1 else None,
            )
        )
    return _adjusted(found)


def _share(members: Sequence[StudyRun], runs: Iterable[StudyRun]) -> float | None:
    """Mean score over that of all data with the same seeds and steps (the most steps that there are); None without any."""
    whole = [
        r for r in runs
        if r.select == "all" and r.taught
        and (r.task, r.taught_as, r.batch) == (members[0].task, members[0].taught_as, members[0].batch)
    ]  # fmt: skip
    if not whole:
        return None
    steps = max(run.steps for run in whole)
    by_seed = {run.seed: run.score for run in whole if run.steps == steps}
    pairs = [(run.score, by_seed[run.seed]) for run in members if run.seed in by_seed]
    total = sum(base for _, base in pairs)
    return sum(score for score, _ in pairs) / total if total else None


def _tested(gains: Mapping[int, float]) -> Paired | None:
    values = list(gains.values())
    return paired(values, [0.0] * len(values)) if values else None


def _adjusted(rows: Sequence[MethodRow]) -> list[MethodRow]:
    """The rows with Holm's p values, adjusted over the tasks of one method and ratio."""
    from dataclasses import replace

    found = list(rows)
    for name, holm_name in (("equal_queries", "holm_queries"), ("equal_cost", "holm_cost")):
        families: dict[tuple[str, float], list[int]] = {}
        for place, row in enumerate(found):
            test = getattr(row, name)
            if test is not None and test.p is not None:
                families.setdefault(row.cell[1:3], []).append(place)
        for places in families.values():
            for place, p in zip(places, holm([getattr(found[i], name).p for i in places]), strict=True):
                found[place] = replace(found[place], **{holm_name: p})
    return found
