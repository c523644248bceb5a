"""Render a report as one HTML page that loads nothing.

Names, paths and commands come from files that strangers may have written: the page escapes all of them and forbids
itself scripts and requests (its Content-Security-Policy).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdlab import __version__
from kdlab.plotting import files
from kdlab.reporting.caveats import footnotes
from kdlab.reporting.comparison_text import TEST, power, shown, tested_cells
from kdlab.reporting.page.cells import cells, columns, overview_cells, references
from kdlab.reporting.page.common import common, different, method
from kdlab.reporting.page.content import MARK, Picture, ReportPage, Section, as_utf8
from kdlab.reporting.page.sentences import explained, headlines
from kdlab.reporting.page.sizes import size_table
from kdlab.reporting.score_columns import further_table
from kdlab.reporting.tables import BELOW, BEST, WORST, overview

# Columns of the page with a second line, and what stands in it
BELOW_IT = {
    "difference": "Holm p",
    "best (seed)": "worst (seed)",
    "queries": "total queries",
    "FLOPs": "total FLOPs",
    "time": "total time",
}


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
    over_tasks = [(name, overview_cells(report, rows), mean) for name, rows, mean in lines]
    figures = {id(one): _inline(one, f"f{i}-") for i, one in enumerate(report.all_pictures, 1)}
    day, night = files.theme_colours("".join(figures.values()))
    page = environment.get_template("report.html").render(
        report=report,
        mark=MARK,
        version=__version__,
        sections=[_section(section, report.undrawn) for section in report.sections],
        tasks=tasks,
        lines=over_tasks,
        drawn_marks={mark for _, found, _ in over_tasks for _, marks in found for mark in marks},
        notes=explained(report),
        kinds={BEST: "good", WORST: "bad", BELOW: "bad"},
        drawn=lambda one: figures[id(one)],
        day=day,
        night=night,
    )
    return as_utf8(page)


def _inline(picture: Picture, prefix: str) -> str:
    """The SVG of a figure; files.inline_svg leaves nothing in it but shapes and an escaped caption."""
    return files.inline_svg(picture.svg, prefix, picture.caption)


def _section(section: Section, shared: Sequence[str]) -> dict[str, Any]:
    """Values of a task for the template; `shared`: figures without data that the page names once."""
    table = section.table
    names = columns(table)
    labels, settings = different(table)
    tests = [tested_cells(table.comparison, row.line) for row in table.rows if row.line.baseline]
    marked = footnotes([row.group for row in table.rows])
    return {
        "caveats": marked.lines,
        "caveat_marks": lambda row: marked.of(row.group),
        "task": table.comparison.task,
        "unit": table.comparison.unit,
        "described": table.comparison.described,
        "headlines": headlines(table),
        "common": common(table),
        "labels": labels,
        "columns": [
            (name, BELOW_IT[name] if BELOW_IT.get(name) in names else "")
            for name in names
            if name not in BELOW_IT.values()
        ],
        "rows": [
            (row, method(row, labels, own), own[1:], _stacked(cells(table, row), names))
            for row, own in zip(table.rows, settings, strict=True)
        ],
        "references": references(table),
        "further": further_table([row.group for row in table.rows]),
        "further_rows": table.rows,
        "test_head": TEST,
        "tests": tests,
        "power": power(table.comparison),
        "pictures": section.pictures,
        "undrawn": "" if shared else "; ".join(section.undrawn),
        "sizes": size_table(table),
        "published": table.published,
        "runs": [(row, seed, run) for row in table.rows for seed, run in sorted(row.group.runs.items())],
        "value": lambda run: shown(table.comparison, run.result["metrics"]["student"][table.comparison.metric]),
    }


def _stacked(found: dict[str, str], names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Cells of a row as (column, first line, second line)."""
    return [
        (name, found[name], found.get(BELOW_IT.get(name, ""), "") if BELOW_IT.get(name) in names else "")
        for name in names
        if name not in BELOW_IT.values()
    ]
