"""Cells of a report's tables as text, the same for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from kdlab.reporting.comparison_text import PAYS, p_value, pays_cell, seeds_cell, shown
from kdlab.reporting.page.content import ReportPage
from kdlab.reporting.papers import PublishedNumber
from kdlab.reporting.score_columns import reference_on_test, teacher_share, values_on_test
from kdlab.reporting.tables import CostCells, TableRow, TaskTable
from kdlab.runs.closing.cost_lines import duration, si


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
        "test": _test(table, row),
        "of the teacher": teacher_share(row.group),
        "seeds": seeds_cell(row.line),
        "difference": _difference(row)
        or (shown(comparison, pair.difference, "+") + against if pair is not None else "-"),
        "Holm p": "-" if holm is None else p_value(holm),
        "best (seed)": f"{shown(comparison, row.best[0])} ({row.best[1]})",
        "worst (seed)": f"{shown(comparison, row.worst[0])} ({row.worst[1]})",
        **_costs("queries", row.queries, lambda value: f"{value:,.0f}"),
        "positions": "-" if (found := row.group.positions) is None else f"{found[0]:,.0f} ({found[1]:.1%})",
        "cached": f"{row.group.cached:,.0f}" if row.group.cached else "-",
        **_costs("FLOPs", row.flops, si),
        **_costs("time", row.seconds, duration),
        PAYS: pays_cell(row.group),
        "full data, same FLOPs": "-" if row.same_cost is None else shown(comparison, row.same_cost),
        "full data, same total FLOPs": "-" if row.same_total is None else shown(comparison, row.same_total),
        "published": "; ".join(map(_printed, row.published)) or "-",
    }


def _difference(row: TableRow) -> str:
    """The cell of a group that no baseline fits: the settings that differ; "" for others."""
    return f"- ({row.line.unlike})" if row.line.unlike else ""


def _test(table: TaskTable, row: TableRow) -> str:
    """The cell of the test scores: "-" without labelled test rows."""
    values = values_on_test(row.group, table.comparison.metric)
    return spread(table, fmean(values), stdev(values) if len(values) > 1 else None) if values else "-"


def columns(table: TaskTable) -> list[str]:
    """The columns that say something of at least one row, and those that every table has."""
    every = [cells(table, row) for row in table.rows]
    optional = {
        "test",
        "of the teacher",
        "difference",
        "Holm p",
        "positions",
        "cached",
        PAYS,
        "full data, same FLOPs",
        "full data, same total FLOPs",
        "published",
    }
    return [name for name in every[0] if name not in optional or any(row[name] != "-" for row in every)]


def references(table: TaskTable) -> list[tuple[str, str]]:
    """References of a table (teacher, majority class, ...) with their value, or range of values, and their mean on test."""
    found, groups = [], [row.group for row in table.rows]
    for name, (low, high) in table.references.items():
        value = shown(table.comparison, low) + (f" to {shown(table.comparison, high)}" if high != low else "")
        test = reference_on_test(groups, name, table.comparison.metric)
        found.append((name, value if test is None else f"{value} (test {shown(table.comparison, test)})"))
    return found


def overview_cells(report: ReportPage, rows: Sequence[TableRow | None]) -> list[tuple[str, Sequence[str]]]:
    """Cells of a line of the overview over tasks, with their marks."""
    return [
        ("-", ()) if row is None else (spread(table, row.mean, row.std), row.marks)
        for table, row in zip(report.tables, rows, strict=True)
    ]


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
