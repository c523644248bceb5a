"""trainer=fsdp_teacher on two CPU ranks (gloo) against trainer=ddp: the same run, bit for bit, whatever is combined."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.ddp.test_shared_teacher import TWO, both
from tests.ddp.test_two_ranks_teaching import COMMON, IDLE, RULES
from tests.support.runs import KillAt, call, outcome, tiny, tiny_task

KD = ["select=adads", "select.observe=kd", "select.evaluation_rows=24"]  # three batches of 8: one rank has two
TEXTS = {
    "adads": ["select=adads"],
    "observed by its whole loss": KD,
    "padded": ["select=entropy", "exec=padded"],
    "packed": ["select=entropy", "exec=packed"],
    "in bfloat16": ["select=entropy", "trainer.precision=bf16-mixed"],
    "an idle rank": IDLE,
    "cache": ["select=entropy", "teachers.cache=memory"],
    "local": ["select=entropy", "select.scope=local"],
}
# by gathering in bfloat16
ROUNDED = {"in bfloat16": 0.05}
TASKS = {
    **{name: ["select=entropy", *rule] for name, rule in RULES.items()},
    **{f"{name}, an idle rank": [*IDLE, *rule] for name, rule in RULES.items()},
    "observed by its whole loss": KD,
    # packed, the phase that reads logits alone differs from ddp in the last bits
    "tinybert, an idle rank": [
        *IDLE,
        "exec=bucketed",
        "knowledge=tinybert",
        "knowledge.phases=[0.5]",
        "student.hidden=16",
    ],
    "minilm": ["select=entropy", "knowledge=minilm"],
    "labels on all, an idle rank": [*IDLE, "knowledge.labels_on=all"],
    "muki": ["select=random", "teachers.split=2", "adopt=muki_hard", "knowledge=muki"],
    "specialists, an idle rank": [*IDLE, "teachers.split=2", "adopt=every", "knowledge=cfl"],
    "cache over epochs": ["select=entropy", "teachers.cache=disk", "trainer.max_steps=24", *RULES["hard"]],
    "rows one by one": ["select=entropy", "teachers.cache=disk", "teachers.cache_fill=alone"],
    "probes": ["select=entropy", "trainer.probes=4", *RULES["hard"]],
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory, teacher_folder, text_folder, four_classes) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    for more in (RULES["hard"], RULES["assistant"], ["teachers.split=2", "adopt=every"]):
        given = tiny_task(teacher_folder, four_classes, *COMMON, "select=random", "trainer.max_steps=1", *more)
        done = call([*given, "overwrite=true", "hydra.run.dir=first"], folder)
        assert done.code == 0, done.output
    done = call(tiny(teacher_folder, text_folder, "trainer.max_steps=1", "select=random"), folder)
    assert done.code == 0, done.output
    return folder / "artifacts"


@pytest.mark.parametrize("case", TEXTS)
def test_text(case, tmp_path, artifacts, teacher_folder, text_folder):
    given = tiny(teacher_folder, text_folder, *TWO, "trainer.probes=1", *TEXTS[case])
    shutil.copytree(artifacts, tmp_path / "artifacts")
    whole, shared = both(given, tmp_path)
    if case in ROUNDED:
        losses = [one["scores"]["student"]["loss"] for one in (whole, shared)]
        assert losses[1] == pytest.approx(losses[0], abs=ROUNDED[case])
        assert shared["ledger"]["teacher_queries"] == whole["ledger"]["teacher_queries"]
        return
    assert shared == whole


@pytest.mark.parametrize("case", TASKS)
def test_task(case, tmp_path, artifacts, teacher_folder, four_classes):
    given = tiny_task(teacher_folder, four_classes, *COMMON, *TWO, *TASKS[case])
    shutil.copytree(artifacts, tmp_path / "artifacts")
    whole, shared = both(given, tmp_path)
    scores = [one.pop("scores") for one in (whole, shared)]
    assert shared == whole
    assert scores[1].keys() == scores[0].keys() and scores[1]["student"] == scores[0]["student"]
    for name in scores[0]:  # a teacher whose attention terms read computes it otherwise, also for these scores
        assert scores[1][name] == pytest.approx(scores[0][name], abs=1e-6)


def test_killed_it_goes_on_bit_for_bit(tmp_path, artifacts, teacher_folder, text_folder):
    shutil.copytree(artifacts, tmp_path / "artifacts")
    given = tiny(teacher_folder, text_folder, "select=adads", *TWO, "trainer=fsdp_teacher")
    assert call([*given, "hydra.run.dir=whole"], tmp_path, ranks=2).code == 0
    assert call([*given, "hydra.run.dir=killed"], tmp_path, KillAt(5), ranks=2).code == -9
    again = call([*given, "hydra.run.dir=killed"], tmp_path, ranks=2)
    assert again.code == 0, again.output
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
