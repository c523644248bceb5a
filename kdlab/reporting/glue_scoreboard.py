"""Scores of many tasks as one table, beside those that AdaDS printed (Table 4): a column a task, and their average.

The one number of a task is GLUE's: the mean of its official metrics, times 100. MNLI has two, matched and mismatched,
which count as two columns, as in the papers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdlab.data.tasks.registry import Task
from kdlab.reporting.papers import numbers_with
from kdlab.storage.escaping import markdown_text

RESULTS = "glue.json"  # in a suite's folder: what the table was made of
TABLE4 = {"paper": "adads", "table": "4"}


@dataclass(frozen=True)
class ScoreboardColumn:
    """A column of the table: `suffix` is what the metrics of its dev split end in."""

    title: str
    task: Task
    suffix: str = ""


@dataclass
class ScoreboardLine:
    """A row of the table, in percent by column: means over seeds and, from two seeds on, standard deviations (n - 1).

    `average`: over the columns that `Scoreboard.averaged` names; None where one of them is missing.
    """

    name: str
    scores: dict[str, float]
    spread: dict[str, float] = field(default_factory=dict)
    average: float | None = None
    average_spread: float | None = None


@dataclass
class Scoreboard:
    """The table: `own` lines above `published` ones, columns by title, and which of them the average is over."""

    columns: list[str]
    averaged: list[str]
    own: list[ScoreboardLine]
    published: list[ScoreboardLine]

    @property
    def partly(self) -> bool:
        """True if the average is over fewer columns than the paper's."""
        return any(set(self.averaged) != set(line.scores) for line in self.published)


def columns_of(task: Task) -> list[ScoreboardColumn]:
    """A task's columns: one, for MNLI MNLI-m and MNLI-mm."""
    if len(task.glue) < 2:
        return [ScoreboardColumn(task.title, task)]
    return [ScoreboardColumn(Path(file).stem, task, split.removeprefix("test")) for split, file in task.glue.items()]


def percent(metrics: Mapping[str, float], column: ScoreboardColumn) -> float | None:
    """Score of a run in a column, in percent: the mean of the task's metrics on that split; None where one is missing."""
    values = [metrics.get(name + column.suffix) for name in column.task.shape.metrics]
    known = [value for value in values if value is not None]
    return 100 * statistics.fmean(known) if known and len(known) == len(values) else None


def board(runs: Mapping[str, Mapping[tuple[str, int], Mapping[str, float]]], tasks: Sequence[Task]) -> Scoreboard:
    """The table of `runs`: by name of the row, by (task, seed), the metrics of a finished run.

    The average is over the columns that AdaDS and the first row with any scores have; if AdaDS has none, over that row's.
    """
    columns = [column for task in tasks for column in columns_of(task)]
    lines = [_line(name, by_task_and_seed, columns) for name, by_task_and_seed in runs.items()]
    printed = _printed()
    known = set().union(*(line.scores for line in printed))
    first = next((line for line in lines if line.scores), None)
    had = [column.title for column in columns if first is not None and column.title in first.scores]
    averaged = [title for title in had if title in known] or had
    for line, by_task_and_seed in zip(lines, runs.values(), strict=True):
        line.average = _average(line.scores, averaged)
        seeds = [_average(scores, averaged) for scores in _by_seed(by_task_and_seed, columns).values()]
        whole = [value for value in seeds if value is not None]
        line.average_spread = statistics.stdev(whole) if len(whole) > 1 else None
    for line in printed:
        line.average = _average(line.scores, averaged)
    return Scoreboard([column.title for column in columns], averaged, lines, printed)


def _line(
    name: str, runs: Mapping[tuple[str, int], Mapping[str, float]], columns: Sequence[ScoreboardColumn]
) -> ScoreboardLine:
    scores, spread = {}, {}
    seeds = _by_seed(runs, columns).values()
    for column in columns:
        values = [one[column.title] for one in seeds if column.title in one]
        if values:
            scores[column.title] = statistics.fmean(values)
        if len(values) > 1:
            spread[column.title] = statistics.stdev(values)
    return ScoreboardLine(name, scores, spread)


def _by_seed(
    runs: Mapping[tuple[str, int], Mapping[str, float]], columns: Sequence[ScoreboardColumn]
) -> dict[int, dict[str, float]]:
    seeds: dict[int, dict[str, float]] = {}
    for (task, seed), metrics in runs.items():
        for column in columns:
            if column.task.name == task and (value := percent(metrics, column)) is not None:
                seeds.setdefault(seed, {})[column.title] = value
    return seeds


def _average(scores: Mapping[str, float], titles: Sequence[str]) -> float | None:
    values = [scores[title] for title in titles if title in scores]
    return statistics.fmean(values) if values and len(values) == len(titles) else None


def _printed() -> list[ScoreboardLine]:
    """The rows of AdaDS Table 4, without its own averages."""
    lines: dict[str, ScoreboardLine] = {}
    for row in numbers_with(**TABLE4):
        ratio = "" if row.ratio is None else f", ratio {row.ratio:g}"
        name = "teacher (BERT-base)" if row.method == "teacher" else f"{row.method}{ratio}"
        if row.task != "average":
            lines.setdefault(name, ScoreboardLine(name, {})).scores[row.task] = row.value
    return list(lines.values())


# ---- rendering


def text(scoreboard: Scoreboard) -> str:
    """The table for a terminal, with notes that explain it."""
    head = [*scoreboard.columns, "Avg*" if scoreboard.partly else "Avg"]
    width = max(9, *(len(title) + 2 for title in head))

    def row(name: str, cells: Sequence[str]) -> str:
        return f"{name:<28}" + "".join(f"{cell:>{width}}" for cell in cells)

    lines = [row("dev sets", head)]
    for line in scoreboard.own:
        lines.append(row(f"  {line.name}", _cells(scoreboard, line.scores, line.average)))
        if line.spread:
            lines.append(row("    std over seeds", _cells(scoreboard, line.spread, line.average_spread)))
    lines.append("AdaDS Table 4 (published)")
    lines += [row(f"  {line.name}", _cells(scoreboard, line.scores, line.average)) for line in scoreboard.published]
    return "\n".join([*lines, *notes(scoreboard)])


def markdown(scoreboard: Scoreboard) -> str:
    """The same table for a document."""
    head = ["dev sets", *scoreboard.columns, "Avg*" if scoreboard.partly else "Avg"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for line in scoreboard.own:
        spread = _cells(scoreboard, line.spread, line.average_spread)
        cells = [
            f"{cell} ± {std}" if std != "-" else cell
            for cell, std in zip(_cells(scoreboard, line.scores, line.average), spread, strict=True)
        ]
        lines.append(f"| {' | '.join([markdown_text(line.name), *cells])} |")
    for line in scoreboard.published:
        cells = _cells(scoreboard, line.scores, line.average)
        lines.append(f"| {' | '.join([f'AdaDS Table 4: {line.name}', *cells])} |")
    return "\n".join([*lines, "", *(f"{note}  " for note in notes(scoreboard))]) + "\n"


def notes(scoreboard: Scoreboard) -> list[str]:
    """Sentences that explain the table."""
    sentences = [
        "one number a task, as GLUE counts: the mean of its official metrics (MRPC, QQP: accuracy and F1; STS-B: Pearson "
        "and Spearman; CoLA: Matthews); Table 4 does not say which it prints",
        "Table 4 has no row of AdaDS itself: its average at this stage is only drawn (Fig. 4)",
    ]
    if scoreboard.partly:
        over = ", ".join(scoreboard.averaged) or "no column"
        sentences.insert(
            0, f"* over {over} alone, in the published rows too: these are not the averages that the paper prints"
        )
    return sentences


def _cells(scoreboard: Scoreboard, scores: Mapping[str, float], average: float | None) -> list[str]:
    every: list[Any] = [*(scores.get(title) for title in scoreboard.columns), average]
    return ["-" if value is None else f"{value:.2f}" for value in every]
