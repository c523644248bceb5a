"""Collapsed runs are marked wherever their mean stands: comparison, report, LaTeX, overview over tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.reporting import baselines
from kdlab.reporting.comparison import compare
from kdlab.reporting.comparison_text import text
from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_latex import latex
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.report import build_report
from kdlab.reporting.seed_groups import Run, grouped, read
from kdlab.reporting.tables import overview
from tests.support.made_runs import made_run

FELL = {"collapsed": {"what": "score", "step": 50, "value": 0.3, "bound": 0.5, "text": "the student has collapsed"}}
MARK = "1 of 3 collapsed"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Two groups on two tasks; one of three seeds of entropy on SST-2 has collapsed."""
    home = tmp_path_factory.mktemp("collapsed")
    for task in ("sst2", "rte"):
        for seed in (1, 2, 3):
            fell = task == "sst2" and seed == 3
            results = FELL if fell else {}
            made_run(
                home / f"{task}-e{seed}", 0.3 if fell else 0.8 + seed / 100, seed, "entropy", task=task, results=results
            )
            made_run(home / f"{task}-r{seed}", 0.7 + seed / 100, seed, task=task)
    return home


def of_task(home: Path, task: str) -> list[Run]:
    return [run for run in read([home])[0] if run.task == task]


def test_groups_and_comparisons_name_them(home):
    names = [group.name for group in grouped(of_task(home, "sst2"))]
    assert sorted(names) == [f"select=entropy [{MARK}]", "select=random"]
    assert all("collapsed" not in group.name for group in grouped(of_task(home, "rte")))
    tables = {one.task: text(one) for one in compare(read([home])[0])}
    assert f"select=entropy [{MARK}]" in tables["sst2"] and "collapsed" not in tables["rte"]


def test_a_baseline_is_found_by_its_plain_name(home):
    groups = grouped(of_task(home, "sst2"))
    for name in ("select=entropy", f"select=entropy [{MARK}]"):
        chosen = baselines.named(name, groups, "sst2")
        assert [one is None for one in chosen] == [group.one.select == "entropy" for group in groups]


def test_pages_and_the_mean_over_tasks_show_them(home):
    report = build_report([home], notify=lambda line: None)
    page, plain = html(report), markdown(report)
    assert page.count(f'<span class="tag bad">{MARK}</span>') == 2  # in the task's table and in the overview
    assert plain.count(f"({MARK})") == 2 and f"[{MARK}]" in latex(report)
    tasks, lines = overview(report.tables)
    assert len(tasks) == 2 and sorted(name for name, *_ in lines) == ["select=entropy", "select=random"]
    assert all(mean is not None for *_, mean in lines)  # one line for both tasks, whatever has collapsed in one
    assert any(row.title == f"entropy [{MARK}]" for table in report.tables for row in table.rows)
