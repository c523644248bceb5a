"""Sweeps over budgets: groups, figures by budget and analyses of their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdlab.plotting.metrics import metric_scale
from kdlab.reporting.analyses import across_runs
from kdlab.reporting.comparison import compare
from kdlab.reporting.figures import by_setting
from kdlab.reporting.report import _by_setting
from kdlab.reporting.seed_groups import read
from kdlab.reporting.tables import task_table
from tests.support.made_runs import made_run

SCORES = {("random", 100): 0.5, ("random", 200): 0.6, ("adads", 100): 0.55, ("adads", 200): 0.7}


def budgeted(folder: Path, score: float, select: str, seed: int, key: str, value: Any, asked: float) -> None:
    """A run with a budget of queries; AdaDS observes as often as its steps ask for, which differ by seed and budget."""
    steps = int(asked) // 2 + seed
    results: dict[str, Any] = {"steps": steps, "budget": {"asked": {"queries": asked}, "spent": {"queries": asked}}}
    changes: dict[str, Any] = {"budget": {key: value, "by": "queries"}, "trainer.max_steps": None}
    if select == "adads":
        results["observation"] = {"interval": steps // 10, "rows": 8, "share": 0.08, "rewards": 10}
        changes |= {"select.interval": "auto", "select.policy": {"_target_": "kdlab.methods.selection.policies.Online"}}
    made_run(folder, score, seed, select, results=results, changes=changes)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two strategies, two budgets, two seeds."""
    for (select, queries), score in SCORES.items():
        for seed, add in ((1, -0.01), (2, 0.01)):
            folder = tmp_path / f"{select}-{queries}-s{seed}"
            budgeted(folder, score + add, select, seed, "queries", queries, float(queries))
    return tmp_path


def test_seeds_and_strategies_of_one_budget_compare_whatever_their_steps_and_observations(home):
    (found,) = compare(read([home])[0])
    assert sorted((line.group.name, line.baseline.name, line.unlike) for line in found.lines if line.baseline) == [
        ("select=adads budget.queries=100", "select=random budget.queries=100", ""),
        ("select=adads budget.queries=200", "select=random budget.queries=200", ""),
    ]
    assert all(sorted(line.values) == [1, 2] for line in found.lines)


def test_the_report_draws_scores_against_the_budgets_a_line_a_strategy(home):
    (found,) = compare(read([home])[0])
    (drawing,) = [one for one in _by_setting(task_table(found, None, print)) if one is not None]
    assert drawing.name == "score_by_budget_of_queries"
    (axes,) = drawing.figure.axes
    assert axes.get_xlabel() == "budget: teacher queries"
    curves = [pytest.approx(line.get_xydata()) for line in axes.lines]
    assert [[100, 50.0], [200, 60.0]] in curves and [[100, 55.0], [200, 70.0]] in curves
    assert (
        "score x 100" not in drawing.caption and "by the budget of teacher queries, mean over seeds" in drawing.caption
    )


def test_runs_of_budget_like_stand_at_the_mean_of_the_costs_that_they_are_like(tmp_path):
    for seed, asked in ((1, 90.0), (2, 110.0)):
        budgeted(tmp_path / f"like-s{seed}", 0.5, "random", seed, "like", f"outputs/adads-r0.1-s{seed}", asked)
        budgeted(tmp_path / f"more-s{seed}", 0.6, "random", seed, "queries", 200, 200.0)
    rows = across_runs.by_budget(read([tmp_path])[0], "queries")
    assert [(row["select"], row["setting"], row["budget"], row["seeds"]) for row in rows] == [
        ("random", "", 100.0, 2), ("random", "", 200.0, 2),
    ]  # fmt: skip
    assert across_runs.by_budget(read([tmp_path])[0], "flops") == []
    assert by_setting.budgets(rows[:1], "queries", metric_scale("score"), "", {}, "one") is None  # one budget


def test_analyses_take_budgets_as_settings(home):
    found = across_runs.against([home], "budget.queries")
    assert [(row["select"], row["budget.queries"], row["seeds"]) for row in found.rows] == [
        (f"select={select}", queries, 2) for select in ("adads", "random") for queries in (100, 200)
    ]
    assert found.nothing == ""
    settings = {row["setting"] for row in across_runs.by_ratio(read([home])[0])}
    assert settings == {"budget.queries=100", "budget.queries=200"}
