"""`python -m kdlab.report FOLDER...`: a page and a Markdown table of many runs: means, spreads, costs, tests, figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.compare import add_arguments
from kdlab.errors import UserError
from kdlab.reporting import figures
from kdlab.reporting import tables as reporttables
from kdlab.reporting.analyses import across_runs
from kdlab.reporting.comparison import Comparison, compare
from kdlab.reporting.comparison_text import to_stderr
from kdlab.reporting.filters import where
from kdlab.reporting.page import MARK, Picture, ReportPage, Section, html, markdown, picture
from kdlab.reporting.papers import PAPERS
from kdlab.reporting.seed_groups import Run, read
from kdlab.reporting.tables import TaskTable
from kdlab.runs.finished import command
from kdlab.runtime.progress import track
from kdlab.storage.files import atomic_write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Say = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and the table; 2 for bad input."""
    given = _parser().parse_args(argv)
    return command(lambda: _write(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdlab.report", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (report.html)")
    parser.add_argument("--paper", choices=sorted(PAPERS), help="put the numbers that this paper prints beside ours")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only these runs; repeatable")
    return parser


def _write(given: argparse.Namespace) -> int:
    page, beside = given.out, given.out.with_suffix(".md")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {page}: a page ends in .html, such as {page.with_suffix('.html')}")
    for file in (page, beside):
        _may_write(file)
    report = build(given.runs, given.paper, given.where, given.metric, given.baseline, to_stderr)
    atomic_write_text(page, html(report))
    atomic_write_text(beside, markdown(report))
    print(f"{report.title}; {page} ({page.stat().st_size / 1000:,.0f} kB) and {beside}")
    return 0


def _may_write(file: Path) -> None:
    """A report may be written again; what somebody else wrote may not."""
    if not file.parent.is_dir():
        raise UserError(f"--out {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise UserError(f"--out {file} is a folder: name a file")
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace")[:100_000]:
        raise UserError(f"{file} is there and no report of kdlab's: --out takes another name")


def build(
    paths: Sequence[Path],
    paper: str | None = None,
    conditions: Sequence[str] = (),
    metric: str | None = None,
    baseline: str | None = None,
    say: Say = print,
) -> ReportPage:
    """All that the report of the finished runs among `paths` says; `say` is told what is left out, and why.

    UserError where there is no finished run, or where conditions, metric or baseline fit none.
    """
    runs, left = read(paths)
    runs = where(runs, conditions)
    said: list[str] = []

    def also(line: str) -> None:
        said.append(line)
        say(line)

    for folder, why in left.items():
        say(f"left out, {why}: {folder}")
    found = _compared(runs, metric, baseline, also)
    if len(found) > 1:
        also(f"runs of {len(found)} tasks ({', '.join(one.task for one in found)}): each has a table of its own")
    tables = [reporttables.table(one, paper, also) for one in found]
    sections = [Section(table, _pictures(table, also)) for table in track(tables, "drawing", "tasks")]
    if paper and not any(row.published for table in tables for row in table.rows):
        also(f"--paper {paper}: it prints no number for these tasks, methods and ratios")
    shown = {str(folder): why for folder, why in left.items()}
    return ReportPage(sections, _over_tasks(tables), shown, said, list(conditions), paper, baseline)


def _compared(runs: Sequence[Run], metric: str | None, baseline: str | None, say: Say) -> list[Comparison]:
    """Runs of both stages are compared apart, each by its own metric."""
    stages: dict[str, list[Run]] = {}
    for run in runs:
        stages.setdefault(run.stage, []).append(run)
    if len(stages) > 1:
        say(f"runs of two stages ({' and '.join(stages)}): p values are adjusted within each")
    return [one for members in stages.values() for one in compare(members, metric, baseline, say)]


def _pictures(table: TaskTable, say: Say) -> list[Picture]:
    task, found = table.found.task, []

    def add(figure: Figure | None, caption: str) -> None:
        if figure is not None:
            found.append(picture(figure, caption))

    rows = across_runs.by_ratio(table.runs, table.found.metric)
    for setting in dict.fromkeys(row["setting"] for row in rows):
        mine = [row for row in rows if row["setting"] == setting]
        more = f" ({setting})" if setting else ""
        add(
            figures.ratios(mine, table.found.unit),
            f"{task}{more}: by the share of rows that query the teacher, mean ± one standard deviation over seeds; dashed: full data.",
        )
    front = "The line is the Pareto front: filled points are those that no cheaper group equals. Numbers are the table's rows; bars one standard deviation; what costs the same stands side by side."
    add(
        figures.scores(table, "queries"),
        f"{task}: against teacher queries. {front} Dashed: groups that ask no teacher.",
    )
    add(figures.scores(table, "flops"), f"{task}: against the FLOPs of all models in the run. {front}")
    along = "along the training, by the evaluations of the runs themselves: mean over seeds, a band of one standard deviation. Numbers are the table's rows"
    for ratio in sorted({row.ratio for row in table.rows if row.ratio < 1} or {1.0}):
        mine = [row for row in table.rows if row.ratio in (ratio, 1.0)]
        add(
            figures.learning(table, mine, "step"),
            f"{task}, ratio {ratio:g}: {along}; dashed: full data.",
        )
    add(figures.learning(table, [row for row in table.rows if row.asks], "queries"), f"{task}: {along}.")
    for row in table.rows:
        seeds = len(row.group.runs)
        add(
            figures.schedule(row, say),
            f"{task}: which strategy chose the data in {row.number}. {row.name}, mean over {seeds} seed{'s' * (seeds != 1)}.",
        )
    return found


def _over_tasks(tables: Sequence[TaskTable]) -> list[Picture]:
    """The mean over tasks by ratio, as AdaDS Fig. 4 and 6."""
    if len({table.found.metric for table in tables}) > 1:
        return []
    each = [row for table in tables for row in across_runs.by_ratio(table.runs, table.found.metric)]
    rows = figures.averaged(each)
    figure = figures.ratios(rows, f"mean {tables[0].found.unit}") if rows else None
    caption = f"Mean over {len(tables)} tasks, by the share of rows that query the teacher; dashed: full data."
    return [picture(figure, caption)] if figure else []


if __name__ == "__main__":
    sys.exit(main())
