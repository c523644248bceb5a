"""Every experiment, and further kinds of runs, can be planned before anything is prepared; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.testing.tiny import write_task
from tests.support.runs import call, tiny, tiny_task

TASKS = ["adads_finetune", "finetune", "dekd", "ksm", "dynamickd_data", "dynamickd_objective", "dynamickd_teacher", "specialists"]  # fmt: skip
MORE = {
    "labels alone": ["knowledge=labels", "no_kd_baseline=true"],
    "stale": ["select=entropy", "select.scoring=stale"],
    "a look": ["select=adads", "select.look=0.5"],
    "early exit": ["select=entropy", "select.scoring=early_exit"],
    "seconds": ["select=random", "trainer.max_steps=null", "budget.seconds=3"],
    "two devices": ["trainer.devices=2"],
    "a narrow student": ["student.layers=2", "student.hidden=64"],
    "epochs": ["trainer.max_steps=null", "trainer.max_epochs=2"],
    "augmented rows": ["+augment=tinybert"],
    "a cache": ["teachers.cache=disk"],
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_task(tmp_path_factory.mktemp("rows"), classes=4)


def planned(command: list[str], folder: Path) -> str:
    done = call([*command, "--plan", "--dry-run"], folder, timeout=400)
    assert done.code == 0, done.output
    assert not [entry for entry in folder.iterdir() if not entry.name.startswith("log-")]
    return done.output


@pytest.mark.parametrize("name", TASKS)
def test_an_experiment_on_a_task(name, tmp_path, teacher_folder, rows):
    command = [f"+exp={name}", *tiny_task(teacher_folder, rows)[1:]]
    output = planned(command, tmp_path)
    assert "plan of 8 steps" in output and "fine-tuned: to be made" in output


@pytest.mark.parametrize("name", MORE)
def test_a_run_on_a_task(name, tmp_path, teacher_folder, rows):
    assert "teacher queries" in planned(tiny_task(teacher_folder, rows, *MORE[name]), tmp_path)


@pytest.mark.parametrize("more", [[], ["select=random", "select.observe=kd"], ["select.observe=kd"]])
def test_a_run_on_text(more, tmp_path, teacher_folder, text_folder):
    assert "plan of 8 steps" in planned(tiny(teacher_folder, text_folder, *more), tmp_path)


def test_a_sweep(tmp_path, teacher_folder, rows):
    output = planned(["-m", *tiny_task(teacher_folder, rows, "select=random,entropy", "seed=1,2")], tmp_path)
    assert "total of 4 jobs" in output and output.count("made once") == 1
