"""Every number that the papers print: an arm of a sweep at scale=paper has it, or a reason says why none does."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from kdlab.config.composition import CONF, composition, to_plain
from kdlab.reporting import paper_arms
from kdlab.reporting.papers import PublishedNumber, all_numbers, titles
from kdlab.reporting.seed_groups import Run
from kdlab.runs.settings_used import flat
from tests.support.sweeps import all_grids, jobs, one_seed

BY_TASK = ("data.task=mrpc", "data.task=qqp")  # settings of DeKD's recipe depend on these: they are composed
COSTS = ("average", "per sample", "speed-up")  # of all tasks of a table


@functools.cache
def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return to_plain(composition(overrides)[0])


def run_of(job: list[str]) -> Run:
    """The run that a job makes, as reports read it. Values of single keys are set after the composition, which is slow."""
    parsed = [(one, one.key_or_group) for one in OverridesParser.create().parse_overrides(job)]
    groups = tuple(
        line
        for line, (_, key) in zip(job, parsed, strict=True)
        if (CONF / key).is_dir() or line[0] == "+" or key == "scale" or line in BY_TASK
    )
    config = copy.deepcopy(composed(groups))
    for one, key in parsed:
        if str(one.input_line) in groups:
            continue
        *parts, last = key.split(".")
        node = config
        for part in parts:
            node = node[part]
        node[last] = yaml.safe_load(str(one.input_line).partition("=")[2])
    select = config["select"]
    result = {
        "seed": config["seed"],
        "stage": config["data"]["stage"],
        "data": {"task": config["data"].get("task"), "path": None, "source": "text"},
        "select": {"name": select["name"], "ratio": 1.0 if select["name"] == "all" else select["ratio"]},
        "adopt": config["adopt"]["name"],
        "policy": {"name": config["weigh"]["name"]},
        "knowledge": config["knowledge"]["name"],
        "student": {"layers": config["student"]["layers"]},
    }
    facts = dict(flat(config))
    return Run(Path("run"), result, facts, facts, str(config["data"].get("task")))


@functools.cache
def arms() -> list[tuple[str, Run]]:
    """One run of every job of every sweep at scale=paper, of one seed, with the sweep's name."""
    return [
        (name, run_of(job)) for name, scale, grid in all_grids() if scale == "paper" for job in jobs(one_seed(grid))
    ]


def has(number: PublishedNumber, run: Run) -> bool:
    """True if the number stands beside the run, its task and depth of student included."""
    if not paper_arms.stands_beside(number, run):
        return False
    depths = {paper_arms.student_depth(number), 6 if run.stage == "pretrain" else paper_arms.depth_of(run)}
    own = number.task in COSTS or run.stage == "pretrain" or number.task in titles(run.task)
    return own and len(depths) == 1


@pytest.mark.parametrize("paper", ["adads", "dynamic_kd", "ksm", "dekd"])
def test_every_published_number_has_an_arm_of_a_sweep_or_a_reason_why_none(paper):
    numbers = [number for number in all_numbers() if number.paper == paper]
    assert len(numbers) > 100
    lost = [
        number
        for number in numbers
        if not paper_arms.why_none(number) and not any(has(number, run) for _, run in arms())
    ]
    assert lost == []


METRICS = {"dynamickd": {"MRPC": "accuracy", "QQP": "accuracy"}, "ksm": {"MRPC": "accuracy", "QQP": "accuracy"}}
METRICS |= {
    "dekd": {"MRPC": "f1", "QQP": "accuracy"},
    "adads": {"MRPC": None, "QQP": None},
}  # DeKD 4.4; None: GLUE's mean
NO_SCORE_PRINTED = {"ksm_student_layers"}  # Fig. 4 is of MRPC and does not say by which metric


def test_sweeps_score_mrpc_and_qqp_by_the_metric_of_their_paper():
    found = {}
    for name, run in arms():
        title = {"mrpc": "MRPC", "qqp": "QQP"}.get(str(run.facts.get("data.task")))
        if title and run.stage == "finetune" and name not in NO_SCORE_PRINTED:
            found.setdefault((name.partition("_")[0], title), set()).add(run.facts["data.metric"])
    assert len(found) == 6  # Dynamic KD has no QQP, AdaDS no sweep of MRPC
    for (paper, title), metrics in found.items():
        assert metrics == {METRICS[paper][title]}, (paper, title)


def test_the_reasons_are_of_numbers_that_exist_and_of_no_more():
    for of, why in paper_arms.NO_ARM:
        assert why and [n for n in all_numbers() if all(getattr(n, key) == value for key, value in of.items())], of
    reasons = {number.method for number in all_numbers() if paper_arms.why_none(number)}
    assert {method for method in reasons if not method.endswith("teacher")} == {
        "fixed-all", "distilbert", "finetune", "ksm-soft, reward f1", "tinybert (Jiao et al.)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "paper", "methods"),
    [
        ("adads_tinybert", "adads", set()),  # Fig. 6 is drawn and not printed
        ("dekd_ratios", "dekd", {"dekd", "without data selection"}),
        ("dynamickd_augmented", "dynamic_kd", {"random", "entropy", "margin", "lc", "tinybert"}),
        ("dynamickd_hidden_size", "dynamic_kd", {"kd 12 x 256", "kd 12 x 768"}),
        ("dekd_teachers", "dekd", {"kd bert-base", "kd bert-large"}),
        ("dekd_runs", "dekd", {"dekd", "ksm", "uhc", "muki"}),
        ("ksm_learning", "ksm", {"ksm-soft", "ksm-hard", "ksm-soft, reward loss"}),
    ],
)
def test_a_sweep_has_the_numbers_of_its_own_methods_alone(sweep, paper, methods):
    numbers = [number for number in all_numbers() if number.paper == paper]
    found = {
        number.method
        for name, run in arms()
        if name == sweep
        for number in numbers
        if paper_arms.stands_beside(number, run)
    }
    assert found == methods
