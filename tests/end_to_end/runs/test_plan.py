"""`kdlab plan` and `--plan`: the forecast of a run agrees with what it then costs, and writes nothing of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.runs import call, outcome, tiny_task


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("plans")


def test_a_plan_writes_nothing_and_names_what_is_missing(place, teacher_folder, task_folder):
    rates = ["budget.price_per_query=0.5", "plan.price_per_hour=0"]  # the same rates by either name
    done = call([*tiny_task(teacher_folder, task_folder, "hydra.run.dir=run", *rates), "--plan", "--dry-run"], place)
    assert done.code == 0, done.output
    lines = {line.split("  ")[0]: line.split() for line in done.output.splitlines()}
    assert lines["teacher queries"][2:4] == ["32", "128"]  # 8 steps of 16 rows, a quarter of them
    assert lines["price"][1:3] == ["16", "64"]
    assert "fine-tuned: to be made: 0 queries" in done.output and "memory at the peak" in done.output
    assert {entry.name for entry in place.iterdir() if not entry.name.startswith("log-")} == set()


def test_a_run_with_a_plan_shows_both_and_is_the_same_run(place, teacher_folder, task_folder):
    given = tiny_task(teacher_folder, task_folder, "trainer.probes=0")
    plain = call([*given, "hydra.run.dir=plain"], place)
    assert plain.code == 0, plain.output
    done = call([*given, "hydra.run.dir=planned", "--plan"], place)
    assert done.code == 0, done.output
    assert outcome(place / "planned") == outcome(place / "plain")
    result = json.loads((place / "planned" / "result.json").read_text())
    plan = result["plan"]
    assert plan["steps"] == {"forecast": 8, "real": 8} and plan["forecast"]["queries"] == plan["real"]["queries"] == 32
    assert plan["real"]["flops"] == result["ledger"]["flops"]["total"]
    assert plan["forecast"]["flops"] == pytest.approx(plan["real"]["flops"], rel=0.15)
    parts = json.loads((place / "planned" / "plan.json").read_text())["flops"]
    for name, expected in parts.items():
        assert expected == pytest.approx(result["ledger"]["flops"][name], rel=0.2), name
    assert plan["forecast"]["disk"] == pytest.approx(plan["real"]["disk"], rel=0.5)
    assert plan["forecast"]["memory"] > 1e8 and plan["forecast"]["seconds"] > 0
    assert "plan                       forecast         real      off" in done.output
    assert "fine-tuned: found, costs nothing" in done.output and "plan" not in json.loads(
        (place / "plain" / "result.json").read_text()
    )
