"""Build the report of many runs and write it as an HTML page and a Markdown table (`python -m kdlab.report`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.errors import UserError, one_line
from kdlab.reporting.analyses import across_runs
from kdlab.reporting.comparability import spread_of_settings
from kdlab.reporting.comparison import Comparison, compare
from kdlab.reporting.comparison_text import to_stderr
from kdlab.reporting.figures import costs, training
from kdlab.reporting.filters import where
from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.page.content import MARK, Picture, ReportPage, Section, picture
from kdlab.reporting.seed_groups import Run, read
from kdlab.reporting.tables import TableRow, TaskTable, task_table
from kdlab.runtime.progress import track
from kdlab.storage.files import atomic_write_text
from kdlab.storage.locks import sole_writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Notify = Callable[[str], None]


def write_report(
    paths: Sequence[Path],
    out: Path,
    paper: str | None = None,
    conditions: Sequence[str] = (),
    metric: str | None = None,
    baseline: str | None = None,
    across: Sequence[str] = (),
) -> int:
    """Write the report of the runs in `paths` to the page `out` and the Markdown file beside it; returns the exit code 0.

    Other arguments as for `build_report`. UserError for an `out` that is no new page and no former report.
    """
    table = out.with_suffix(".md")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a page ends in .html, such as {out.with_suffix('.html')}")
    for file in (out, table):
        _check_writable(file)
    with sole_writer(out):
        report = build_report(paths, paper, conditions, metric, baseline, to_stderr, across)
        atomic_write_text(table, markdown(report))
        atomic_write_text(out, html(report))
    print(f"{one_line(report.title)}; {out} ({out.stat().st_size / 1000:,.0f} kB) and {table}")
    return 0


def _check_writable(file: Path) -> None:
    """UserError unless `file` is new or was written by a former report."""
    if not file.parent.is_dir():
        raise UserError(f"--out {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise UserError(f"--out {file} is a folder: name a file")
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace")[:100_000]:
        raise UserError(f"{file} is there and no report of kdlab's: --out takes another name")


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
    sections = [Section(table, _pictures(table, remark)) for table in track(tables, "drawing", "tasks")]
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


def _pictures(table: TaskTable, notify: Notify) -> list[Picture]:
    """The figures of a task with their captions: by ratio, by queries, by FLOPs, along the training, schedules."""
    task = table.comparison.task
    pictures: list[Picture] = []

    def add(figure: Figure | None, caption: str) -> None:
        if figure is not None:
            pictures.append(picture(figure, caption))

    rows = across_runs.by_ratio(table.runs, table.comparison.metric)
    for setting in dict.fromkeys(row["setting"] for row in rows):
        members = [row for row in rows if row["setting"] == setting]
        more = f" ({setting})" if setting else ""
        add(
            costs.ratios(members, table.comparison.unit),
            f"{task}{more}: by the share of rows that query the teacher, mean ± one standard deviation over seeds; dashed: full data.",
        )
    front = (
        "Points stand at the cost with preparation, a line to their left ends at the cost of the run alone. The steps are the "
        "Pareto front by the cost with preparation: filled points are those that no cheaper group equals. Numbers are the "
        "table's rows; bars one standard deviation; what costs the same stands side by side."
    )
    add(
        costs.scores(table, "queries"),
        f"{task}: against teacher queries. {front} Dashed: groups without a teacher.{_unlike(table, table.rows)}",
    )
    add(costs.scores(table, "flops"), f"{task}: against the FLOPs of all models. {front}{_unlike(table, table.rows)}")
    along = "along the training, by the evaluations of the runs themselves: mean over seeds, a band of one standard deviation. Numbers are the table's rows"
    for ratio in sorted({row.ratio for row in table.rows if row.ratio < 1} or {1.0}):
        members = [row for row in table.rows if row.ratio in (ratio, 1.0)]
        add(
            training.learning(table, members, "step"),
            f"{task}, ratio {ratio:g}: {along}; dashed: full data.{_unlike(table, members)}",
        )
    taught = [row for row in table.rows if row.taught]
    add(training.learning(table, taught, "queries"), f"{task}: {along}.{_unlike(table, taught)}")
    for row in table.rows:
        seeds = len(row.group.runs)
        add(
            training.schedule(row, notify),
            f"{task}: which strategy chose the data in {row.number}. {row.name}, mean over {seeds} seed{'s' * (seeds != 1)}.",
        )
    return pictures


def _unlike(table: TaskTable, rows: Sequence[TableRow]) -> str:
    """A sentence of a caption on groups in one figure that do not compare, with the settings that differ; "" where all do."""
    found = spread_of_settings([row.group for row in rows], table.comparison.across) if rows else []
    return f" These groups differ in more than what is compared: {'; '.join(found)}." if found else ""


def _over_tasks(tables: Sequence[TaskTable]) -> list[Picture]:
    """The figure of the mean over tasks by ratio (AdaDS Fig. 6); none for one task or different metrics."""
    if len({table.comparison.metric for table in tables}) > 1:
        return []
    each = [row for table in tables for row in across_runs.by_ratio(table.runs, table.comparison.metric)]
    rows = costs.averaged(each, {table.comparison.task: table.scores for table in tables})
    figure = costs.ratios(rows, f"mean {tables[0].comparison.unit}") if rows else None
    caption = f"Mean over {len(tables)} tasks, by the share of rows that query the teacher; dashed: full data."
    return [picture(figure, caption)] if figure else []
