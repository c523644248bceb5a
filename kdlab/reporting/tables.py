"""The table of one task in a report: a row per group with its costs, its marks and the published numbers.

Numbers only; `kdlab.reporting.page` and `kdlab.reporting.figures` render them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdlab.errors import UserError
from kdlab.plotting.run_tables import number_in, rows_of
from kdlab.reporting import paper_arms, papers
from kdlab.reporting.baselines import full_data_counterpart, random_counterpart
from kdlab.reporting.comparability import differing
from kdlab.reporting.comparison import Comparison, ComparisonLine
from kdlab.reporting.comparison_text import numbers
from kdlab.reporting.papers import PublishedNumber
from kdlab.reporting.seed_groups import Group, Run
from kdlab.runs.closing import costs
from kdlab.runs.closing.question import QUESTION
from kdlab.runs.closing.scores import is_saving

BEST, WORST, BELOW = "best", "worst", "worse than random"
GAP = 0.5  # evaluations that far apart, as a share of the cost, are not interpolated


@dataclass(frozen=True)
class CostCells:
    """A cost of a group, mean over seeds, alone and with preparation (`total`), and how many times less each is than that
    of distillation on all data. None: not known; `measured`: False where the total is a lower bound."""

    value: float | None
    gain: float | None
    total: float | None
    total_gain: float | None
    measured: bool


@dataclass
class TableRow:
    """A group. `same_cost`: the score that full data had reached for as many FLOPs, by the evaluations of a full-data run;
    `same_total`: for as many with the preparation of both."""

    number: int
    line: ComparisonLine
    mean: float
    std: float | None
    best: tuple[float, int]  # and its seed
    worst: tuple[float, int]
    queries: CostCells
    flops: CostCells
    seconds: CostCells
    marks: list[str] = field(default_factory=list)
    same_cost: float | None = None
    same_total: float | None = None
    published: list[PublishedNumber] = field(default_factory=list)

    @property
    def group(self) -> Group:
        """The group of the row."""
        return self.line.group

    @property
    def name(self) -> str:
        """Name of the group."""
        return self.group.name

    @property
    def title(self) -> str:
        """The settings of the group in short: the selection by its value alone ("adads, ratio 0.1")."""
        settings = self.group.settings
        short = ", ".join(value if label == "select" else f"{label} {value}" for label, value in settings.items())
        return f"{short} [{self.group.collapsed}]" if self.group.collapsed else short

    @property
    def ratio(self) -> float:
        """Share of the rows that the group selects."""
        return self.group.one.ratio

    @property
    def taught(self) -> bool:
        """True if the group has a teacher, whether that or a cache answered."""
        return self.group.one.taught


@dataclass(frozen=True)
class Evaluation:
    """The metric at an optimizer step of a run, with the teacher queries and FLOPs so far; NaN where they are not known."""

    step: float
    value: float
    queries: float
    flops: float


@dataclass
class TaskTable:
    """The rows of a task, all data first, then by falling ratio, the best first; and what they are read against.

    `curves`: the evaluations along the way of each run, by its folder, in the order of their steps. `scores`: as how many
    scores the task counts in a mean over tasks.
    """

    comparison: Comparison
    rows: list[TableRow]
    references: dict[str, tuple[float, float]]  # least and largest score of the teacher, the majority class, ...
    published: list[PublishedNumber]
    curves: dict[Path, list[Evaluation]] = field(default_factory=dict)
    scores: int = 1

    @property
    def runs(self) -> list[Run]:
        """All runs of the table."""
        return [run for row in self.rows for run in row.group.runs.values()]


def task_table(comparison: Comparison, paper: str | None, notify: Callable[[str], None]) -> TaskTable:
    """The table of one task; `notify` receives a message for each metrics.csv that cannot be read."""
    groups = [line.group for line in comparison.lines]
    order = sorted(comparison.lines, key=lambda line: (-line.group.one.ratio, _rank(comparison, line)))
    rows = [_row(comparison, number, line) for number, line in enumerate(order, 1)]
    curves = {run.folder: curve(run, comparison.metric, notify) for row in rows for run in row.group.runs.values()}
    for row in rows:
        whole = full_data_counterpart(row.group, groups)
        if whole is not None:
            row.same_cost, row.same_total = _full_data(whole, curves, row.group)
        row.published = paper_arms.numbers_beside(row.group.one, paper) if paper else []
    _mark(comparison, rows)
    printed = papers.numbers_of_task(comparison.task, paper) if paper else []
    scores = 1 if paper in papers.MNLI_ONCE else max((_dev_sets(row.group.one) for row in rows), default=1)
    return TaskTable(comparison, rows, _references(rows, comparison.metric), printed, curves, scores)


def comparable(row: TableRow, rows: Sequence[TableRow], across: Sequence[str] = QUESTION) -> list[TableRow]:
    """The rows with a teacher at a row's ratio that agree with it in all settings but those in question; itself too."""
    return [
        other
        for other in rows
        if other.group.one.chosen == row.group.one.chosen
        and other.taught
        and not differing(row.group, other.group, across)
    ]


def _mark(comparison: Comparison, rows: Sequence[TableRow]) -> None:
    """Mark the rows whose difference from their baseline is more than chance: the best and the worst of those comparable,
    and those below random selection; a baseline is never the worst, and the best where others are below it. Runs that have
    collapsed are a mark too."""
    baselines = {id(row.line.baseline) for row in rows if row.line.baseline is not None and not row.line.unlike}
    for row in rows:
        row.marks += [row.group.collapsed] if row.group.collapsed else []
        peers = comparable(row, rows, comparison.across) if row.taught else []
        if not peers:
            continue
        tests = [other for other in peers if other.line.sure and row.group in (other.group, other.line.baseline)]
        best, worst = peers[0].mean, peers[-1].mean  # the best stand first; equal ones share the mark
        if tests and best != worst and row.mean == best:
            row.marks.append(BEST)
        if row.line.sure and best != worst and row.mean == worst and id(row.group) not in baselines:
            row.marks.append(WORST)
        rival = random_counterpart(row.group, [other.group for other in rows])
        if row.line.sure and rival is row.line.baseline is not None and _below(comparison, row):
            row.marks.append(BELOW)


def _below(comparison: Comparison, row: TableRow) -> bool:
    """True if a row is worse than its baseline by the difference that was tested."""
    return row.line.found is not None and better(comparison, 0.0, row.line.found.difference)


def _dev_sets(run: Run) -> int:
    """Dev sets that a run's student was scored on: 2 of MNLI, matched and mismatched."""
    return 1 + any(name.endswith("_mismatched") for name in run.result["metrics"]["student"])


def better(comparison: Comparison, one: float, other: float) -> bool:
    """True if `one` is a better value of the metric than `other`."""
    return one < other if comparison.lower else one > other


def at_cost(curves: Iterable[Sequence[Evaluation]], flops: float) -> float | None:
    """The metric that runs had reached for so many FLOPs: the mean over those of them that say.

    By their evaluations along the way, between the two nearest in proportion; None where no run has two that are close
    enough (`GAP`). A run that was meant to be shorter would have lowered its learning rate earlier.
    """
    each = [sorted((one.flops, one.value) for one in points if math.isfinite(one.flops)) for points in curves]
    known = [value for points in each if (value := _between(points, flops)) is not None]
    return statistics.fmean(known) if known else None


def curve(run: Run, metric: str, notify: Callable[[str], None]) -> list[Evaluation]:
    """A run's evaluations along the way, by their steps; none where its metrics.csv has none or is damaged."""
    try:
        rows = rows_of(run.folder / "metrics.csv", ("step",))
    except UserError as error:
        notify(f"not read: {error}")
        return []
    names = ("step", f"heldout_{metric}", "teacher_queries", "flops")
    evaluations = (Evaluation(*(number_in(row, name) for name in names)) for row in rows)
    return [one for one in evaluations if math.isfinite(one.value)]


def overview(tables: Sequence[TaskTable]) -> tuple[list[str], list[tuple[str, list[TableRow | None], float | None]]]:
    """Tasks, and a line a name that groups of several tasks bear: its row of each task, and the mean over all tasks
    where all have it, in which a task counts `TaskTable.scores` times. Nothing for one task, or for tasks whose metrics
    cannot be put together."""
    if len(tables) < 2 or len({one.comparison.metric for one in tables}) > 1:
        return [], []
    by = [{row.group.plain_name: row for row in one.rows} for one in tables]
    lines = []
    for name in dict.fromkeys(row.group.plain_name for one in tables for row in one.rows):
        cells = [rows.get(name) for rows in by]
        whole = [(cell.mean, one.scores) for cell, one in zip(cells, tables, strict=True) if cell is not None]
        if len(whole) > 1:
            lines.append(
                (name, cells, statistics.fmean(*zip(*whole, strict=True)) if len(whole) == len(tables) else None)
            )
    return [one.comparison.task for one in tables], lines


def _full_data(
    whole: Group, curves: Mapping[Path, Sequence[Evaluation]], group: Group
) -> tuple[float | None, float | None]:
    """The metric of a full-data group at the FLOPs of another group: of the runs alone, and with the preparation of both."""
    alone = at_cost([curves[run.folder] for run in whole.runs.values()], group.own.flops)
    before = {run.folder: run.total.flops - run.own.flops for run in whole.runs.values()}
    later = [[replace(one, flops=one.flops + start) for one in curves[folder]] for folder, start in before.items()]
    return alone, at_cost(later, group.total.flops) if whole.total.measured and group.total.measured else None


def _rank(comparison: Comparison, line: ComparisonLine) -> float:
    mean = statistics.fmean(line.values.values())
    return mean if comparison.lower else -mean


def _row(comparison: Comparison, number: int, line: ComparisonLine) -> TableRow:
    cells = numbers(comparison, line)
    own, total = line.group.own, line.group.total

    def cost(name: str, gain: str) -> CostCells:
        return CostCells(
            getattr(own, name),
            _gain(line.group, gain, False),
            getattr(total, name),
            _gain(line.group, gain, True),
            total.measured,
        )

    return TableRow(
        number=number,
        line=line,
        mean=cells["mean"],
        std=cells["std"],
        best=(cells["best"], cells["best_seed"]),
        worst=(cells["worst"], cells["worst_seed"]),
        queries=cost("queries", "queries"),
        flops=cost("flops", "flops"),
        seconds=cost("seconds", "wallclock"),
    )


def _gain(group: Group, name: str, with_preparation: bool) -> float | None:
    learnt = [run.result for run in group.runs.values() if is_saving(run.result)]
    gains = [costs.gains(result, with_preparation)[name] for result in learnt]
    known = [gain for gain in gains if gain is not None]
    return statistics.fmean(known) if known else None


def _references(rows: Sequence[TableRow], metric: str) -> dict[str, tuple[float, float]]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for run in row.group.runs.values():
            for name, scores in run.result["metrics"].items():
                value = scores.get(metric) if name != "student" and isinstance(scores, Mapping) else None
                if isinstance(value, int | float) and math.isfinite(value):
                    values.setdefault(str(name), []).append(float(value))
    return {name: (min(scores), max(scores)) for name, scores in values.items()}


def _between(points: Sequence[tuple[float, float]], at: float) -> float | None:
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 <= at <= x1 and x1 - x0 <= GAP * at:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return None
