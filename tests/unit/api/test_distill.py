"""`kdlab.distill`: wrong calls are one line each and write nothing; the caller's process stays as it was."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import kdlab
from kdlab.testing.child_process import TINY_TASK
from tests.conftest import task_rows, write_teacher

ROWS = [{"text": texts[0], "label": label} for texts, label in task_rows(40)]
SMALL = [
    one for one in TINY_TASK if not one.startswith(("+exp", "select.ratio", "student.layers", "trainer.max_steps"))
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def assert_refused(message: str, **arguments) -> None:
    """The call is refused with this message, and leaves no file."""
    with pytest.raises(kdlab.UserError, match=message) as caught:
        kdlab.distill(**{"train": ROWS, "overrides": SMALL, **arguments})
    assert "\n" not in str(caught.value)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select": "adsds"}, "select=adsds: .* did you mean adads"),
        ({"knowledge": "answers"}, "knowledge=answers"),
        ({"ratio": 2}, "select.ratio=2"),
        ({"max_steps": 0}, "trainer.max_steps=0"),
        ({"student": 40}, "student.layers=40: the teacher has 4 layers"),
        ({"teacher": "/nowhere"}, "teachers.path=/nowhere: a model folder"),
        ({"student": 2.5}, "student: float; give a number of the teacher's layers, a transformers model"),
        ({"out": 3}, "out=3: a folder"),
        ({"overrides": "seed=1"}, "overrides='seed=1': a list of KEY=VALUE"),
        ({"overrides": ["optim.lrr=1"]}, "unknown key optim.lrr"),
        ({"overrides": ["trainer.devices=2"]}, "trainer.devices=2: kdlab.distill trains in this process"),
        ({"overrides": ["+suite={tasks: [cola], seeds: [1]}"]}, "kdlab.distill trains one student|suite"),
        ({"train": "no_rows"}, "data.path: no_rows does not exist"),
        ({"train": [{"text": "ba", "kind": 1}, {"text": "ke", "kind": 2}]}, "^train(, row 1)?: no .*label"),
        ({"train": [*ROWS, {"text": "ba", "label": None}]}, "^train, row 41: the label is hidden"),
    ],
)
def test_a_wrong_call_is_one_line_and_writes_nothing(arguments, message, teacher_folder):
    assert_refused(message, **{"teacher": teacher_folder, **arguments})


def test_a_student_of_another_vocabulary_is_refused(tmp_path_factory, teacher_folder):
    other = write_teacher(tmp_path_factory.mktemp("other"))
    text = (other / "tokenizer.json").read_text().replace('"zuzu"', '"zuzuzu"')
    (other / "tokenizer.json").write_text(text)
    assert_refused("different tokenizers", teacher=teacher_folder, student=other)


def test_the_process_stays_as_it_was(teacher_folder):
    def state() -> tuple:
        numbers = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # pyright: ignore
        return *numbers, dict(os.environ), torch.get_num_threads()

    before = state()
    assert_refused("teacher has 4 layers", teacher=teacher_folder, student=40)
    assert state() == before
