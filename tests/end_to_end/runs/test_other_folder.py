"""A run whose paths are relative, read from another folder: evaluated, analysed, repeated, resumed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from kdlab import analyse, evaluate
from kdlab.testing.child_process import TINY_TASK, call
from tests.support.runs import KillAt, outcome

ROWS = "daten ä=1, x"  # outside ASCII, with the signs of an override and a space


def command(data: str, *more: str) -> list[str]:
    return [*TINY_TASK, "teachers.path=models/teacher", f"data.path='{data}'", *more]


@pytest.fixture(scope="module")
def home(tmp_path_factory, teacher_folder, task_folder) -> Path:
    """A folder with a finished and an unfinished run of one command."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(teacher_folder, folder / "models" / "teacher")
    shutil.copytree(task_folder, folder / ROWS)
    for where, trap, code in (("whole", None, 0), ("begun", KillAt(5), -9)):
        done = call(command(ROWS, f"hydra.run.dir={where}"), folder, trap)
        assert done.code == code, done.output
    assert json.loads((folder / "whole" / "result.json").read_text())["data"]["path"] == ROWS
    return folder


def test_a_run_is_evaluated_and_analysed_from_another_folder(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ROWS).mkdir()  # the run's own rows count, not those of the same name here
    assert evaluate.main([str(home / "whole")]) == 0
    assert "student, now" in capsys.readouterr().out
    assert analyse.main(["selected", str(home / "whole"), "--rows", "32", "--out", "figures"]) == 0
    assert sorted(os.listdir(tmp_path)) == sorted([ROWS, "figures"])  # and no artifacts


def test_a_run_is_repeated_from_another_folder(home, tmp_path):
    done = call(["--repeat", str(home / "whole"), "hydra.run.dir=again"], tmp_path)
    assert done.code == 0, done.output
    assert "the same bits as" in done.output and "the recorded environment is the same" in done.output
    assert "making" not in done.output


def test_a_run_is_resumed_from_another_folder_by_the_same_files_only(home, tmp_path):
    shutil.copytree(home / "begun", tmp_path / "begun")
    other = tmp_path / "other"
    shutil.copytree(home / ROWS, other / ROWS)
    shutil.copytree(home / "models", other / "models")
    done = call(command(ROWS, f"hydra.run.dir={tmp_path / 'begun'}"), other)
    assert done.code == 2 and "not of this configuration" in done.output  # these are other files
    paths = [f"teachers.path={home / 'models/teacher'}", f"artifacts={home / 'artifacts'}"]
    done = call([*TINY_TASK, *paths, f"data.path='{home / ROWS}'", f"hydra.run.dir={tmp_path / 'begun'}"], other)
    assert done.code == 0, done.output
    assert "resuming the unfinished run" in done.output
    resumed, whole = outcome(tmp_path / "begun"), outcome(home / "whole")
    for part in whole:
        assert resumed[part] == whole[part], part
