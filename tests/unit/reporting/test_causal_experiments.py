"""The tables in the folders of decoders are those of their results.csv."""

from __future__ import annotations

import csv
import re
import statistics

import pytest

from tests.support.documents import ROOT

FOLDERS = ("causal_positions", "causal_divergences")


def table(folder: str) -> list[str]:
    """The rows of the table in the README of `experiments/folder`, from its results.csv; nothing where it has none."""
    file = ROOT / "experiments" / folder / "results.csv"
    if not file.is_file():
        return []
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            unit = "positions" if "unit=position" in row["settings"] else "rows"
            unit = "all" if row["select"] == "all" else unit
            key = (row["knowledge"], row["select"], unit, f"{float(row['ratio']):g}", row["steps"])
            groups.setdefault(key, []).append(row)
    return [line(key, members) for key, members in sorted(groups.items())]


def line(key: tuple[str, ...], members: list[dict[str, str]]) -> str:
    """A row: means over seeds, and the standard deviation of the loss."""

    def mean(name: str, scale: float = 1.0) -> float:
        return statistics.fmean(float(row[name]) for row in members) / scale

    losses = [float(row["loss"]) for row in members]
    std = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
    cells = [
        *key, str(len(members)), f"{statistics.fmean(losses):.3f}{std}", f"{mean('score', 0.01):.1f}",
        f"{mean('teacher_queries'):,.0f}", f"{mean('flops', 1e12):.1f}", f"{mean('seconds'):.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_table_is_made_of_the_results(folder):
    text = (ROOT / "experiments" / folder / "README.md").read_text(encoding="utf-8")
    printed = re.findall(r"^\| \w+ \| \w+ \| (?:all|rows|positions) \|.*\|$", text, re.M)
    assert printed == table(folder)
    assert bool(printed) == ("not run yet" not in text.lower())


def test_a_line_is_of_means_over_seeds():
    members = [
        {"loss": loss, "score": "0.2", "teacher_queries": "480", "flops": "2e12", "seconds": "10"}
        for loss in ("6.0", "7.0")
    ]
    key = ("causal", "random", "positions", "0.2", "60")
    assert (
        line(key, members) == "| causal | random | positions | 0.2 | 60 | 2 | 6.500 ± 0.707 | 20.0 | 480 | 2.0 | 10 |"
    )
