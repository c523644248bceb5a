"""`kdlab new`: names and files that it refuses, before it writes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.errors import UserError
from kdlab.templates import new


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("entropy", "select=entropy is a choice of kdlab's"),
        ("json", "the name of a module already"),
        ("torch", "the name of a module already"),
        ("my-margin", "small letters, digits and _"),
        ("MyMargin", "small letters, digits and _"),
        ("class", "small letters, digits and _"),
        ("../x", "small letters, digits and _"),
        ("", "small letters, digits and _"),
    ],
)
def test_names_that_cannot_be_used(name, said, tmp_path):
    with pytest.raises(UserError, match=said):
        new.written("strategy", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["mine.py", "select/mine.yaml", "test_mine.py"])
def test_files_that_exist_stay_and_nothing_is_written_beside_them(there, tmp_path):
    file = tmp_path / there
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UserError, match="exists, and is kept"):
        new.written("strategy", "mine", tmp_path)
    assert file.read_text() == "mine" and [one for one in tmp_path.rglob("*") if one.is_file()] == [file]


def test_the_command_writes_into_a_folder_and_prints_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    assert new.main(["term", "mine", "--folder", "own"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "wrote own/mine.py, own/knowledge/mine.yaml, own/test_mine.py",
        "test:  python -m pytest own/test_mine.py",
        "run:   python -m kdlab.run +exp=adads_finetune knowledge=mine --code own/mine.py --config-dir own",
    ]
    assert new.main(["term", "mine", "--folder", "nowhere"]) == 2
    assert capsys.readouterr().err == "kdlab: --folder nowhere: there is no such folder\n"
