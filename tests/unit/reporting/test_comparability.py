"""Differences are taken between groups whose settings agree, and a cell says which do not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from kdlab.errors import UserError
from kdlab.reporting.comparison import ComparisonLine, compare
from kdlab.reporting.seed_groups import Run, read
from tests.support.made_runs import made_run

CHOICES: dict[str, tuple[Any, ...]] = {
    "trainer.max_steps": (60, 500),
    "student.layers": ("[0, 5]", "[0, 2, 4]"),
    "knowledge.name": ("response", "pkd", "labels"),
    "optim.lr": (1e-4, 1e-3),
    "weigh.name": ("fixed", "ksm"),
    "adopt.name": ("single", "hard"),
    "select.name": ("random", "entropy", "all"),
    "select.ratio": (0.1, 0.3),
    "budget.flops": (None, 1e12),
}


def run_with(facts: dict[str, Any], seed: int) -> Run:
    """A finished run of a configuration, without files."""
    whole = facts["select.name"] == "all"
    facts = {**facts, "select.ratio": 1 if whole else facts["select.ratio"]}
    taught = facts["knowledge.name"] != "labels"
    name = "/".join(map(str, facts.values()))
    result = {
        "seed": seed, "stage": "finetune", "knowledge": facts["knowledge.name"], "policy": {"name": facts["weigh.name"]},
        "adopt": facts["adopt.name"] if taught else None, "teachers": [{}] if taught else [],
        "select": {"name": facts["select.name"], "ratio": facts["select.ratio"]},
        "metrics": {"student": {"score": (hash((name, seed)) % 1000) / 1000}},
    }  # fmt: skip
    return Run(Path(f"{name}/{seed}"), result, facts, facts, "sst2")


def compared(runs: list[Run], **given: Any) -> list[ComparisonLine]:
    (found,) = compare(runs, notify=lambda line: None, **given)
    return found.lines


@settings(max_examples=60, deadline=None)
@given(
    some.lists(
        some.fixed_dictionaries({key: some.sampled_from(of) for key, of in CHOICES.items()}), min_size=1, max_size=8
    ),
    some.sampled_from([(), ("knowledge",), ("student.layers", "optim")]),
)
def test_no_difference_between_groups_whose_settings_differ(configurations, across):
    runs = {run.folder: run for facts in configurations for seed in (1, 2) for run in [run_with(facts, seed)]}
    for line in compared(list(runs.values()), across=across):
        if line.baseline is None:
            continue
        mine, theirs = line.group.one.facts, line.baseline.one.facts
        apart = {key for key in CHOICES if mine[key] != theirs[key]}
        apart -= {key for key in CHOICES if key.split(".")[0] in ("select", "adopt", "weigh")}
        apart -= {key for key in CHOICES if any(key == one or key.startswith(f"{one}.") for one in across)}
        if mine["budget.flops"] == theirs["budget.flops"] != None:  # noqa: E711  # steps follow from an equal budget
            apart.discard("trainer.max_steps")
        assert (line.found is None) == bool(line.unlike) == bool(apart)
        assert all(
            key.rsplit(".")[-1] in line.unlike or "knowledge" in line.unlike or "more" in line.unlike for key in apart
        )


def test_each_group_of_a_study_stands_against_random_in_its_own_settings():
    """A sweep over knowledge, layers and steps: twelve settings, each with its own random selection."""
    studied = ("knowledge.name", "student.layers", "trainer.max_steps")
    runs = [
        run_with({key: of[0] for key, of in CHOICES.items()} | dict(zip(studied, setting, strict=True)) | {"select.name": select}, seed)
        for setting in itertools.product(("response", "pkd"), *(CHOICES[key] for key in studied[1:]))
        for select in ("entropy", "random")
        for seed in (1, 2)
    ]  # fmt: skip
    lines = compared(runs)
    tested = [line for line in lines if line.group.one.select == "entropy"]
    assert len(lines) == 16 and len(tested) == 8 and all(line.found is not None for line in tested)
    for line in tested:
        assert line.baseline is not None and line.baseline.one.select == "random"
        assert all(line.baseline.one.facts[key] == line.group.one.facts[key] for key in studied)
    named = compared(runs, baseline="select=random")  # one name for eight baselines
    assert [line.baseline and line.baseline.name for line in named if line.group.one.select == "entropy"] == [
        line.baseline and line.baseline.name for line in tested
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainer.max_steps": 60}, "max_steps 60, 200"),
        ({"data.batch_size": 8}, "batch_size 8, 64"),
        ({"student.layers": [0, 5]}, "layers [0,5], [0,2,4]"),
        ({"teachers.path": "/models/large"}, "teachers.path large, null"),
        ({"knowledge.name": "pkd", "knowledge.terms.soft.weight": 0.9}, "knowledge pkd, response"),
        ({"trainer.max_steps": 60, "data.batch_size": 8}, "batch_size 8, 64; max_steps 60, 200"),
    ],
)
def test_the_cell_says_what_differs(tmp_path, changes, said):
    made_run(tmp_path / "random", 0.7)
    made_run(tmp_path / "other", 0.3, select="entropy", changes=changes)
    (line,) = [line for line in compared(read([tmp_path])[0]) if line.group.one.select == "entropy"]
    assert (line.unlike, line.found) == (said, None)


def test_a_setting_that_no_run_has_is_one_line(tmp_path):
    made_run(tmp_path / "random", 0.7)
    with pytest.raises(UserError, match=r"--across knowlege: no run has a setting knowlege; did you mean knowledge"):
        compared(read([tmp_path])[0], across=["knowlege"])


def test_across_a_setting_on_purpose(tmp_path):
    made_run(tmp_path / "kd", 0.7, select="all", ratio=1.0)
    made_run(tmp_path / "pkd", 0.75, select="all", ratio=1.0, knowledge="pkd")
    made_run(tmp_path / "labels", 0.6, select="all", ratio=1.0, knowledge="labels", queries=0)
    runs = read([tmp_path])[0]
    apart = {line.group.name: line.unlike for line in compared(runs)}
    assert apart == {"knowledge=response": "", "knowledge=pkd": "knowledge pkd, response", "knowledge=labels": "knowledge labels, response"}  # fmt: skip
    found = {line.group.name: line.found and line.found.difference for line in compared(runs, across=["knowledge"])}
    assert found == {"knowledge=response": None, "knowledge=pkd": pytest.approx(0.05), "knowledge=labels": pytest.approx(-0.1)}  # fmt: skip


def test_random_at_the_cost_of_another_run_compares_with_it_and_at_as_many_steps_does_not(tmp_path):
    """Costs of made runs are 3e12 + seed FLOPs; the second run's budget is that of the first."""

    def steps_differ(name: str, asked: float) -> bool:
        budget = {"asked": {"flops": asked}, "preparation": False}
        made_run(tmp_path / name / "adads", 0.7, select="entropy", results={"steps": 200})
        made_run(
            tmp_path / name / "random",
            0.6,
            results={"steps": 600, "budget": budget},
            changes={"budget": {"like": "adads"}},
        )
        (found,) = compare(read([tmp_path / name])[0], notify=lambda line: None)
        return bool(next(line for line in found.lines if line.baseline is not None).unlike)

    assert not steps_differ("equal", 3e12 + 1) and steps_differ("another", 2e12)


def test_a_configuration_without_a_budget_has_no_setting_of_one(tmp_path):
    none = {"by": "flops", "preparation": False, "flops": None, "like": None}
    made_run(tmp_path / "run", 0.7, changes={"budget": none})
    (run,) = read([tmp_path / "run"])[0]
    assert not any(key.startswith("budget") for key in run.used)


@pytest.mark.parametrize(("budget", "said"), [(3.1e12, ""), (6e12, "max_steps 200, 1000")])
def test_random_at_the_cost_of_a_run_is_compared_with_it(tmp_path, budget, said):
    """Made runs cost 3 T. The steps that a budget allows differ between seeds, which stay one group."""
    for seed in (1, 2):
        made_run(tmp_path / f"adads{seed}", 0.6 + seed / 100, seed, select="entropy", results={"steps": 200})
        limits = {"asked": {"flops": budget}, "preparation": False}
        spent = {"steps": 550 + seed, "budget": limits}
        config = {"trainer.max_steps": 1000, "budget": {"flops": budget}}
        made_run(tmp_path / f"random{seed}", 0.5, seed, changes=config, results=spent)
    lines = compared(read([tmp_path])[0])
    assert [len(line.group.runs) for line in lines] == [2, 2]
    (line,) = [line for line in lines if line.group.one.select == "entropy"]
    assert (line.found is None) == bool(said)
    assert line.unlike == said


def test_random_like_a_run_of_each_seed_is_one_group(tmp_path):
    for seed, like in ((1, "outputs/a/2026-11-29_07-00-00"), (2, "outputs/a/2026-11-29_07-01-07")):
        config = {"budget": {"like": like, "by": "flops"}}
        made_run(tmp_path / f"random{seed}", 0.5, seed, changes=config, results={"steps": 500 + seed})
    (line,) = compared(read([tmp_path])[0])
    assert len(line.group.runs) == 2
