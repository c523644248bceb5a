"""Budgets: the number of steps is planned for them, no run costs more, and an interrupted one ends at the same step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdlab.storage import tables
from tests.support.runs import KillAt, call, outcome, tiny_task

BATCH, KEPT = 16, 4
OPEN = ["select=random", "trainer.max_steps=null", "trainer.max_epochs=null", "trainer.probes=0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("budgets")


def run(
    place: Path, teacher: Path, rows: Path, name: str, *more: str, prepare: Any = None
) -> tuple[Any, dict[str, Any]]:
    done = call(tiny_task(teacher, rows, f"hydra.run.dir={name}", *more), place, prepare)
    file = place / name / "result.json"
    return done, json.loads(file.read_text()) if file.is_file() else {}


def test_a_budget_of_queries_is_the_run_of_as_many_steps(place, teacher_folder, task_folder):
    """27 queries at 4 a step are 6 steps; the run is bit for bit that of trainer.max_steps=6, also after a kill."""
    given = (place, teacher_folder, task_folder)
    plain = run(*given, "steps", "select=random", "trainer.max_steps=6", "trainer.probes=0")  # and makes the teacher
    assert plain[0].code == 0, plain[0].output
    killed = run(*given, "queries", *OPEN, "budget.queries=27", prepare=KillAt(4))[0]
    assert killed.code != 0 and "budget: 27 queries: planned for 6 steps" in killed.output, killed.output
    done, result = run(*given, "queries", *OPEN, "budget.queries=27")
    assert done.code == 0 and "planned for" not in done.output, done.output  # the plan is that of the first start
    assert outcome(place / "queries") == outcome(place / "steps")
    budget = result["budget"]
    assert result["steps"] == 6 == budget["planned"]["steps"] and budget["ended_by"] == "queries"
    assert budget["asked"] == {"queries": 27} and budget["spent"]["queries"] == budget["planned"]["queries"] == 24


def test_the_cost_of_another_run_in_flops(place, teacher_folder, task_folder):
    """At most that run's FLOPs, and less only by a step, whichever strategy spent them; killed or not."""
    given = (place, teacher_folder, task_folder)
    other = run(*given, "adads", "select=adads", "trainer.probes=0")[1]["ledger"]["flops"]["total"]
    done, result = run(*given, "like", *OPEN, "budget.like=adads")
    assert done.code == 0, done.output
    spent = result["ledger"]["flops"]["total"]
    assert result["budget"]["asked"] == {"flops": other} and result["steps"] > 8
    assert 0.85 * other < spent <= other and result["budget"]["spent"]["flops"] == spent
    assert float(tables.read(place / "like" / "metrics.csv")[-1]["flops"]) == spent
    run(*given, "killed", *OPEN, "budget.like=adads", prepare=KillAt(result["steps"] - 2))
    done, _ = run(*given, "killed", *OPEN, "budget.like=adads")
    assert done.code == 0 and outcome(place / "killed") == outcome(place / "like"), done.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["budget.queries=3"], "budget.queries=3: less than one step costs, which is 4 or more"),
        (["budget.flops=10"], "budget.flops=10: less than one step costs"),
        (["budget.queries=0"], "budget.queries=0: a whole number, at least 1"),
        (["budget.seconds=-1"], "budget.seconds=-1"),
        (["budget.price=1"], "budget.price: a price needs a rate"),
        (["budget.like=nowhere"], "nowhere is not a run folder"),
        (["budget.like=a", "budget.flops=1e9"], "two budgets of one kind"),
        (["budget.queries=9", "knowledge=labels"], "queries no teacher"),
        (["trainer.max_steps=null"], "there is no budget"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_in_a_line(more, said, tmp_path, teacher_folder, task_folder):
    done = call(tiny_task(teacher_folder, task_folder, "select=random", "hydra.run.dir=run", *more), tmp_path)
    lines = [line for line in done.output.splitlines() if line.startswith("kdlab: ")]
    assert done.code == 2 and len(lines) == 1 and said in lines[0], done.output
    assert not (tmp_path / "run").exists() and not (tmp_path / "artifacts").exists()
