"""Build the report of many runs: their tables, figures and remarks (`python -m kdlab.report`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.config.groups.budget import KINDS
from kdlab.plotting.metrics import metric_scale
from kdlab.reporting.analyses import across_runs
from kdlab.reporting.comparability import spread_of_settings
from kdlab.reporting.comparison import Comparison, compare
from kdlab.reporting.figures import by_setting, costs, training
from kdlab.reporting.figures.frame import Drawing, levels, mean_levels
from kdlab.reporting.filters import where
from kdlab.reporting.page.content import Picture, ReportPage, Section, picture
from kdlab.reporting.seed_groups import Run, read
from kdlab.reporting.tables import TableRow, TaskTable, task_table
from kdlab.runtime.progress import track

Notify = Callable[[str], None]

# By the start of a figure's name: the figure in words, and what it needs
NEEDED = {
    "score_by_ratio": "score by ratio (runs at two or more ratios below 1)",
    "score_by_queries": "score by queries (two or more groups with a teacher)",
    "score_by_flops": "score by FLOPs (two or more groups)",
    "training_by_step": "learning curves (runs that were evaluated twice or more: trainer.evaluate_every)",
    "schedule": "schedules (a group whose strategy changed)",
}


def build_report(
    paths: Sequence[Path],
    paper: str | None = None,
    conditions: Sequence[str] = (),
    metric: str | None = None,
    baseline: str | None = None,
    notify: Notify = print,
    across: Sequence[str] = (),
) -> ReportPage:
    """The report of the finished runs in `paths`; `notify` receives a message for everything that is left out.

    `paper`: a key of `PAPERS`; `conditions`: as `where` takes them; `metric`, `baseline` and `across`: as `compare` takes them.
    UserError where there is no finished run, or where conditions, metric or baseline fit none.
    """
    runs, skipped = read(paths)
    runs = where(runs, conditions)
    remarks: list[str] = []

    def remark(line: str) -> None:
        remarks.append(line)
        notify(line)

    for folder, reason in skipped.items():
        notify(f"left out, {reason}: {folder}")
    comparisons = _compare_stages(runs, metric, baseline, remark, across)
    if len(comparisons) > 1:
        tasks = ", ".join(one.task for one in comparisons)
        remark(f"runs of {len(comparisons)} tasks ({tasks}): each has a table of its own")
    tables = [task_table(one, paper, remark) for one in comparisons]
    sections = [_section(table, remark) for table in track(tables, "drawing", "tasks")]
    if paper and not any(row.published for table in tables for row in table.rows):
        remark(f"--paper {paper}: it prints no number for these tasks, methods and ratios")
    skipped_names = {str(folder): reason for folder, reason in skipped.items()}
    return ReportPage(sections, _over_tasks(tables), skipped_names, remarks, list(conditions), paper, baseline)


def _compare_stages(
    runs: Sequence[Run], metric: str | None, baseline: str | None, notify: Notify, across: Sequence[str]
) -> list[Comparison]:
    """Comparisons of the runs of each stage, by its own metric."""
    stages: dict[str, list[Run]] = {}
    for run in runs:
        stages.setdefault(run.stage, []).append(run)
    if len(stages) > 1:
        notify(f"runs of two stages ({' and '.join(stages)}): p values are adjusted within each")
    return [one for members in stages.values() for one in compare(members, metric, baseline, notify, across)]


def _section(table: TaskTable, notify: Notify) -> Section:
    pictures = _pictures(table, notify)
    names = [one.drawing.name for one in pictures]
    undrawn = [why for start, why in NEEDED.items() if not any(name.startswith(start) for name in names)]
    return Section(table, pictures, undrawn)


def _pictures(table: TaskTable, notify: Notify) -> list[Picture]:
    """The figures of a task: by ratio, by budget, by queries, by FLOPs, along the training, schedules."""
    comparison = table.comparison
    drawings: list[Drawing | None] = [*_by_setting(table)]

    def add(drawing: Drawing | None, shown: Sequence[TableRow]) -> None:
        if drawing is not None:
            drawing.caption += _unlike(table, shown)
            drawings.append(drawing)

    for against in costs.drawn(table):
        add(costs.scores(table, against), table.rows)
    ratios = sorted({row.ratio for row in table.rows if row.ratio < 1} or {1.0})
    for ratio in ratios:
        members = [row for row in table.rows if row.ratio in (ratio, 1.0)]
        about = f", ratio {ratio:g}" if len(ratios) > 1 else ""
        add(training.learning(table, members, "step", about), members)
    taught = [row for row in table.rows if row.taught]
    add(training.learning(table, taught, "queries"), taught)
    drawings += [training.schedule(table, row, notify) for row in table.rows]
    return [picture(comparison.task, one) for one in drawings if one is not None]


def _by_setting(table: TaskTable) -> Iterator[Drawing | None]:
    """The figures of a task against settings that its runs vary: the ratio, and each kind of budget."""
    comparison, teachers = table.comparison, levels(table)

    def panels(rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[tuple[Sequence[Mapping[str, Any]], str, str]]:
        """The rows of each setting, with the title of its figure and the figure's name."""
        for i, setting in enumerate(dict.fromkeys(row["setting"] for row in rows)):
            members = [row for row in rows if row["setting"] == setting]
            yield members, comparison.task + (f" ({setting})" if setting else ""), name + (f"_{i + 1}" if i else "")

    for members, about, name in panels(across_runs.by_ratio(table.runs, comparison.metric), "score_by_ratio"):
        yield by_setting.ratios(members, comparison.scale, about, teachers, name)
    for kind in KINDS:
        rows = across_runs.by_budget(table.runs, kind, comparison.metric)
        for members, about, name in panels(rows, f"score_by_budget_of_{kind}"):
            yield by_setting.budgets(members, kind, comparison.scale, about, teachers, name)


def _unlike(table: TaskTable, rows: Sequence[TableRow]) -> str:
    """A sentence of a caption on groups in one figure that do not compare, with the settings that differ; "" where all do."""
    found = spread_of_settings([row.group for row in rows], table.comparison.across) if rows else []
    return f" These groups differ in more than what is compared: {'; '.join(found)}." if found else ""


def _over_tasks(tables: Sequence[TaskTable]) -> list[Picture]:
    """The figure of the mean over tasks by ratio (AdaDS Fig. 6); none for one task or different metrics."""
    if len({table.comparison.metric for table in tables}) > 1:
        return []
    each = [row for table in tables for row in across_runs.by_ratio(table.runs, table.comparison.metric)]
    rows = by_setting.averaged(each, {table.comparison.task: table.scores for table in tables})
    if not rows:
        return []
    scales = {table.comparison.scale for table in tables}
    scale = scales.pop() if len(scales) == 1 else metric_scale(tables[0].comparison.metric)
    drawing = by_setting.ratios(rows, scale, f"Mean over {len(tables)} tasks", mean_levels(tables))
    return [picture("", drawing)] if drawing else []
