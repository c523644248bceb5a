"""A run folder is taken, gone on with or refused by what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.errors import UserError
from kdlab.runs import folders


def choose(folder: Path) -> tuple[Path, bool]:
    return folders.choose({"name": "x"}, folder, chosen=True, overwrite=False, resume=True)


def test_what_a_run_left_that_was_ended_while_it_began_is_begun_anew(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / ".result.json.tmp").write_text('{"stat')
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
