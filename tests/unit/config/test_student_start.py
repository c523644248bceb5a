"""The start of a student: the fine-tuned teacher by default, the backbone at scale=paper and where no layers of one are taken."""

from __future__ import annotations

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ("", "teacher"),
        ("scale=own data.path=mine", "teacher"),
        ("student.layers=[0,2]", "teacher"),
        ("scale=paper", "backbone"),
        ("student.path=other", "backbone"),
        ("student.hidden=64", "backbone"),
        ("student.layers=all", "backbone"),
        ("teachers.split=2", "backbone"),
        ("knowledge=labels", "backbone"),
        ("student.start=backbone", "backbone"),
    ],
)
def test_a_student_with_layers_of_its_teacher_starts_as_it(given, start):
    assert checked(composition(["+exp=adads_finetune", *given.split()])[0]).student.start == start


@pytest.mark.parametrize("exp", ["finetune", "glue", "specialists"])
def test_a_model_without_one_teacher_starts_from_the_backbone(exp):
    assert checked(composition([f"+exp={exp}"])[0]).student.start == "backbone"
