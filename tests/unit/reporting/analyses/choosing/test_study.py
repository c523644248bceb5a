"""The table of experiments/choosing_pays is what `kdlab analyse pays` makes of its results.csv."""

from __future__ import annotations

import re

from kdlab.reporting.analyses.choosing import figures, gains
from kdlab.reporting.analyses.choosing.runs import read
from tests.support.documents import ROOT

FOLDER = ROOT / "experiments" / "choosing_pays"


def cell(pair: object) -> str:
    difference = getattr(pair, "difference", None)
    return "-" if difference is None else f"{difference:+.1f}"


def table() -> list[str]:
    """The rows of the README's table, from results.csv."""
    lines = []
    for row in gains.table(read([FOLDER / "results.csv"])):
        task, method, ratio, steps, _ = row.cell
        std = "" if row.std is None else f" ± {row.std:.1f}"
        fallen = f" ({row.collapsed} of {row.seeds} collapsed)" if row.collapsed else ""
        lines.append(
            f"| {task} | {method} | {ratio:g} | {steps} | {row.mean:.1f}{std}{fallen} | {row.queries:,.0f} | {row.flops / 1e12:.2f} | "
            f"{cell(row.equal_queries)} | {cell(row.equal_cost)} |"
        )
    return lines


def test_the_table_is_made_of_the_results():
    printed = re.findall(r"^\| \w[^|]*\|.*\|$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.M)
    shown = [line for line in printed if not line.startswith("| task ") and line.count("|") == 10]
    assert shown == table()


def test_both_analyses_read_the_results():
    assert figures.pays([FOLDER / "results.csv"]).nothing == ""
    assert figures.break_even([FOLDER / "results.csv"]).nothing == ""
