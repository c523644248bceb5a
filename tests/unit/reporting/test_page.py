"""`python -m kdlab.report`: its tables, figures and pages, against numbers worked out by hand."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from kdlab import report
from kdlab.errors import UserError
from kdlab.plotting.metrics import metric_scale
from kdlab.reporting import report as reporting_report
from kdlab.reporting.analyses.across_runs import by_ratio
from kdlab.reporting.comparison import compare
from kdlab.reporting.figures import by_setting, costs, training
from kdlab.reporting.filters import where
from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.page.sentences import explained, headlines
from kdlab.reporting.report import build_report
from kdlab.reporting.seed_groups import read
from kdlab.reporting.tables import BELOW, BEST, WORST, TaskTable, overview, task_table
from kdlab.runs.finished import config_of
from tests.support.made_runs import hostile, made_run, nine, reported

WHOLE = {"select": "all", "ratio": 1.0, "task": "rte"}
AUGMENTED = {"task": "mrpc", "knowledge": "tinybert", "changes": {"data.augment": {"copies": 20}}}
DEKD = {"select": "scaled_entropy", "ratio": 0.5, "knowledge": "dekd"}


def quiet(line: str) -> None:
    """Print nothing."""


def front_of(axes: Any) -> np.ndarray:
    """The points of the Pareto front, with its end at the right edge."""
    (line,) = [one for one in axes.lines if one.get_drawstyle() == "steps-post"]
    return np.array(line.get_xydata())


def means_of(axes: Any) -> list[Any]:
    """The circles of the groups' means."""
    return [one for one in axes.lines if one.get_marker() == "o" and one.get_markersize() == 7]


def tables(home: Path, paper: str | None = None) -> list[TaskTable]:
    return [task_table(one, paper, quiet) for one in compare(read([home])[0])]


def rows_of(home: Path, paper: str | None = None) -> dict[str, Any]:
    """The rows of the one task, by selection and ratio."""
    (only,) = tables(home, paper)
    return {f"{row.group.one.select} {row.ratio:g}": row for row in only.rows}


def clear(home: Path, means: dict[str, float], ratio: float = 0.1, **given: Any) -> Path:
    """Three seeds of each selection, whose differences have a standard deviation of some thousandths."""
    for place, (select, mean) in enumerate(means.items()):
        for seed in (1, 2, 3):
            score = mean + seed / 1000 + (place * seed % 3) / 1000
            reported(home / f"{select} {seed}", score, seed, select, ratio, **given)
    return home


# ---- tables


def test_means_spreads_costs_and_marks_by_hand(tmp_path):
    (found,) = tables(nine(tmp_path))
    assert [row.group.one.select for row in found.rows] == ["all", "adads", "random", "entropy"]
    assert [row.number for row in found.rows] == [1, 2, 3, 4]
    np.testing.assert_allclose([row.mean for row in found.rows], [0.82, 0.76, 0.70, 0.66])
    np.testing.assert_allclose([row.std for row in found.rows], np.array([0.02, 0.02, 0.04, 0.02]) / 2**0.5)
    assert [row.marks for row in found.rows] == [[], [], [], []]  # two seeds: nothing is more than chance
    assert [row.queries.value for row in found.rows] == [12000, 1200, 1200, 1200]
    assert [row.flops.gain for row in found.rows] == pytest.approx([1.0, 10 / 3, 10.0, 4.0])
    assert [row.seconds.gain for row in found.rows] == [1.0, None, None, None]
    assert found.references == {"teacher": (0.9, 0.9)}


def test_full_data_at_the_same_cost_is_read_off_its_curve(tmp_path):
    rows = rows_of(nine(tmp_path))
    # full data has evaluations at 2e12 (0.70), 4e12 (0.80), 1e13: between the first two, half of 4e12 apart
    assert rows["adads 0.1"].same_cost is None  # 2e12 is more than half of 3e12
    assert rows["random 0.1"].same_cost is None  # no evaluation but at the start
    other = tmp_path / "near"
    for seed in (1, 2):
        curve = [(0, 0.5), (2.8e12, 0.70 + seed / 100), (4e12, 0.82), (1e13, 0.83)]
        reported(other / f"all {seed}", 0.83, seed, "all", 1.0, curve=curve, flops=1e13)
        reported(other / f"adads {seed}", 0.75, seed, "adads", flops=3e12)
    expected = np.mean([0.71 + (0.82 - 0.71) / 6, 0.72 + (0.82 - 0.72) / 6])  # a sixth of the way from 2.8 to 4
    assert rows_of(other)["adads 0.1"].same_cost == pytest.approx(expected)
    assert rows_of(other)["all 1"].same_cost is None


def test_marks_are_for_differences_that_are_more_than_chance_and_no_baseline_is_the_worst(tmp_path):
    found = rows_of(clear(tmp_path / "a", {"adads": 0.8, "random": 0.6, "margin": 0.7}))
    assert {name: row.marks for name, row in found.items()} == {"adads 0.1": [BEST], "random 0.1": [], "margin 0.1": []}
    found = rows_of(clear(tmp_path / "b", {"adads": 0.8, "random": 0.7, "margin": 0.6}))
    assert {name: row.marks for name, row in found.items()} == {
        "adads 0.1": [BEST],
        "random 0.1": [],
        "margin 0.1": [WORST, BELOW],
    }
    for seed, by in ((1, 0.1), (2, -0.08), (3, 0.05)):
        reported(tmp_path / "c" / f"{seed}", 0.6, seed)
        reported(tmp_path / "c" / f"margin {seed}", 0.6 + by, seed, "margin")
    assert [row.marks for row in rows_of(tmp_path / "c").values()] == [[], []]
    reported(tmp_path / "alone" / "1", 0.6, select="margin")
    assert rows_of(tmp_path / "alone")["margin 0.1"].marks == []


def test_best_and_worst_are_among_groups_of_the_same_settings(tmp_path):
    clear(tmp_path / "long", {"adads": 0.9, "random": 0.8}, steps=500)
    clear(tmp_path / "short", {"adads": 0.6, "random": 0.5, "margin": 0.4}, steps=60)
    (found,) = tables(tmp_path)
    marks = {(row.group.one.select, row.group.one.result["steps"]): row.marks for row in found.rows}
    assert marks["adads", 500] == marks["adads", 60] == [BEST] and marks["margin", 60] == [WORST, BELOW]
    assert marks["random", 500] == marks["random", 60] == []
    said = headlines(found)
    assert sum(line.startswith("At ratio 0.1: highest mean select=adads") for line in said) == 2


def test_worse_than_random_only_beside_a_group_that_differs_in_nothing_else(tmp_path):
    reported(tmp_path / "1", 0.7)
    reported(tmp_path / "2", 0.6, select="margin", knowledge="pkd")
    reported(tmp_path / "3", 0.6, select="margin", ratio=0.3)
    assert all(BELOW not in row.marks for row in rows_of(tmp_path).values())


def test_losses_are_better_when_lower(tmp_path):
    (found,) = tables(clear(tmp_path, {"adads": 2.5, "random": 2.6, "margin": 2.7}, stage="pretrain", task="wiki"))
    assert [(row.group.one.select, row.marks) for row in found.rows] == [
        ("adads", [BEST]),
        ("random", []),
        ("margin", [WORST, BELOW]),
    ]


@pytest.mark.parametrize(
    ("paper", "given", "expected"),
    [
        ("adads", {"select": "adads"}, [("5", "accuracy", 90.27)]),
        ("adads", {"select": "least_confidence", "task": "mnli"}, [("1", "accuracy", 80.02), ("1", "accuracy", 80.73)]),
        ("adads", {"select": "all", "ratio": 1.0}, [("1", "accuracy", 90.99)]),
        ("adads", {"select": "adads", "ratio": 0.2}, []),
        ("adads", {"select": "all", "ratio": 1.0, "knowledge": "labels", "queries": 0}, []),
        ("dekd", {"select": "all", "ratio": 1.0}, [("3", "accuracy", 81.37)]),
        ("dekd", {"select": "all", "ratio": 1.0, "layers": [0, 5, 11]}, [("3", "accuracy", 79.66)]),
        ("ksm", {**WHOLE, "knowledge": "ksm", "results": {"policy": {"name": "ksm"}}, "changes": {"weigh": {"reward": "loss"}}}, [("3", "accuracy", 66.8), ("6", "accuracy", 68.4)]),
        ("ksm", {**WHOLE, "knowledge": "ksm", "results": {"policy": {"name": "ksm"}}, "changes": {"weigh": {"reward": "accuracy"}}}, [("6", "accuracy", 66.7)]),
        ("ksm", {**WHOLE, "knowledge": "ksm", "results": {"policy": {"name": "ksm"}}, "changes": {"weigh": {"phase": 1}}}, []),
        ("ksm", {**WHOLE, "results": {"policy": {"name": "ksm"}}}, []),
        ("ksm", {**WHOLE, "knowledge": "ksm"}, [("1", "accuracy", 64.5)]),  # all four sets: not the extremes of Table 2
        ("ksm", {**WHOLE, "knowledge": "ksm", "results": {"policy": {"name": "random_one"}}}, [("2", "best accuracy", 67.2), ("2", "worst accuracy", 58.9)]),
        ("ksm", {"select": "entropy", "ratio": 0.1, "task": "mrpc"}, [("3", "f1", 86.5)]),
        ("adads", {"select": "schedule", "ratio": 0.3, "task": "qqp", "changes": {"select.policy": {"stages": ["entropy", "certainty"]}}}, [("3", "combined", 88.61)]),
        ("adads", {"select": "schedule", "ratio": 0.3, "task": "qqp", "changes": {"select.policy": {"stages": ["margin", "certainty"]}}}, []),
        ("dynamickd", {**AUGMENTED, "select": "entropy", "ratio": 0.1}, [("4", "accuracy", 86.5)]),
        ("dynamickd", {"task": "mrpc", "knowledge": "tinybert", "select": "entropy", "ratio": 0.1}, []),
        ("dynamickd", {**AUGMENTED, "knowledge": "response", "select": "entropy", "ratio": 0.1}, []),
        ("dynamickd", {**WHOLE, "task": "cola", "results": {"adopt": "largest"}, "changes": {"student.hidden": 256}}, [("C", "matthews", 8.8)]),
        ("dekd", {**DEKD, "knowledge": "dekd_no_alignment", "results": {"adopt": "assistant"}}, [("4", "accuracy", 87.38)]),
        ("dekd", {**DEKD, "knowledge": "dekd_no_alignment"}, []),
        ("dekd", {**DEKD, "results": {"adopt": "assistant"}}, [("3", "accuracy", 89.91), ("5", "accuracy", 89.51), ("5", "standard deviation", 0.383)]),
        ("adads", {"select": "adads", "task": "my rows"}, []),
        ("adads", {"select": "adads", "results": {"adopt": "hard"}}, []),
        ("dynamickd", {**WHOLE, "results": {"adopt": "hard"}}, [("1", "accuracy", 66.9)]),
        ("dynamickd", {**WHOLE, "results": {"adopt": "hard"}, "knowledge": "dekd"}, []),
        ("dynamickd", {**WHOLE, "results": {"policy": {"name": "uncertainty"}}, "knowledge": "dynamickd_objective"}, [("5", "accuracy", 66.4)]),
        ("dynamickd", {**WHOLE, "results": {"policy": {"name": "fixed"}}, "knowledge": "dynamickd_objective"}, []),
    ],
)  # fmt: skip
def test_the_printed_number_beside_ours(tmp_path, paper, given, expected):
    reported(tmp_path / "1", 0.6, **{"select": "random", **given})
    (row,) = rows_of(tmp_path, paper).values()
    assert [(one.table, one.metric, one.value) for one in row.published] == expected


# ---- a cache, and preparation

KSM = [
    {"what": "teacher, 6 layers, fine-tuned", "made_now": False, "queries": 0, "flops": 2e12, "seconds": 20.0},
    {"what": "KSM, 2 episodes", "made_now": False, "queries": 20_000, "flops": 4e12, "seconds": 40.0},
]


def answered_by_a_cache(cached: int, **more: Any) -> dict[str, Any]:
    """The ledger of a run whose teacher was never asked."""
    queries = {"total": 0, "unique": 0, "cached": cached}
    return {"teacher_queries": queries, "flops": {"total": 1e12}, "seconds": {"training": 60.0}, **more}


def test_a_run_that_a_cache_answered_stays_what_it_is(tmp_path):
    """Vanilla KD and random selection are baselines, marked, and points of the figure, whoever answered."""
    reported(tmp_path / "all", 0.8, 1, "all", 1.0, results={"ledger": answered_by_a_cache(12_000)})
    reported(tmp_path / "random", 0.6, 1, "random", results={"ledger": answered_by_a_cache(1_200)})
    reported(tmp_path / "adads", 0.7, 1, "adads")
    reported(tmp_path / "labels", 0.5, 1, "all", 1.0, knowledge="labels", queries=0)
    (found,) = tables(tmp_path)
    rows = {row.group.one.folder.name: row for row in found.rows}
    assert {name: row.taught for name, row in rows.items()} == {
        "all": True,
        "random": True,
        "adads": True,
        "labels": False,
    }
    baselines = {name: row.line.baseline and row.line.baseline.one.folder.name for name, row in rows.items()}
    assert baselines == {"all": None, "random": "all", "adads": "random", "labels": "all"}
    assert rows["labels"].line.unlike == "knowledge labels, response" and rows["labels"].line.found is None
    (axes,) = costs.scores(found, "queries").figure.axes
    points = sorted(tuple(one.get_xydata()[0]) for one in means_of(axes))
    np.testing.assert_allclose(points, [(0, 60), (0, 80), (1200, 70)])
    levels = [one.get_ydata()[0] for one in axes.lines if one.get_linestyle() == "--"]
    np.testing.assert_allclose(levels, [90, 50])  # the teacher, labels alone
    left, right = axes.get_xlim()
    assert left < 0 < 1200 < right  # 0 has a place
    text = markdown(build_report([tmp_path], notify=quiet))
    assert "| cached |" in text and " | 1,200 | " in text and "a teacher cache answered" in text


def test_the_page_has_costs_with_and_without_preparation_and_the_front_is_by_the_former(tmp_path):
    reported(
        tmp_path / "ksm", 0.8, 1, "all", 1.0, knowledge="ksm", queries=1000, flops=1e12, results={"preparation": KSM}
    )
    reported(tmp_path / "all", 0.7, 1, "all", 1.0, queries=12_000, flops=3e12, results={"preparation": KSM[:1]})
    reported(tmp_path / "random", 0.6, 1, queries=1200, flops=2e12)
    (found,) = tables(tmp_path)
    rows = {row.group.one.folder.name: row for row in found.rows}
    assert (rows["ksm"].queries.value, rows["ksm"].queries.total) == (1000, 21_000)
    assert (rows["ksm"].flops.value, rows["ksm"].flops.total) == (1e12, 7e12)
    assert (rows["all"].flops.value, rows["all"].flops.total) == (3e12, 5e12)
    (axes,) = costs.scores(found, "queries").figure.axes
    front = front_of(axes)[:3].tolist()  # alone, the KSM run would be cheaper and better than both
    np.testing.assert_allclose(front, [[1200, 60], [12_000, 70], [21_000, 80]])
    assert [1000, 21_000] in [np.array(line.get_xdata()).tolist() for line in axes.lines]  # the cost of the run alone
    assert axes.get_xlabel() == "teacher queries, with preparation"
    (axes,) = costs.scores(found, "flops").figure.axes
    np.testing.assert_allclose(front_of(axes)[:3], [[2e12, 60], [5e12, 70], [7e12, 80]])
    report_ = build_report([tmp_path], notify=quiet)
    (line,) = [one for one in markdown(report_).splitlines() if "knowledge=ksm" in one and one.startswith("| ")]
    assert " | 1,000 (10x) | 21,000 | " in line and " | 1.00 T (3x) | 7.00 T | " in line
    assert "21,000" in html(report_) and "with preparation" in html(report_)


def test_full_data_at_the_same_total_cost_has_its_own_preparation(tmp_path):
    curve = [(0, 0.5), (4e12, 0.70), (5e12, 0.80), (6e12, 0.82)]
    reported(tmp_path / "all", 0.82, 1, "all", 1.0, curve=curve, flops=6e12, results={"preparation": KSM[:1]})
    reported(tmp_path / "adads", 0.75, 1, "adads", flops=4.5e12, results={"preparation": KSM[:1]})
    reported(tmp_path / "margin", 0.75, 1, "margin", flops=4.5e12, results={"preparation": [{**KSM[0], "flops": 3e12}]})
    rows = rows_of(tmp_path)
    assert (
        rows["adads 0.1"].same_cost == rows["adads 0.1"].same_total == pytest.approx(0.75)
    )  # 4.5e12, and 6.5e12 of both
    assert rows["margin 0.1"].same_total == pytest.approx(0.81)  # 7.5e12 less 2e12 is halfway from 5e12 to 6e12


def test_a_total_that_is_a_lower_bound_is_marked(tmp_path):
    unknown = [{**KSM[1], "queries": None, "flops": None, "seconds": None}]
    reported(tmp_path / "1", 0.8, 1, "adads", results={"preparation": unknown})
    reported(tmp_path / "2", 0.7, 1, "random")
    text = markdown(build_report([tmp_path], notify=quiet))
    assert "| ≥ 1,200 |" in text and "recorded no cost" in text


def test_learning_curves_against_queries_begin_at_the_preparation(tmp_path):
    evaluated(reported(tmp_path / "1", 0.6, 1, "all", 1.0, results={"preparation": KSM}), (0, 0.5, 0), (10, 0.6, 100))
    (found,) = tables(tmp_path)
    (axes,) = training.learning(found, found.rows, "queries").figure.axes
    assert axes.lines[-1].get_xdata().tolist() == [20_000, 20_100]


# ---- choosing runs


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (["select=adads"], {"adads"}),
        (["select.ratio=1"], {"all"}),
        (["select=all"], {"all"}),
        (["select!=random,entropy"], {"adads", "all"}),
        (["teachers.cache=off", "logger=csv"], {"random", "adads", "entropy", "all"}),
        (["seed=2", "select.ratio=0.10"], {"random", "adads", "entropy"}),
        (["knowledge=response", "data.batch_size=64.0"], {"random", "adads", "entropy", "all"}),
        (["student.layers=[0,2,4]".replace(",", ", ")], {"random", "adads", "entropy", "all"}),
    ],
)
def test_where(tmp_path, given, seen):
    assert {run.select for run in where(read([nine(tmp_path)])[0], given)} == seen


def test_a_page_says_which_runs_it_is_about(tmp_path):
    found = build_report([nine(tmp_path)], conditions=["select=adads", "seed=2"], notify=quiet)
    assert [run.folder.name for run in found.tables[0].runs] == ["seed=2,select=adads"]
    assert "Only runs with select=adads and seed=2." in html(found)


# ---- files


def write(*given: Any) -> int:
    return report.main([str(one) for one in given])


def test_the_files_that_the_command_writes(tmp_path, monkeypatch, capsys):
    home = nine(tmp_path / "runs")
    torn = made_run(home / "torn", 0.1, 9)
    (torn / "result.json").write_text('{"status": "fini')
    monkeypatch.chdir(tmp_path)
    assert write("runs", "--paper", "adads") == 0
    out = capsys.readouterr()
    assert (
        "8 runs in 4 groups; runs/report.html" in out.out and f"left out, half-written: {Path('runs/torn')}" in out.err
    )
    page, text = (home / "report.html").read_text(), (home / "report.md").read_text()
    assert "half-written" in page and "half-written" in text and "runs/torn" in page
    random = [0.68, 0.72]
    pairs = {"adads": ([0.75, 0.77], random), "entropy": ([0.65, 0.67], random), "random": (random, [0.81, 0.83])}
    p = sorted(stats.ttest_rel(own, base).pvalue for own, base in pairs.values())
    holm = [max(min(1, (3 - i) * p[i]) for i in range(rank + 1)) for rank in range(3)]
    written = {line.split(" | ")[6] for line in text.splitlines() if re.match(r"\| [234] \|", line)}
    assert written == {f"{one:.3f}" for one in holm}
    adads = next(line for line in text.splitlines() if line.startswith("| 2 |"))
    assert adads.split(" | ")[1:4] == ["`select=adads ratio=0.1`", "76.00 ± 1.41", "84.4 %"]
    assert "+6.00 (#3)" in adads and "1,200 (10x)" in adads and "3.00 T (3.33x)" in adads
    assert "accuracy 90.27 (Table 5, bert-6)" in adads
    assert "66.00 ± 1.41 |" in text and "**" not in text  # no mark beside "more than chance"
    assert "No difference from a baseline is more than chance" in text
    assert "a t-test over so few seeds has little power" in text
    assert "replaces" not in out.err
    assert write("runs") == 0  # a report may be written again, and that is said
    assert "runs/report.html replaces a former report: sst2: 8 runs in 4 groups" in capsys.readouterr().err


def test_a_page_is_the_same_whenever_it_is_made(tmp_path):
    home = nine(tmp_path)
    assert html(build_report([home], notify=quiet)) == html(build_report([home], notify=quiet))


def test_tasks_have_a_table_each_and_share_only_what_all_have(tmp_path, capsys):
    nine(tmp_path / "sst2")
    nine(tmp_path / "rte", task="rte")
    reported(tmp_path / "more", 0.5, select="margin", task="rte")
    found = build_report([tmp_path])
    assert "runs of 2 tasks (rte, sst2)" in capsys.readouterr().out
    text = markdown(found)
    lines = [line for line in text.split("## All tasks")[1].split("##")[0].splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == [
        "select=all", "select=adads ratio=0.1", "select=random ratio=0.1", "select=entropy ratio=0.1",
    ]  # fmt: skip
    assert lines[1].endswith("| 76.00 |") and text.count("\n## ") == 3


def test_text_and_tasks_are_compared_apart(tmp_path):
    nine(tmp_path / "sst2")
    reported(tmp_path / "text", 2.5, stage="pretrain", task="wiki")
    text = markdown(build_report([tmp_path], notify=quiet))
    assert "## wiki (loss, lower is better)" in text and "## sst2 (score (%), higher is better)" in text
    assert "All tasks" not in text and "runs of two stages" in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["{home}/nowhere"], "there is no such folder"),
        (["{home}/empty"], "no finished run in"),
        (["{home}/torn"], "no finished run in {home}/torn (1 left out: half-written)"),
        (
            ["{home}", "--where", "selct=adads"],
            "--where selct=adads: no run has a setting selct; did you mean select or",
        ),
        (["{home}", "--where", "select=margin"], "no run is left; select is "),
        (["{home}", "--where", "seed"], "KEY=VALUE or KEY!=VALUE was expected"),
        (["{home}", "--metric", "scor"], "did you mean score?"),
        (["{home}", "--baseline", "margin"], "has no such group"),
        (["{home}", "--out", "{home}/x.pdf"], "a page ends in .html"),
        (["{home}", "--out", "{home}/none/x.html"], "there is no folder"),
        (["{home}", "--out", "{home}/mine.html"], "mine.md is there and no report of kdlab's"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, given, said):
    home = nine(tmp_path / "runs")
    (home / "empty").mkdir()
    (home / "torn").mkdir()
    (home / "torn" / "result.json").write_text('{"status"')
    (home / "mine.md").write_text("# my notes\n")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert write(*(one.format(home=home) for one in given)) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "left out, " not in line]
    assert len(err) == 1 and err[0].startswith("kdlab: ") and said.format(home=home) in err[0]
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_damaged_table_costs_its_figure_and_no_more(tmp_path):
    home, said = nine(tmp_path), []
    (home / "seed=1,select=adads" / "selector.csv").write_text("time,arm\n1,margin\n")
    (home / "seed=1,select=all" / "metrics.csv").write_text("step,flops\nten,3\n")
    found = build_report([home], notify=said.append)
    assert len(found.tables[0].rows) == 4
    assert sum("selector.csv has no column step" in line for line in said) == 1
    assert any("metrics.csv line 2: step must be a number" in line for line in found.remarks)


# ---- what strangers write


class Reader(HTMLParser):
    """All tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_stay_text(tmp_path):
    hostile(tmp_path / "runs")
    reported(tmp_path / "runs" / "good", 0.6, select="random", task='sst2"><iframe src="http://x.test">')
    found = build_report([tmp_path / "runs"], notify=quiet)
    page = Reader(html(found))
    own = {tag for tag, _ in page.tags}
    assert not own & {"script", "iframe", "b", "object", "form"}
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    links = [value or "" for _, one in page.tags for name, value in one.items() if name in ("src", "href")]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert all(one in page.text for one in ("onerror=alert(2)>", "<b>teacher</b>", "{{7*7}}", "<script>alert(3)<"))
    (policy,) = [one["content"] for tag, one in page.tags if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'")
    bare = re.sub(r"`[^`\n]*`", "", markdown(found))
    assert "<script" not in bare and "<iframe" not in bare and "<img" not in bare
    for line in markdown(found).splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 15  # no cell came to or went


def test_every_image_is_within_the_page_and_has_its_size_and_words(tmp_path):
    page = Reader(html(build_report([nine(tmp_path)], notify=quiet)))
    images = [one for tag, one in page.tags if tag == "svg"]
    assert len(images) == 3  # against queries, against FLOPs, the schedule of AdaDS
    for one in images:
        _, _, wide, high = map(float, (one["viewbox"] or "").split())
        assert one["role"] == "img" and one["aria-label"] and wide > 300 and high > 150
    ids = [one["id"] for _, one in page.tags if one.get("id")]
    assert len(set(ids)) == len(ids)
    used = {one["href"] for tag, one in page.tags if tag == "use"}
    assert used and {f"#{name}" for name in ids} >= used


# ---- figures


def test_scores_against_queries_with_the_front(tmp_path):
    nine(tmp_path)
    reported(tmp_path / "none", 0.6, select="all", ratio=1.0, knowledge="labels", queries=0)
    (found,) = tables(tmp_path)
    (axes,) = costs.scores(found, "queries").figure.axes
    np.testing.assert_allclose(front_of(axes)[:2], [[1200, 76], [12000, 82]])
    assert list(axes.lines[1].get_ydata()) == [60, 60]  # labels alone ask no teacher
    filled = [one.get_ydata()[0] for one in means_of(axes) if one.get_markerfacecolor() != "white"]
    np.testing.assert_allclose(sorted(filled), [76, 82])
    (axes,) = costs.scores(found, "flops").figure.axes
    np.testing.assert_allclose(front_of(axes)[:3, 1], [70, 76, 82])  # random is the cheapest


def test_scores_against_the_ratio_of_a_task_and_over_tasks(tmp_path):
    for task, add in (("sst2", 0.0), ("rte", 0.1)):
        for select, ratio, score in (("adads", 0.1, 0.6), ("adads", 0.3, 0.7), ("random", 0.1, 0.5), ("all", 1.0, 0.8)):
            reported(tmp_path / f"{task} {select} {ratio}", score + add, select=select, ratio=ratio, task=task)
    runs = read([tmp_path])[0]
    rows = by_ratio([run for run in runs if run.task == "sst2"])
    scale = metric_scale("score", ["accuracy"])
    (axes,) = by_setting.ratios(rows, scale, "sst2", {}).figure.axes
    curves = [one.get_xydata().tolist() for one in axes.lines if one.get_marker() == "o"]
    assert [[0.1, 60.0], [0.3, 70.0]] in curves and [[0.1, 50.0]] in curves
    mean = {
        (row["select"], row["ratio"]): row["mean"] for row in by_setting.averaged(by_ratio(runs), {"sst2": 1, "rte": 1})
    }
    assert mean == pytest.approx(
        {("adads", 0.1): 0.65, ("adads", 0.3): 0.75, ("random", 0.1): 0.55, ("all", 1.0): 0.85}
    )
    assert by_setting.averaged(rows, {"sst2": 1}) == []
    assert by_setting.ratios([row for row in rows if row["ratio"] != 0.3], scale, "sst2", {}) is None


# AdaDS Table 1, random at 10 %: MNLI-m, MNLI-mm, SST-2, QNLI, QQP; the paper's mean of them is 84.92
RANDOM = (80.16, 80.66, 89.96, 86.34, 87.47)


def random_of_table_1(home):
    m, mm, *others = RANDOM
    mnli = {"accuracy": m / 100, "accuracy_mismatched": mm / 100}
    reported(home / "mnli", (m + mm) / 200, task="mnli", select="random", ratio=0.1, metrics=mnli)
    for task, score in zip(("sst2", "qnli", "qqp"), others, strict=True):
        reported(home / task, score / 100, task=task, select="random", ratio=0.1)


@pytest.mark.parametrize(
    ("paper", "mean"), [(None, 84.92), ("adads", 84.92), ("dekd", (80.41 + 89.96 + 86.34 + 87.47) / 4)]
)
def test_the_mean_over_tasks_counts_mnli_as_the_paper_does(tmp_path, paper, mean):
    random_of_table_1(tmp_path)
    report = build_report([tmp_path], paper, notify=quiet)
    ((_, _, found),) = overview(report.tables)[1]
    assert 100 * found == pytest.approx(mean, abs=0.0051)
    rows = by_setting.averaged(
        by_ratio(read([tmp_path])[0]), {table.comparison.task: table.scores for table in report.tables}
    )
    assert [100 * row["mean"] for row in rows] == pytest.approx([mean], abs=0.0051)
    assert any("MNLI as two scores" in note for note in explained(report)) == (paper != "dekd")


def test_the_ratio_figure_shows_the_metric_of_the_table(tmp_path, monkeypatch):
    for ratio, loss in ((0.1, 1.5), (0.3, 1.25)):
        reported(tmp_path / f"{ratio}", 0.6, select="adads", ratio=ratio, metrics={"loss": loss, "accuracy": loss / 2})
    drawn = []
    made = reporting_report.picture
    monkeypatch.setattr(
        reporting_report, "picture", lambda task, drawing: drawn.append(drawing.figure) or made(task, drawing)
    )
    for metric, label, means in (("loss", "loss", [1.5, 1.25]), ("accuracy", "accuracy (%)", [75, 62.5])):
        drawn.clear()
        build_report([tmp_path], metric=metric, notify=quiet)
        (axes,) = drawn[0].axes
        assert axes.get_ylabel() == label
        assert [list(one.get_ydata()) for one in axes.lines if one.get_marker() == "o"] == [means]


def evaluated(folder: Path, *rows: tuple[float, float, float]) -> None:
    """A run's metrics.csv: (step, score, teacher queries) rows, and one of the training between them."""
    lines = [f"{step},{score},{queries}" for step, score, queries in rows]
    (folder / "metrics.csv").write_text("\n".join(["step,heldout_score,teacher_queries", *lines, "5,,"]) + "\n")


def test_learning_curves_are_the_mean_over_seeds_where_all_were_evaluated(tmp_path):
    evaluated(reported(tmp_path / "1", 0.6, 1, "adads"), (0, 0.5, 0), (10, 0.6, 100), (20, 0.7, 200))
    evaluated(reported(tmp_path / "2", 0.6, 2, "adads"), (0, 0.5, 0), (10, 0.8, 300), (30, 0.9, 400))
    evaluated(reported(tmp_path / "all", 0.8, 1, "all", 1.0), (0, 0.5, 0), (30, 0.9, 3000))
    reported(tmp_path / "random", 0.6, 1, "random")  # evaluated at the end alone
    (found,) = tables(tmp_path)
    for against, x, far in (("step", 10, 30), ("queries", 200, 3000)):
        (axes,) = training.learning(found, found.rows, against).figure.axes
        full, adads = (line.get_xydata().tolist() for line in axes.lines[1:])  # the first is the teacher's
        assert full == [[0, 50], [far, 90]]
        np.testing.assert_allclose(adads, [[0, 50], [x, 70]])
        (band,) = (one.get_paths()[0].vertices for one in axes.collections)  # one seed has no band
        heights = [y for at, y in band if at == x]
        assert (min(heights), max(heights)) == pytest.approx((70 - 200**0.5, 70 + 200**0.5))  # deviation of 60 and 80
        assert sorted(text.get_text() for text in axes.texts) == ["1", "2"]  # rows of the table, at the curves' ends
    apart = [row for row in found.rows if row.group.one.select != "adads"]
    assert training.learning(found, apart, "step") is None
    captions = [one.caption for one in build_report([tmp_path], notify=quiet).sections[0].pictures]
    assert sum("along the training" in caption for caption in captions) == 2


def test_a_schedule_is_the_mean_over_seeds(tmp_path):
    taken = [(step, "entropy" if step < 60 else "margin") for step in range(0, 100, 10)]
    reported(tmp_path / "1", 0.6, 1, "adads", taken=taken)
    reported(tmp_path / "2", 0.6, 2, "adads", taken=[(0, "margin"), *((step, "margin") for step in range(10, 100, 10))])
    (found,) = tables(tmp_path)
    drawing = training.schedule(found, found.rows[0], quiet)
    (axes,) = drawing.figure.axes
    low = axes.collections[0].get_paths()[0].vertices  # entropy: all of seed 1 up to 60 %, so half; three windows
    heights = {float(x): float(y) for x, y in low if y > 0}
    assert max(heights.values()) == pytest.approx(50)
    assert [text.get_text() for text in drawing.figure.texts] == ["entropy 30 %", "margin 70 %"]
    shares = [(row["entropy"], row["margin"]) for row in drawing.rows]
    np.testing.assert_allclose(shares, [(50, 50), (40, 60), (0, 100)])  # 60 of 100 steps end in the second of 3 windows
    reported(tmp_path / "still" / "1", 0.6, 1, "margin", taken=[(0, "margin")])
    (found,) = tables(tmp_path / "still")
    assert training.schedule(found, found.rows[0], quiet) is None


@pytest.mark.parametrize(
    ("part", "found", "name"),
    [
        ("select", {}, "select.name"),
        ("metrics", {"student": []}, "metrics.student"),
        (
            "ledger",
            {"teacher_queries": {"total": "many"}, "flops": {"total": 1}, "seconds": {}},
            "ledger.teacher_queries.total",
        ),
    ],
)
def test_a_result_that_no_run_wrote_is_left_out(tmp_path, part, found, name):
    nine(tmp_path)
    reported(tmp_path / "odd", 0.9, 7, results={part: found})
    left = build_report([tmp_path], notify=quiet).left_out
    (said,) = left.values()
    assert list(left) == [str(tmp_path / "odd")] and said.startswith("result.json is not as runs write it: ")
    assert all(part in said for part in name.split("."))


def test_a_configuration_with_a_broken_reference_is_one_line(tmp_path):
    file = made_run(tmp_path / "1", 0.6) / "config.yaml"
    file.write_text("name: ${oops\n")
    with pytest.raises(UserError, match=r"config.yaml cannot be read: name: "):
        config_of(file.parent)


def test_results_of_a_run_that_says_less(tmp_path):
    """Results from before speed-ups, policies and stages were written."""
    folder = made_run(tmp_path / "1", 0.6)
    result = json.loads((folder / "result.json").read_text())
    for name in ("stage", "knowledge"):
        del result[name]
    result["metrics"]["student"] = {"loss": 2.5}
    (folder / "result.json").write_text(json.dumps(result))
    text = markdown(build_report([tmp_path], paper="ksm", notify=quiet))
    assert "2.5000" in text and "--paper ksm: it prints no number" in text.replace("\\", "")
