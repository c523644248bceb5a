"""The store of a forecast: what is there is found, rows are made elsewhere, nothing is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.models.head import CLASSIFIER
from kdlab.runs.forecast import missing
from kdlab.runs.forecast.missing import BeginningOfText, FoundPreparation, NotPrepared, TemporaryRows, only_some_rows
from kdlab.stages.preparation import Preparation
from kdlab.storage.artifacts import ArtifactStore
from kdlab.storage.files import atomic_write_json


def build(out: Path) -> None:
    atomic_write_json(out / "rows.json", [1])


@pytest.fixture
def store(tmp_path) -> TemporaryRows:
    return TemporaryRows(tmp_path / "artifacts", lambda line: None, temporary=tmp_path / "temporary")


def test_rows_are_made_in_the_temporary_folder_once_and_then_found(store, tmp_path):
    folder = store.get("task", {"a": 1}, build)
    assert folder.is_relative_to(tmp_path / "temporary") and (folder / "rows.json").is_file()
    assert store.get("task", {"a": 1}, build) == folder == store.find("task", {"a": 1})
    assert not (tmp_path / "artifacts").exists() and store.seconds > 0


def test_rows_that_are_there_are_taken(store, tmp_path):
    there = ArtifactStore(tmp_path / "artifacts", lambda line: None).get("task", {"a": 1}, build)
    assert store.get("task", {"a": 1}, build) == there and not store.made


@pytest.mark.parametrize(("kind", "parts"), [("classifier", {"a": 1}), ("task", {"augment": {}})])
def test_what_takes_a_model_is_not_made(store, kind, parts):
    with pytest.raises(NotPrepared) as raised:
        store.get(kind, parts, build, "the teacher")
    assert raised.value.stage == "the teacher" and len(raised.value.key) == 16


def test_a_prerequisite_is_found_with_its_cost_or_missing(store, tmp_path):
    preparation = FoundPreparation(store)
    with pytest.raises(NotPrepared):
        preparation.get("classifier", {"a": 1}, dict, "the teacher", "teacher, 6 layers, fine-tuned")

    def train(out: Path) -> dict:
        build(out)
        return {"queries": 0, "cached": 0, "flops": 7, "seconds": 1.0, "steps": 3}

    real = Preparation(ArtifactStore(tmp_path / "artifacts", lambda line: None))
    there = real.get("classifier", {"a": 1}, train, "the teacher", "teacher, 6 layers, fine-tuned")
    assert preparation.get("classifier", {"a": 1}, dict, "the teacher", "teacher, 6 layers, fine-tuned") == there
    (stage,) = preparation.stages()
    assert (stage["what"], stage["flops"], stage["made_now"]) == ("teacher, 6 layers, fine-tuned", 7, False)


class Text:
    """A source of five documents of ten characters."""

    def documents(self):
        yield from ["0123456789"] * 5

    def size(self) -> int:
        return 50

    def fingerprint(self) -> str:
        return "the whole text"


def test_a_long_text_is_read_from_its_beginning(monkeypatch):
    monkeypatch.setattr(missing, "MOST_TEXT", 25)
    beginning = BeginningOfText(Text())
    assert len(list(beginning.documents())) == 3 and not beginning.whole and beginning.read == 30
    assert beginning.fingerprint() == "the whole text"
    monkeypatch.setattr(missing, "MOST_TEXT", 1000)
    whole = BeginningOfText(Text())
    assert len(list(whole.documents())) == 5 and whole.whole


class Labelled:
    """Inputs of a task of ten rows, which no run has tokenised."""

    fixed_inputs, max_length, task_parts, head = True, 8, {"rows": "x"}, CLASSIFIER

    def __init__(self, store: TemporaryRows) -> None:
        self.store = store
        self.rows = TaskData(None, {"train": [LabelledRow((str(i),), 0) for i in range(10)], "dev": []})  # pyright: ignore


def test_of_many_rows_some_are_taken_and_their_share_is_told(store, monkeypatch):
    monkeypatch.setattr(missing, "MOST_ROWS", 4)
    inputs = Labelled(store)
    times = only_some_rows(inputs)  # pyright: ignore[reportArgumentType]
    assert len(inputs.rows.splits["train"]) == 4 and times() == 2.5
    build_there = ArtifactStore(store.root, lambda line: None)
    build_there.get("task", inputs.task_parts, build)
    known = Labelled(store)
    assert only_some_rows(known)() == 1 and len(known.rows.splits["train"]) == 10  # pyright: ignore[reportArgumentType]
