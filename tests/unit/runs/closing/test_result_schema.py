"""kdlab.runs.closing.result_schema: results that runs have written pass; every alteration of one is named."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest

from kdlab.errors import UserError
from kdlab.runs.closing.result_schema import fault
from kdlab.runs.finished import finished_result, read_result
from tests.support.old_runs import FINISHED, recorded


@pytest.mark.parametrize("name", FINISHED)
def test_results_of_older_versions_pass(name):
    assert fault(recorded(name)) == ""


def altered(place: str, value: Any) -> dict[str, Any]:
    """The result of a KSM run with another value at a dotted place."""
    made = copy.deepcopy(recorded("ksm"))
    node: Any = made
    *parts, last = place.split(".")
    for part in parts:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[last] = value
    return made


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("ledger.flops.total", 10**400, "ledger.flops.total is 1000"),
        ("ledger.flops.total", float("nan"), "ledger.flops.total is nan: Input should be"),
        ("ledger.flops.all_data", float("inf"), "ledger.flops.all_data is inf"),
        ("ledger.flops.total", -1, "ledger.flops.total is -1: Input should be greater than or equal to 0"),
        (
            "ledger.teacher_queries.total",
            "many",
            "ledger.teacher_queries.total is 'many': Input should be a valid number",
        ),
        ("ledger.teacher_queries.total", 12.5, "ledger.teacher_queries.total is 12.5: Input should be a whole number"),
        ("ledger.teacher_queries.total", True, "ledger.teacher_queries.total is True: Input should be a valid number"),
        ("ledger.seconds.training", [1], "ledger.seconds.training is a list of 1: Input should be a valid number"),
        ("ledger.speedup.queries", "10x", "ledger.speedup.queries is '10x'"),
        ("metrics.student.score", "good", "metrics.student.score is 'good': Input should be a valid number"),
        ("metrics.student.score", 10**400, "metrics.student.score is 1000"),
        ("metrics." + "y" * 5000, {}, "String should have at most 4096 characters"),
        ("ledger.flops.\ud800", 1, "ledger.flops is '\\ud800': Input should be a valid string"),
        ("ledger.flops.more", None, "ledger.flops.more is null: Input should be a valid number"),
        ("metrics.teacher", None, "metrics.teacher is null: Input should be a mapping"),
        ("select.ratio", 0, "select.ratio is 0: Input should be greater than 0"),
        ("select.name", "\ud800", "select.name is '\\ud800': Input should be a valid string"),
        ("select.name", "x" * 10**6, "(1,000,000 characters)"),
        (
            "collapsed",
            {"step": "x", "value": 0.1, "bound": 0.5},
            "collapsed.step is 'x': Input should be a valid number",
        ),
        ("collapsed", {"what": "score"}, "collapsed has no bound and no step and no value"),
        ("collapsed", True, "collapsed is True: Input should be a mapping"),
        ("seed", 1.5, "seed is 1.5: Input should be a valid integer"),
        ("steps", None, "steps is null: Input should be a valid number"),
        ("head", "poems", "head is 'poems': Input should be masked_lm or sequence_classification"),
        ("stage", ["finetune"], "stage is a list of 1: Input should be a valid string"),
        ("data.path", 5, "data.path is 5: Input should be a valid string"),
        ("data.splits.train.rows", float("nan"), "data.splits.train.rows is nan: Input should be"),
        ("policy", [], "policy is a list of 0: Input should be a mapping"),
        ("preparation.0.flops", float("inf"), "preparation[0].flops is inf"),
        ("preparation.0.what", None, "preparation[0].what is null"),
        ("preparation", {}, "preparation is a mapping of 0: Input should be a valid list"),
        ("teachers.0.made_of", 3, "teachers[0].made_of is 3"),
        (
            "student.layers",
            [0, "two"],
            "student.layers is a list of 2: Input should be a count, a list of counts or a text",
        ),
        ("command", "python", "command is 'python': Input should be a valid list"),
    ],
)
def test_an_alteration_is_named_by_its_place(place, value, said):
    assert said in fault(altered(place, value))


def test_what_is_missing_is_named_and_what_older_versions_lacked_may_be():
    whole = recorded("ksm")
    for key in whole:
        found = fault({name: value for name, value in whole.items() if name != key})
        required = key in ("status", "seed", "select", "data", "metrics", "ledger")
        assert (found == f"it has no {key}") if required else found == ""
    ledger = {name: value for name, value in whole["ledger"].items() if name != "flops"}
    assert fault({**whole, "ledger": ledger}) == "ledger has no flops"
    seconds = {name: value for name, value in whole["ledger"]["seconds"].items() if name != "training"}
    assert fault({**whole, "ledger": {**whole["ledger"], "seconds": seconds}}) == ""
    assert fault({**whole, "data": {}}) == "data names no task, path or source"


def test_commands_that_start_from_a_run_refuse_it_in_one_line(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(altered("ledger.flops.total", "many")))
    with pytest.raises(UserError, match=r"result\.json is not as runs write it: ledger\.flops\.total is 'many'"):
        finished_result(tmp_path)
    whole = recorded("ksm")
    del whole["devices"]["precision"]
    (tmp_path / "result.json").write_text(json.dumps(whole))
    assert finished_result(tmp_path)["name"] == "ksm"
    with pytest.raises(UserError, match=r"has no devices\.precision, which this command reads"):
        finished_result(tmp_path, "devices.precision")


def test_a_name_of_a_hundred_million_characters_costs_no_time(tmp_path: Path):
    (tmp_path / "result.json").write_text(json.dumps(altered("select.name", "x" * 10**8)))
    began = time.process_time()
    result, why = read_result(tmp_path)
    assert result is None and "bytes, and no run writes more" in why
    assert time.process_time() - began < 1
