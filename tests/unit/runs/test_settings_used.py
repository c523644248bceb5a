"""kdlab.runs.settings_used: settings without effect tell no runs apart, settings with one do."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kdlab.config.saved import read_config
from kdlab.runs.settings_used import names_its_seed, settings_used, without_seed
from tests.support.old_runs import OLD, recorded


def used(name: str, changes: dict[str, Any] | None = None, result: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings used of an old run with other values at dotted keys of its configuration and of its result."""
    config, found = copy.deepcopy(read_config(OLD / name)), copy.deepcopy(recorded(name))
    for tree, values in ((config, changes or {}), (found, result or {})):
        for key, value in values.items():
            node: Any = tree
            *parts, last = key.split(".")
            for part in parts:
                node = node.setdefault(part, {})
            node[last] = value
            if value == "absent":
                del node[last]
    return settings_used(config, found, found["adopt"] is not None)


# name of the run, the change of its configuration, and of its result
WITHOUT_EFFECT = [
    ("finetune", {"data.source": None}, {}),  # data=glue data.path=X: no embedded source beside the path
    ("finetune", {"data.path": "../in/task"}, {}),  # the same rows by another path
    ("finetune", {"data.path": None, "data.source": {"_target_": "mine.Rows"}}, {}),  # or by a source of the same
    ("finetune", {"teachers.path": "/copy/of/teacher", "teachers.name": "x", "teachers.revision": "y"}, {}),
    ("finetune", {"data.train_rows": 100_000}, {}),  # more than there are
    ("finetune", {"data.masking": "rare", "data.min_length": 5, "data.split_seed": 7}, {}),  # of the other stage
    ("pretrain", {"data.train_rows": 3, "data.label_column": "kind"}, {}),
    ("pretrain", {"teachers.finetune": "absent"}, {}),  # nothing was fine-tuned
    ("finetune", {"teachers.prepare.lr": 1.0}, {}),
    ("finetune", {"teachers.cache_k": 9}, {}),
    ("finetune", {"weigh.phase": 9, "weigh.reward_rows": 8, "weigh.reward": "f1"}, {}),  # nothing is weighed
    ("ksm", {"select.interval": 3, "select.scoring": "stale"}, {}),  # at ratio 1 nothing is selected
    ("dekd", {"select.interval": 3, "select.evaluation_rows": 9, "select.observe": "kd"}, {}),  # a fixed strategy
    ("dekd", {"select.refresh": 5, "select.exit_layer": 1}, {}),  # scores are fresh
    ("dekd", {"select.scope": "local"}, {}),  # one process
    ("finetune", {"select.look": 1.0}, {}),  # as before there was the key
    ("ksm", {"select.look": 0.5}, {}),  # at ratio 1 nothing is scored
    ("finetune", {"knowledge.terms.mine": {"weight": 0.0, "term": {"_target_": "mine.term"}}}, {}),
    ("finetune", {"knowledge.terms.soft.at": "labelled", "knowledge.terms.soft.term.temperature": 2}, {}),
    ("finetune", {"knowledge.ce_on": "all"}, {}),  # of text
    ("finetune", {"trainer.max_steps": None, "trainer.max_epochs": 1}, {}),  # 8 steps either way
    ("finetune", {"trainer.precision": "auto"}, {}),  # which was 32-true there
    ("finetune", {"trainer.devices": "auto", "trainer.num_nodes": 1}, {}),  # one process either way
    ("pretrain", {"student.pick": "first"}, {}),  # layers are a list
    ("finetune", {"select.pool": 16, "data.batch_size": 4}, {}),  # the same rows a step, chosen and offered
    ("finetune", {"adopt.policy": "absent", "knowledge.phases": "absent", "exec": "absent"}, {}),  # left at the default
]
WITH_EFFECT = [
    ("finetune", {}, {"data.fingerprint": "0" * 64}),  # other rows at the same path
    ("finetune", {}, {"teachers": [{"name": "teacher", "made_of": "0" * 64}]}),  # other weights at the same path
    ("finetune", {}, {"data.splits.train.rows": 100}),
    ("finetune", {}, {"devices.precision": "bf16-mixed"}),
    ("finetune", {}, {"devices.world": 2}),
    ("finetune", {}, {"steps": 9}),
    ("finetune", {"teachers.finetune.lr": 1.0}, {}),
    ("pretrain", {"data.masking": "rare"}, {}),
    ("finetune", {"select.interval": 3}, {}),  # AdaDS observes
    ("finetune", {"select.scoring": "stale", "select.refresh": 5}, {}),
    ("finetune", {"select.look": 0.5}, {}),
    ("ksm", {"weigh.phase": 9}, {}),
    ("dekd", {"adopt.assistant.layers": 3}, {}),
    ("finetune", {"student.pick": "even"}, {}),
    ("finetune", {"knowledge.terms.soft.term.temperature": 2.5}, {}),
    ("finetune", {"knowledge.terms.soft.weight": 0.0}, {}),
    ("finetune", {"optim.lr": 0.002}, {}),
]


@pytest.mark.parametrize(("name", "config", "result"), WITHOUT_EFFECT)
def test_settings_without_effect_are_the_same(name, config, result):
    assert used(name, config, result) == used(name)


@pytest.mark.parametrize(("name", "config", "result"), WITH_EFFECT)
def test_settings_with_an_effect_are_not(name, config, result):
    assert used(name, config, result) != used(name)


def test_a_random_draw_scores_no_row_whatever_the_share_to_be_scored():
    random = {"select.arms": {"random": {"_target_": "kdlab.methods.selection.strategies.random"}}}
    assert used("finetune", random) == used("finetune", {**random, "select.look": 0.3})


def test_without_a_teacher_no_setting_of_teachers_counts():
    none = {"adopt": None, "teachers": []}
    changes = {"teachers.finetune.lr": 9.0, "adopt.name": "hard", "adopt.assistant": {"layers": 3}, "teachers.split": 2}
    assert used("finetune", changes, none) == used("finetune", {}, none) != used("finetune")


@pytest.mark.parametrize(
    ("path", "without"),
    [
        ("/x/seed=1/student", "/x/seed=*/student"),
        ("/x/seed=1,select=all/student", "/x/seed=*,select=all/student"),
        ("/x/sweep-1a2b3c4d/random-r0.1-s1/student", "/x/sweep-1a2b3c4d/random-r0.1-s*/student"),
        ("all-s1", "all-s*"),
        ("/x/random-r0.1-max_steps_60-s1", "/x/random-r0.1-max_steps_60-s*"),
        ("/x/random-r0.1-s12/student", "/x/random-r0.1-s12/student"),
        ("/models/deit-s1/weights", "/models/deit-s1/weights"),
        ("/x/seed=12", "/x/seed=12"),
    ],
)
def test_the_seed_in_a_path_of_a_sweeps_job(path, without):
    assert without_seed(path, 1) == without and names_its_seed(path, 1) == (path != without)


def test_a_path_that_names_the_seed_stays_a_path():
    """A student of each seed's own assistant differs in its weights from seed to seed within one group."""
    one, two = (
        used(
            "finetune",
            {"student.path": f"/x/seed={seed}/student", "seed": seed},
            {"seed": seed, "student.made_of": f"{seed}"},
        )
        for seed in (1, 2)
    )
    assert one["student.path"] == "/x/seed=1/student" and two["student.path"] == "/x/seed=2/student"
    fixed = used("finetune", {"student.path": "/x/student"}, {"student.made_of": "abc"})
    assert fixed["student.weights"] == "abc" and "student.path" not in fixed
