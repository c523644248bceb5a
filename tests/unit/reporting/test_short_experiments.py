"""The scores and costs in the tables of the short sweeps are those of their results.csv."""

from __future__ import annotations

import csv
import re
import statistics
from collections import Counter

import pytest

from tests.support.documents import ROOT

FOLDERS = (
    "adads_ratios", "adads_schedules", "adads_switching", "adads_tinybert", "dekd_ablation", "dekd_assistant", "dekd_ratios", "dekd_runs", "dekd_teachers", "dynamickd_augmented", "dynamickd_hidden_size", "dynamickd_objectives", "dynamickd_selection", "dynamickd_student_layers", "dynamickd_temperature", "ksm_augmented", "ksm_knowledge", "ksm_learning", "ksm_methods",
    "ksm_phases", "ksm_student_layers",
)  # fmt: skip
SAME = ("task", "group")
CELLS = re.compile(r"\| (-?\d+\.\d ± \d+\.\d) (?:\((\d) of \d collapsed\) )?\| ([\d,]+) \| (\d+\.\d\d) \|")


def groups(rows: list[dict[str, str]]) -> Counter[tuple[str, ...]]:
    """Score, collapsed runs, queries and TFLOPs of the runs that differ in the seed alone, as a table prints them."""
    members: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        members.setdefault(tuple(row[name] for name in SAME), []).append(row)
    return Counter(cells(runs) for runs in members.values())


def cells(runs: list[dict[str, str]]) -> tuple[str, ...]:
    scores = [100 * float(run["score"]) for run in runs]
    fallen = sum(float(run["score"]) <= float(run["majority_score"]) for run in runs if run["majority_score"])
    return (
        f"{statistics.fmean(scores):.1f} ± {statistics.stdev(scores):.1f}",
        str(fallen or ""),
        f"{statistics.fmean(float(run['teacher_queries']) for run in runs):,.0f}",
        f"{statistics.fmean(float(run['flops']) for run in runs) / 1e12:.2f}",
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tables_have_each_group_of_the_results(folder):
    place = ROOT / "experiments" / folder
    with (place / "results.csv").open(encoding="utf-8", newline="") as lines:
        want = groups(list(csv.DictReader(lines)))
    assert Counter(CELLS.findall((place / "README.md").read_text(encoding="utf-8"))) == want


def test_a_row_is_of_means_over_seeds():
    base = dict.fromkeys(SAME, "") | {"teacher_queries": "1600", "flops": "2.5e12", "majority_score": "0.5"}
    runs = [base | {"score": score} for score in ("0.5", "0.7")]
    assert groups(runs) == Counter([("60.0 ± 14.1", "1", "1,600", "2.50")])
    assert CELLS.findall("| a | 60.0 ± 14.1 (1 of 2 collapsed) | 1,600 | 2.50 | +1 |") == [*groups(runs)]
