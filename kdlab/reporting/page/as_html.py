"""Render a report as one HTML page that loads nothing.

Names, paths and commands come from files that strangers may have written: the page escapes all of them and forbids
itself scripts and requests (its Content-Security-Policy).
"""

from __future__ import annotations

from typing import Any

from kdlab import __version__
from kdlab.reporting.caveats import footnotes
from kdlab.reporting.comparison_text import TEST, power, shown, tested_cells
from kdlab.reporting.page.cells import cells, columns, overview_cells, references
from kdlab.reporting.page.content import MARK, ReportPage, Section, as_utf8
from kdlab.reporting.page.sentences import explained, headlines
from kdlab.reporting.tables import BELOW, BEST, WORST, overview


def html(report: ReportPage) -> str:
    """The page, in one piece."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kdlab.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"times": lambda name: name.replace(" x 100", " × 100"), "shown": shown}
    tasks, lines = overview(report.tables)
    page = environment.get_template("report.html").render(
        report=report,
        mark=MARK,
        version=__version__,
        sections=[_section(section) for section in report.sections],
        tasks=tasks,
        lines=[(name, overview_cells(report, rows), mean) for name, rows, mean in lines],
        notes=explained(report),
        kinds={BEST: "good", WORST: "bad", BELOW: "bad"},
    )
    return as_utf8(page)


def _section(section: Section) -> dict[str, Any]:
    table = section.table
    names = columns(table)
    tests = [tested_cells(table.comparison, row.line) for row in table.rows if row.line.baseline]
    marked = footnotes([row.group for row in table.rows])
    return {
        "caveats": marked.lines,
        "caveat_marks": lambda row: marked.of(row.group),
        "task": table.comparison.task,
        "unit": table.comparison.unit,
        "described": table.comparison.described,
        "headlines": headlines(table),
        "columns": names,
        "rows": [(row, [cells(table, row)[name] for name in names]) for row in table.rows],
        "references": references(table),
        "test_head": TEST,
        "tests": tests,
        "power": power(table.comparison),
        "pictures": section.pictures,
        "published": table.published,
        "runs": [(row, seed, run) for row in table.rows for seed, run in sorted(row.group.runs.items())],
        "value": lambda run: shown(table.comparison, run.result["metrics"]["student"][table.comparison.metric]),
    }
