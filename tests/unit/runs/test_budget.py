"""Plans of budgets, before anything is made: costs without weights, preparation, seconds, two ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.runs import budget
from kdlab.runs.prepare import most_batches
from kdlab.runtime.ledger import Ledger
from kdlab.stages.costs.step_costs import StepCosts
from kdlab.stages.registry import stage_of
from kdlab.testing.child_process import tiny, tiny_task

OPEN = ["trainer.max_steps=null", "trainer.max_epochs=null"]
NOTHING = "nothing may be made"


@pytest.fixture
def make(tmp_path, monkeypatch, teacher_folder, text_folder, task_folder):
    """The stage of a tiny run on labelled rows, or on text, and its data."""
    monkeypatch.chdir(tmp_path)

    def made(*more: str, text: bool = False) -> tuple[Any, Any]:
        command = tiny(teacher_folder, text_folder, *more) if text else tiny_task(teacher_folder, task_folder, *more)
        stage = stage_of(checked(composition(command)[0]), lambda line: None)
        return stage, stage.inputs.data_module(most_batches(stage.config), None)

    return made


@pytest.mark.parametrize(
    ("text", "more"),
    [
        (True, ["select=adads"]),
        (False, ["select=entropy", "+teachers.others.small.layers=1", "adopt=hard"]),
        (False, ["select=random", "knowledge=tinybert", "student.hidden=16", "knowledge.phases=[0.5]"]),
    ],
)
def test_costs_without_weights_are_those_of_the_models(make, text, more):
    stage, data = make(*more, text=text)
    costs = StepCosts(stage, stage.module_without_weights(), data, 2)
    ledger = Ledger(len(data.train), True)
    teachers = [stage.teacher_pool.teacher(member, ledger) for member in stage.teacher_pool.members] if text else None
    if teachers is None:  # the models that are fine-tuned have the sizes of those that are not
        load = stage.inputs.load
        stage.teacher_pool.load = lambda member: (
            load(member.source.place) if member.layers is None else _layers(stage, member)
        )
        teachers = [stage.teacher_pool.teacher(member, ledger) for member in stage.teacher_pool.members]
    whole = StepCosts(stage, stage.student_module(stage.student(*teachers), teachers, ledger, 1), data, 2)
    assert costs.total(8) == whole.total(8) and costs.most(3, 8) == whole.most(3, 8)


@pytest.mark.parametrize("text", [True, False])
def test_scoring_costs_the_share_that_is_looked_at(make, text):
    """Of 32 rows a step on two ranks 12 are scored: floor(0.4 x 32)."""
    parts: dict[str, Any] = {}
    for select in ("entropy", "random"):
        for look in (0.4, 1.0):
            stage, data = make(f"select={select}", f"select.look={look}", text=text)
            costs = StepCosts(stage, stage.module_without_weights(), data, 2)
            parts[f"{select} {look:g}"] = costs.total(1), costs.most(0, 8)
    every, few = parts["entropy 1"], parts["entropy 0.4"]
    assert few[0].parts["scoring"] == pytest.approx(
        every[0].parts["scoring"] * 12 / 32, rel=0.02
    )  # the last batch is smaller
    assert 0.3 * every[1].parts["scoring"] < few[1].parts["scoring"] < 0.6 * every[1].parts["scoring"]
    assert {**few[0].parts, "scoring": 0} == {**every[0].parts, "scoring": 0} and few[0].queries == every[0].queries
    assert parts["random 0.4"] == parts["random 1"]


def test_probes_cost_a_training_of_each_arm_and_an_observation_before_and_after(make):
    """Two probes in eight steps, of two steps for each arm, beside what the run costs without them."""
    stage, data = make("select=adads", "select.interval=4", "select.evaluation_rows=8")
    module = stage.module_without_weights()
    found = {name: StepCosts(stage, module, data, 1) for name in ("plain", "probed")}
    found["probed"].observe(replace(found["probed"].select, probe_every=4, probe_steps=2))
    two = found["plain"].total(2)  # the first observation and two steps
    observation, arms = two.parts["observation"], len(found["plain"].select.arms)
    probe = arms * (two.flops - observation) + (1 + arms) * observation
    without, probed = found["plain"].total(8), found["probed"].total(8)
    assert probed.parts["paired_probe"] == pytest.approx(2 * probe)
    assert {**probed.parts, "paired_probe": 0} == {**without.parts, "paired_probe": 0}
    assert probed.queries == without.queries + 2 * arms * two.queries
    most = {name: [costs.most(step, 8) for step in range(8)] for name, costs in found.items()}
    more = [a.flops - b.flops for a, b in zip(most["probed"], most["plain"], strict=True)]
    assert [step for step, amount in enumerate(more) if amount] == [0, 4] and min(more[0], more[4]) >= probe


@pytest.mark.parametrize(
    ("compare", "every", "at"),
    [("all", None, {2: 1, 6: 1}), ("all", 2, {2: 1, 4: 1, 6: 1}), (2, 2, {2: 2, 4: 1, 6: 2}), ("all", 4, {2: 1, 4: 1, 6: 1})],
)  # fmt: skip
def test_no_probe_is_run_before_the_policy_begins(make, compare, every, at):
    """Two steps of eight are a warm-up, then a reward is due every four; `at`: the probes of each step, by hand. One that
    measures all arms is the reward's too, if that compares all."""
    reward = "select.reward._target_=kdlab.methods.selection.rewards.Probe", f"+select.reward.compare={compare}"
    stage, data = make(
        "select=thompson", *reward, f"select.probe_every={every or 'null'}", "select.warmup=0.25", "select.interval=4",
        "select.evaluation_rows=8",
    )  # fmt: skip
    costs = StepCosts(stage, stage.module_without_weights(), data, 1)
    most = [costs.most(step, 8).parts.get("paired_probe", 0.0) for step in range(8)]
    assert {step for step, amount in enumerate(most) if amount} == set(at)
    if 4 in at:
        assert [most[2] > 1.5 * most[4], most[6] > 1.5 * most[4]] == [compare == 2] * 2
    assert 0 < costs.total(8).parts["paired_probe"] <= sum(most)


def test_observations_of_scored_rows_cost_what_arms_that_score_nothing_run(make):
    """Nothing in AdaDS's own arms; beside them `random` is one of seven, and nothing is observed at the first step."""
    random = "+select.arms.random={_target_: kdlab.methods.selection.strategies.random, _partial_: true}"
    spent: list[float] = []
    for more in ([], ["select.observe=scored"], ["select.observe=scored", random]):
        stage, data = make("select=adads", "select.interval=2", "select.evaluation_rows=16", *more, text=False)
        costs = StepCosts(stage, stage.module_without_weights(), data, 1)
        spent.append(costs.total(8).parts.get("observation", 0.0))
    assert spent[1] == 0 and spent[2] == pytest.approx(spent[0] / 4 * 3 / 7)


def _layers(stage: Any, member: Any) -> Any:
    from kdlab.models.student import student_from

    return student_from(stage.inputs.load(member.source.place), member.layers)


def test_a_budget_below_a_step_is_refused_before_a_teacher_is_made(make, monkeypatch):
    stage, data = make("select=random", *OPEN, "budget.flops=1e5")
    with pytest.raises(UserError, match=r"budget.flops=100000: less than one step costs, which is [\d,]+ or more"):
        budget.check(stage, 1)  # by the shortest rows
    step_costs = StepCosts(stage, stage.module_without_weights(), data, 1)
    expected = step_costs.total(1).flops
    least = budget._least(stage, 1)["flops"]
    assert 0.1 * expected < least < expected
    stage, _ = make("select=random", *OPEN, f"budget.flops={(least + expected) / 2}")
    budget.check(stage, 1)
    monkeypatch.setattr(type(stage.teacher_pool), "folder", lambda *_: pytest.fail(NOTHING))
    with pytest.raises(UserError, match="less than one step costs"):
        budget.check_step(stage, step_costs)


def test_preparation_is_taken_off_the_budget_on_every_rank(make, tmp_path, monkeypatch):
    stage, data = make("select=random", *OPEN, "budget.queries=100", "budget.preparation=true")
    spent = [{"what": "assistant, 2 layers, distilled", "queries": 60, "flops": 1e9, "seconds": 5.0}]
    monkeypatch.setattr(stage.inputs.prerequisites, "stages", lambda: spent)
    step_costs = StepCosts(stage, stage.module_without_weights(), data, 2)
    found = budget.plan(stage, step_costs, [], Ledger(1, True), tmp_path, resumes=False)
    assert found.steps == 5 and found.asked == {"queries": 100.0}  # 8 of 32 rows a step, for 40 queries
    assert budget.limits_of(stage, found.asked) == {"queries": 40.0}
    assert json.loads((tmp_path / budget.FILE).read_text())["steps"] == 5
    spent[0]["queries"] = 100
    with pytest.raises(UserError, match="preparation alone cost 100"):
        budget.limits_of(stage, found.asked)


def test_seconds_are_measured_by_the_first_process_and_read_by_others(make, tmp_path, monkeypatch):
    stage, data = make("select=random", *OPEN, "budget.seconds=10")
    monkeypatch.setattr(stage, "student", lambda *_: None)
    monkeypatch.setattr(stage, "student_module", lambda *_: None)
    monkeypatch.setattr(budget, "_seconds_per_step", lambda *_: 0.3)
    costs = SimpleCosts(data)
    given = (stage, costs, [], Ledger(1, True), tmp_path)
    found = budget.plan(*given, resumes=False)
    assert (found.steps, found.seconds_per_step, found.ends_by) == (33, 0.3, "seconds")
    monkeypatch.setattr(budget, "_seconds_per_step", lambda *_: pytest.fail("measured twice"))
    monkeypatch.setattr(budget, "is_first_process", lambda: False)
    monkeypatch.setenv(budget.FOLDER, str(tmp_path))
    assert budget.plan(*given, resumes=False) == found  # the second rank
    monkeypatch.delenv(budget.FOLDER)
    assert budget.plan(*given, resumes=True) == found


class SimpleCosts(StepCosts):
    """Steps of 4 queries and 1e6 FLOPs."""

    def __init__(self, data: Any) -> None:
        self.data, self.world = data, 2
        self.order = data.sampler(0, 2)

    def total(self, steps: int) -> Any:
        from kdlab.stages.costs.step_cost import StepCost

        return StepCost(4.0 * steps, {"student forward": 1e6 * steps})


def test_a_price_by_the_hour_is_one_of_time_and_one_by_query_is_not(make, tmp_path: Path):
    for rates, timed in (("budget.price_per_hour=3600", True), ("budget.price_per_query=0.5", False)):
        stage, _ = make("select=random", *OPEN, "budget.price=10", rates)
        assert stage.config.budget.is_timed == timed
    assert budget.price(stage.config.budget, 20, 7200) == 10.0
