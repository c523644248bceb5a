"""A run folder is taken, gone on with or refused by what is in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdlab.errors import UserError
from kdlab.runs import folders
from kdlab.storage import locks
from kdlab.storage.files import open_locked


def choose(folder: Path) -> tuple[Path, bool]:
    return folders.choose({"name": "x"}, folder, chosen=True, overwrite=False, resume=True)


def test_what_a_run_left_that_was_ended_while_it_began_is_begun_anew(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / ".result.json.tmp").write_text('{"stat')
    (tmp_path / ".rank-1.error").write_text("no such row")
    (tmp_path / "..rank-1.error.tmp").write_text("")
    (tmp_path / locks.NAME).write_text("process 7 on node-12")
    assert choose(tmp_path) == (tmp_path, False)


def test_another_file_beside_it_is_a_strangers(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds files that are not a run"):
        choose(tmp_path)


def test_a_link_in_its_place_is_not_written_through(tmp_path):
    (tmp_path / "diary").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").symlink_to(tmp_path / "diary")
    with pytest.raises(UserError, match="is a link"):
        choose(run)
    assert (tmp_path / "diary").read_text() == "mine"


def finished(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    (folder / "result.json").write_text('{"status": "finished"}')
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "a").write_text("")
    return folder


def test_a_claim_ends_with_its_block_and_keeps_what_is_there(tmp_path):
    run, claim = finished(tmp_path / "run"), ({"name": "x"}, tmp_path / "run", True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="holds a finished run"), folders.claimed(*claim, False, True, print):
        raise AssertionError
    assert sorted(tmp_path.rglob("*")) == before
    with folders.claimed(*claim, True, True, print) as (place, resumes):
        assert (place, resumes) == (run, False) and [file.name for file in run.iterdir()] == [locks.NAME]
    assert run.is_dir() and not any(run.iterdir())


def test_what_was_being_replaced_may_go_without_being_asked_for_again(tmp_path):
    run = finished(tmp_path / "run")
    (run / "result.json").write_text(json.dumps({"status": folders.REPLACED}))
    (run / "config.yaml").unlink()
    assert choose(run) == (run, False)
    with folders.claimed({"name": "x"}, run, True, False, True, print) as (place, resumes):
        assert not resumes and [file.name for file in place.iterdir()] == [locks.NAME]


def test_an_unfinished_run_of_the_default_name_is_resumed_unless_it_is_under_way(tmp_path):
    run = finished(tmp_path / "then")
    (run / "result.json").write_text('{"status": "running"}')
    given = ({"name": "x"}, tmp_path / "now", False, False, True)
    assert folders.choose(*given) == (run, True)
    descriptor, _ = open_locked(run / locks.NAME, False, None, True)
    assert descriptor is not None
    os.write(descriptor, b"process 7 on node-12")
    said: list[str] = []
    assert folders.choose(*given, said.append) == (tmp_path / "now", False)
    assert said == [f"process 7 on node-12 is at work on the same run in {run}; this one has a folder of its own"]
    os.close(descriptor)
    assert folders.choose(*given) == (run, True)


@pytest.mark.parametrize(("recorded", "resumes"), [("run", True), ("../here/run", False), (None, False)])
def test_a_run_that_was_copied_with_its_folder_means_the_files_there(recorded, resumes, tmp_path, monkeypatch):
    given = {"name": "x", "rows": {"path": "rows"}}
    for place in ("there", "here"):
        (tmp_path / place / "rows").mkdir(parents=True)
    run = finished(tmp_path / "here" / "run")
    (run / "config.yaml").write_text(json.dumps(given))
    about = {"status": "running", "started_in": str(tmp_path / "there"), "run_folder": recorded}
    (run / "result.json").write_text(json.dumps(about))
    monkeypatch.chdir(tmp_path / "here")
    assert folders.same_run(Path("run"), given) == resumes
    assert (folders.other_run(Path("run"), given) is None) == resumes


def test_a_run_that_died_after_its_plan_and_before_its_first_result_begins_anew(tmp_path):
    for name in ("budget.json", ".budget.json.tmp"):
        (tmp_path / name).write_text("{}")
    assert folders.resumes_in(tmp_path, {}, overwrite=False, resume=True) is False
