"""The tables of the study's folders are what `kdlab analyse pays` makes of their results.csv."""

from __future__ import annotations

import re

import pytest

from kdlab.reporting.analyses.choosing import factors, figures, gains, safety
from kdlab.reporting.analyses.choosing.runs import read
from tests.support.documents import ROOT

FOLDERS = ("choosing_pays", "auto_found", "auto_judged", "auto_depends", "auto_levers", "auto_replay")


def cell(pair: object) -> str:
    difference = getattr(pair, "difference", None)
    return "-" if difference is None else f"{difference:+.1f}"


def table(folder: str) -> list[str]:
    """The rows of the table in the README of `experiments/folder`, from its results.csv."""
    runs = read([ROOT / "experiments" / folder / "results.csv"])
    batches = {run.batch for run in runs}
    lines = []
    for row in gains.table(runs):
        task, method, ratio, steps, batch = row.cell
        std = "" if row.std is None else f" ± {row.std:.1f}"
        fallen = f" ({row.collapsed} of {row.seeds} collapsed)" if row.collapsed else ""
        size = f" batch={batch}" if len(batches) > 1 else ""
        lines.append(
            f"| {task} | {method}{size} | {ratio:g} | {steps} | {row.mean:.1f}{std}{fallen} | {row.queries:,.0f} | {row.flops / 1e12:.2f} | "
            f"{cell(row.equal_queries)} | {cell(row.equal_cost)} |"
        )
    return lines


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_table_is_made_of_the_results(folder):
    text = (ROOT / "experiments" / folder / "README.md").read_text(encoding="utf-8")
    printed = re.findall(r"^\| \w[^|]*\|.*\|$", text, re.M)
    shown = [line for line in printed if not line.startswith("| task ") and line.count("|") == 10]
    assert shown == table(folder)


def test_the_analyses_read_the_results():
    results = ROOT / "experiments" / "choosing_pays" / "results.csv"
    for analysis in (figures.pays, figures.break_even, safety.safe):
        assert analysis([results]).nothing == ""
    assert factors.depends([results], "look").nothing == ""
