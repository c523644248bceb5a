"""Render a report: cells of its tables and sentences, as one HTML page that loads nothing, and as Markdown.

Names, paths and commands come from files that strangers may have written: the page escapes all of them and forbids
itself scripts and requests (its Content-Security-Policy); Markdown has them as code.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdlab import __version__
from kdlab.plotting import style as pictures
from kdlab.reporting.comparison_text import TEST, notes, p_value, power, shown, tested_cells
from kdlab.reporting.papers import CAUTIONS, PAPERS, PublishedNumber
from kdlab.reporting.statistics import ALPHA
from kdlab.reporting.tables import BELOW, BEST, GAP, WORST, CostCells, TableRow, TaskTable, overview
from kdlab.runs.closing.cost_lines import duration, si
from kdlab.storage.escaping import markdown_code, markdown_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "made by kdlab.report"  # in every file that may be written again


@dataclass
class Picture:
    """A figure of the page: its caption, its bytes (SVG), its size in CSS pixels."""

    caption: str
    data: bytes
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The SVG as a data URI."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.data).decode('ascii')}"


def picture(figure: Figure, caption: str) -> Picture:
    """A drawn figure with its caption."""
    size = figure.get_size_inches() * 110
    return Picture(caption, pictures.svg(figure), round(float(size[0])), round(float(size[1])))


@dataclass
class Section:
    """A task: its table and its figures."""

    table: TaskTable
    pictures: list[Picture] = field(default_factory=list)


@dataclass
class ReportPage:
    """The content of a report.

    `left_out`: reason by folder that is no run of the report; `remarks`: for the reader; `conditions`: of `--where`;
    `paper`: key of `PAPERS`; `baseline`: as given on the command line.
    """

    sections: list[Section]
    pictures: list[Picture]
    left_out: Mapping[str, str]
    remarks: Sequence[str]
    conditions: Sequence[str]
    paper: str | None
    baseline: str | None

    @property
    def tables(self) -> list[TaskTable]:
        """The tables of the sections."""
        return [section.table for section in self.sections]

    @property
    def title(self) -> str:
        """Title of the page: tasks, number of runs and groups."""
        runs = sum(len(table.runs) for table in self.tables)
        groups = sum(len(table.rows) for table in self.tables)
        tasks = [table.comparison.task for table in self.tables]
        what = f"{', '.join(tasks[:4])}{' …' if len(tasks) > 4 else ''}"
        return f"{what}: {runs} run{'s' * (runs != 1)} in {groups} group{'s' * (groups != 1)}"


# ---- cells


def spread(table: TaskTable, mean: float, std: float | None) -> str:
    """A mean with its standard deviation."""
    return shown(table.comparison, mean) + (f" ± {shown(table.comparison, std)}" if std is not None else "")


def cells(table: TaskTable, row: TableRow) -> dict[str, str]:
    """The cells of a row, by column; those of the marks and the name are the page's own."""
    comparison, pair, holm = table.comparison, row.line.found, row.line.holm
    numbers = {id(other.group): other.number for other in table.rows}
    baseline = row.line.baseline
    against = f" (#{numbers[id(baseline)]})" if baseline is not None else ""
    return {
        "mean ± std": spread(table, row.mean, row.std),
        "seeds": str(len(row.line.values)),
        "difference": shown(comparison, pair.difference, "+") + against if pair is not None else "-",
        "Holm p": "-" if holm is None else p_value(holm),
        "best (seed)": f"{shown(comparison, row.best[0])} ({row.best[1]})",
        "worst (seed)": f"{shown(comparison, row.worst[0])} ({row.worst[1]})",
        **_costs("queries", row.queries, lambda value: f"{value:,.0f}"),
        "cached": f"{row.group.cached:,.0f}" if row.group.cached else "-",
        **_costs("FLOPs", row.flops, si),
        **_costs("time", row.seconds, duration),
        "full data, same FLOPs": "-" if row.same_cost is None else shown(comparison, row.same_cost),
        "full data, same total FLOPs": "-" if row.same_total is None else shown(comparison, row.same_total),
        "published": "; ".join(map(_printed, row.published)) or "-",
    }


def columns(table: TaskTable) -> list[str]:
    """The columns that say something of at least one row, and those that every table has."""
    every = [cells(table, row) for row in table.rows]
    optional = {"difference", "Holm p", "cached", "full data, same FLOPs", "full data, same total FLOPs", "published"}
    return [name for name in every[0] if name not in optional or any(row[name] != "-" for row in every)]


def _costs(name: str, cost: CostCells, text: Callable[[float], str]) -> dict[str, str]:
    """Cells of a cost, alone and with preparation."""
    least = "" if cost.measured else "≥ "
    return {name: _cost(cost.value, cost.gain, text), f"total {name}": _cost(cost.total, cost.total_gain, text, least)}


def _cost(value: float | None, gain: float | None, text: Callable[[float], str], least: str = "") -> str:
    if value is None:
        return "-"
    return least + text(value) + ("" if gain is None else f" ({gain:.3g}x)")


def _printed(row: PublishedNumber) -> str:
    task = f"{row.task} " if row.task.startswith("MNLI-") else ""
    return f"{task}{row.metric} {row.value:g} ({row.place})"


# ---- sentences


def headlines(table: TaskTable) -> list[str]:
    """Sentences above a table: for each ratio the best and the worst group, and random selection."""
    said = []
    for ratio in dict.fromkeys(row.ratio for row in table.rows):
        peers = [row for row in table.rows if row.ratio == ratio and row.taught]
        if not peers:
            continue
        best, worst = peers[0], peers[-1]
        where = "Full data" if ratio == 1 else f"At ratio {ratio:g}"
        text = f"{where}: {'best ' if len(peers) > 1 else ''}{best.name} {spread(table, best.mean, best.std)}"
        if worst.mean != best.mean:
            text += f", worst {worst.name} {spread(table, worst.mean, worst.std)}"
        drawn = [row for row in peers if row.group.one.select == "random"]
        if drawn and drawn[0].mean not in (best.mean, worst.mean):
            text += f"; {drawn[0].name} {spread(table, drawn[0].mean, drawn[0].std)}"
        below = sum(BELOW in row.marks for row in peers)
        text += f"; {below} of {len(peers)} worse than random" if below else ""
        said.append(f"{text}.")
    tests = [row for row in table.rows if row.line.holm is not None]
    if tests:
        sure = sum((row.line.holm or 0) < ALPHA for row in tests)
        what = (
            "No difference from a baseline is"
            if not sure
            else f"{sure} of {len(tests)} differences from the baselines {'is' if sure == 1 else 'are'}"
        )
        said.append(f"{what} more than chance (Holm p < {ALPHA}, {len(tests)} tests).")
    return said


def explained(report: ReportPage) -> list[str]:
    """Sentences that explain the report."""
    said = notes([table.comparison for table in report.tables], report.baseline)
    said += [
        f"best, worst: by the mean, among the groups with a teacher at the same ratio; {BELOW}: a lower mean than the "
        "group that differs in nothing but random selection, whether or not that is more than chance",
        "queries, FLOPs, time: means over seeds of the runs themselves; in brackets how many times less than distillation on "
        "all data in as many steps, by the ledger of the same run (time: only where trainer.probes measured it); time is that "
        "of training",
        "total: with all that was trained for the run before it (teachers, assistants, KSM episodes) as if nothing of it had "
        "been there; runs may share it. In brackets the same comparison, with the main teacher's preparation on both sides. "
        "A model given by its path counts as it is",
    ]
    if len(report.tables) > 1 and any(table.scores > 1 for table in report.tables):
        said.append(
            "means over tasks count MNLI as two scores, matched and mismatched, as AdaDS, Dynamic KD and KSM do"
        )
    rows = [row for table in report.tables for row in table.rows]
    if any(row.group.cached for row in rows):
        said.append(
            "cached: rows that a teacher cache answered, without a query; a run with many of them had a dearer one before it"
        )
    if not all(row.queries.measured for row in rows):
        said.append("≥: a part of the preparation recorded no cost")
    if any(row.same_cost is not None for row in rows):
        said.append(
            "full data, same FLOPs: what the full-data group had reached when it had spent as many FLOPs, by its "
            f"evaluations along the way (between two that are at most {GAP:g} of that cost apart); a run planned to be "
            "that short would have lowered its learning rate earlier"
        )
    if report.paper:
        said.append(
            f"published: numbers printed in {PAPERS[report.paper]}; they were got with BERT-base, GPUs and full data, "
            f"and stand beside ours, which are compared with our own baselines only; {CAUTIONS[report.paper]}"
        )
    return said


# ---- pages


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
        lines=[(name, _overview(report, rows), mean) for name, rows, mean in lines],
        notes=explained(report),
        kinds={BEST: "good", WORST: "bad", BELOW: "bad"},
    )
    return _written(page)


def _section(section: Section) -> dict[str, Any]:
    table = section.table
    names = columns(table)
    tests = [tested_cells(table.comparison, row.line) for row in table.rows if row.line.baseline]
    return {
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


def references(table: TaskTable) -> list[tuple[str, str]]:
    """References of a table (teacher, majority class, ...) with their value, or range of values."""
    return [
        (name, shown(table.comparison, low) + (f" to {shown(table.comparison, high)}" if high != low else ""))
        for name, (low, high) in table.references.items()
    ]


def _overview(report: ReportPage, rows: Sequence[TableRow | None]) -> list[tuple[str, Sequence[str]]]:
    return [
        ("-", ()) if row is None else (spread(table, row.mean, row.std), row.marks)
        for table, row in zip(report.tables, rows, strict=True)
    ]


def markdown(report: ReportPage) -> str:
    """The tables alone, for a paper's draft or an issue."""
    parts = [f"<!-- {MARK} -->", f"# {markdown_text(report.title)}"]
    tasks, lines = overview(report.tables)
    if lines:
        head = ["group", *map(markdown_text, tasks), "mean"]
        body = [
            [
                markdown_code(name),
                *(_marked(*cell) for cell in _overview(report, rows)),
                "-" if mean is None else shown(report.tables[0].comparison, mean),
            ]
            for name, rows, mean in lines
        ]
        parts += ["## All tasks", _grid(head, body)]
    for table in report.tables:
        names = columns(table)
        rows = []
        for row in table.rows:
            said = cells(table, row)
            said["mean ± std"] = _marked(said["mean ± std"], row.marks)
            rows.append([str(row.number), markdown_code(row.name), *(said[name] for name in names)])
        parts += [
            f"## {markdown_text(table.comparison.task)} ({table.comparison.described})",
            _grid(["#", "group", *names], rows),
        ]
        against = ", ".join(f"{markdown_text(name)} {value}" for name, value in references(table))
        parts += [f"Beside them: {against}."] if against else []
        parts.append("\n".join(f"- {markdown_text(line)}" for line in headlines(table)))
    parts.append("\n".join(f"- {markdown_text(line)}" for line in [*report.remarks, *explained(report)]))
    if report.left_out:
        parts += [
            "Left out:",
            "\n".join(f"- {markdown_code(folder)}: {markdown_text(why)}" for folder, why in report.left_out.items()),
        ]
    return _written("\n\n".join(parts) + "\n")


def _marked(text: str, marks: Sequence[str]) -> str:
    bold = f"**{text}**" if BEST in marks else text
    rest = [mark for mark in marks if mark != BEST]
    return f"{bold} ({', '.join(rest)})" if rest else bold


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if name == "group" else "---:" for name in head]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def _written(text: str) -> str:
    """The text as UTF-8 has it: half a surrogate pair, of a folder's name, becomes \\ud800."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
