"""Render the tables and sentences of a report as Markdown; names and paths stand in it as code."""

from __future__ import annotations

from collections.abc import Sequence

from kdlab.reporting.caveats import footnotes
from kdlab.reporting.comparison_text import power, shown
from kdlab.reporting.page.cells import cells, columns, overview_cells, references
from kdlab.reporting.page.content import MARK, ReportPage, as_utf8
from kdlab.reporting.page.sentences import explained, headlines
from kdlab.reporting.page.sizes import size_table
from kdlab.reporting.score_columns import further_table
from kdlab.reporting.tables import BEST, overview
from kdlab.storage.escaping import markdown_code, markdown_text


def markdown(report: ReportPage) -> str:
    """The tables alone, for a paper's draft or an issue."""
    parts = [f"<!-- {MARK} -->", f"# {markdown_text(report.title)}"]
    tasks, lines = overview(report.tables)
    if lines:
        head = ["group", *map(markdown_text, tasks), "mean"]
        body = [
            [
                markdown_code(name),
                *(_marked(*cell) for cell in overview_cells(report, rows)),
                "-" if mean is None else shown(report.tables[0].comparison, mean),
            ]
            for name, rows, mean in lines
        ]
        parts += ["## All tasks", _grid(head, body)]
    for section in report.sections:
        table = section.table
        names, marked = columns(table), footnotes([row.group for row in table.rows])
        rows = []
        for row in table.rows:
            said = cells(table, row)
            said["mean ± std"] = _marked(said["mean ± std"], row.marks)
            name = " ".join(filter(None, (markdown_code(row.group.plain_name), markdown_text(marked.of(row.group)))))
            rows.append([str(row.number), name, *(said[name] for name in names)])
        parts += [
            f"## {markdown_text(table.comparison.task)} ({table.comparison.described})",
            _grid(["#", "group", *names], rows),
        ]
        parts += ["\n".join(f"- {markdown_text(line)}" for line in marked.lines)] if marked.lines else []
        against = ", ".join(f"{markdown_text(name)} {value}" for name, value in references(table))
        parts += [f"Beside them: {against}."] if against else []
        head, lines_ = further_table([row.group for row in table.rows])
        if head:
            named = [
                [str(row.number), markdown_code(row.name), *line] for row, line in zip(table.rows, lines_, strict=True)
            ]
            parts += ["Further scores of the students:", _grid(["#", "group", *map(markdown_text, head)], named)]
        parts.append("\n".join(f"- {markdown_text(line)}" for line in headlines(table)))
        if sentence := power(table.comparison):
            said, *commands = sentence.replace("  and  python ", ":  python ").split(":  python ")
            parts.append(
                ": ".join([markdown_text(said), *(markdown_code(f"python {command}") for command in commands)])
            )
        undrawn = markdown_text("" if report.undrawn else "; ".join(section.undrawn))
        parts += [f"Figures not drawn, with what they need: {undrawn}."] if undrawn else []
        if sizes := size_table(table):
            parts += ["### Size and speed", _grid(sizes.head, [[*map(markdown_text, row)] for row in sizes.rows])]
            parts.append("\n".join(f"- {markdown_text(line)}" for line in sizes.notes))
    parts.append("\n".join(f"- {markdown_text(line)}" for line in [*report.remarks, *explained(report)]))
    if report.left_out:
        parts += [
            "Left out:",
            "\n".join(f"- {markdown_code(folder)}: {markdown_text(why)}" for folder, why in report.left_out.items()),
        ]
    return as_utf8("\n\n".join(parts) + "\n")


def _marked(text: str, marks: Sequence[str]) -> str:
    bold = f"**{text}**" if BEST in marks else text
    rest = [mark for mark in marks if mark != BEST]
    return f"{bold} ({', '.join(rest)})" if rest else bold


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if name in ("group", "model") else "---:" for name in head]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
