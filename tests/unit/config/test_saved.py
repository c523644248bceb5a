"""A run's configuration, read in another folder or by a later version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdlab.config import spellings
from kdlab.config.saved import anchored, read_config_here, started_in
from kdlab.runs import folders

NO_BUDGET = {
    "queries": None, "flops": None, "seconds": None, "price": None, "price_per_query": None, "price_per_hour": None,
    "like": None, "by": "flops", "preparation": False,
}  # fmt: skip
NO_LORA = {"rank": None, "alpha": None, "targets": "all", "dropout": 0.0}
CONFIG: dict[str, Any] = {
    "confirm": [],
    "keep": "all",
    "budget": NO_BUDGET,
    "artifacts": "artifacts",
    "data": {"path": "rows", "task": "rows", "encoding": "utf-8", "augment": {"model": "m", "table": None}},
    # a Hub name: no such folder
    "student": {
        "path": "google/tiny",
        "revision": None,
        "start": "backbone",
        "gradient_checkpointing": False,
        "lora": NO_LORA,
    },  # fmt: skip
    "teachers": {
        "path": "/abs",
        "others": {"small": {"path": "small"}},
        "cache": "rows",
        "exec": "padded",
        "part_tokens": None,
    },
    "weigh": {"path": "~/ksm"},
}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with files of the configuration, and a run that was started in it."""
    for name in ("rows", "m", "small", "artifacts", "run"):
        (tmp_path / "there" / name).mkdir(parents=True)
    folder = tmp_path / "there"
    (folder / "run" / "config.yaml").write_text(json.dumps(CONFIG))
    (folder / "run" / "result.json").write_text(json.dumps({"status": "running", "started_in": str(folder)}))
    return folder


def test_paths_become_those_of_the_folder_the_run_was_started_in(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert started_in(there / "run") == there
    found = read_config_here(there / "run")
    assert found["artifacts"] == str(there / "artifacts")
    assert found["data"] == {
        "path": str(there / "rows"), "task": "rows", "encoding": "utf-8", "augment": {"model": str(there / "m"), "table": None},
    }  # fmt: skip
    assert found["teachers"] == {
        "path": "/abs",
        "others": {"small": {"path": str(there / "small")}},
        "cache": "rows",
        "exec": "padded",
        "part_tokens": None,
    }
    assert (found["student"], found["weigh"]) == (CONFIG["student"], CONFIG["weigh"])
    monkeypatch.chdir(there)
    assert read_config_here(there / "run") == CONFIG


def test_the_reference_of_a_selection_is_a_folder_or_the_word_teacher(tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "teacher").mkdir()
    found = [
        anchored({"select": {"reference": value}}, tmp_path)["select"]["reference"] for value in ("small", "teacher")
    ]
    assert found == [str(tmp_path / "small"), "teacher"]


@pytest.mark.parametrize("place", [None, 3, "relative", "/a\0b"])
def test_a_run_without_a_known_folder_keeps_its_paths(there, tmp_path, monkeypatch, place):
    (there / "run" / "result.json").write_text(json.dumps({"started_in": place}))
    monkeypatch.chdir(tmp_path)
    assert read_config_here(there / "run") == CONFIG


def test_texts_that_cannot_be_paths_stay(tmp_path):
    config = {"data": {"path": "a\0b"}, "student": {"path": "x" * 5000}, "list": [{"path": ""}, 1]}
    assert anchored(config, tmp_path) == config


def test_the_same_run_reads_the_same_files(there, tmp_path, monkeypatch):
    monkeypatch.chdir(there)
    assert folders.same_run(there / "run", CONFIG)
    here = tmp_path / "here"
    (here / "rows").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert not folders.same_run(there / "run", CONFIG)  # these are other rows
    assert folders.same_run(there / "run", anchored(CONFIG, there))


def test_runs_from_before_a_key_are_the_same_runs_and_keep_their_hashes():
    old = {"data": {"path": "rows"}}
    today = spellings.configuration(old)
    assert today == {"confirm": [], "keep": "all", "budget": NO_BUDGET, "data": {"path": "rows", "encoding": "utf-8"}}
    assert spellings.former_configuration(today) == old
    other = {
        "confirm": ["seed"],
        "keep": "none",
        "budget": {**NO_BUDGET, "flops": 1e9},
        "data": {"path": "rows", "encoding": "cp1252"},
    }
    assert spellings.configuration(other) == spellings.former_configuration(other) == other
