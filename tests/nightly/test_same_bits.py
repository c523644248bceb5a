"""Every experiment file gives the same bits twice on one machine, also when all that it rests on is made anew."""

from __future__ import annotations

import shutil

import pytest

from tests.end_to_end.test_commands import SINGLE_RUNS
from tests.end_to_end.test_repeat import assert_repeats
from tests.support.runs import call


@pytest.mark.parametrize("exp", SINGLE_RUNS)
def test_every_experiment_gives_the_same_bits_twice(exp, tmp_path, teacher_folder, text_folder, task_folder):
    more = ["data.workers=2"] if len(exp) % 2 else []
    assert_repeats(exp, tmp_path, teacher_folder, text_folder, task_folder, *more)
    shutil.rmtree(tmp_path / "artifacts")
    anew = call(["--repeat", "first", "hydra.run.dir=anew"], tmp_path, timeout=600)
    assert anew.code == 0, anew.output
    assert "making " in anew.output
