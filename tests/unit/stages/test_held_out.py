"""Rows held out of training for observations (`select.observe=held_out`)."""

from __future__ import annotations

from typing import Any

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.runs.prepare import most_batches
from kdlab.stages.registry import stage_of
from kdlab.testing.child_process import tiny_task

HELD_OUT = ["select=adads", "select.observe=held_out"]


@pytest.fixture
def data(tmp_path, monkeypatch, teacher_folder, task_folder):
    """The data module of a tiny run with some settings."""
    monkeypatch.chdir(tmp_path)

    def made(*more: str) -> Any:
        stage = stage_of(checked(composition(tiny_task(teacher_folder, task_folder, *more))[0]), lambda line: None)
        return stage.inputs.data_module(most_batches(stage.config), None)

    return made


def rows_of(batches: Any) -> set[int]:
    return {row for batch in batches for row in batch.rows.tolist()}


def test_as_many_rows_as_asked_for_are_never_trained_on(data):
    some = data(*HELD_OUT, "select.evaluation_rows=7")
    aside, trained = rows_of(some.observed_batches(7, True)), set(some.sampler().rows.tolist())
    assert len(aside) == 7 and not aside & trained and len(trained) <= len(some.train) - 7


def test_at_most_a_fifth_is_held_out(data):
    some = data(*HELD_OUT, "select.evaluation_rows=auto", "data.train_rows=40")
    assert len(rows_of(some.aside_batches())) == 8
    with pytest.raises(UserError, match="select.evaluation_rows=9: of 40 training rows at most a fifth, 8"):
        data(*HELD_OUT, "select.evaluation_rows=9", "data.train_rows=40")


def test_without_an_observation_nothing_is_held_out(data):
    for more in (["select=adads"], ["select=all", "select.observe=held_out"]):
        some = data(*more)
        assert len(some.sampler().rows) == len(some.train) and rows_of(some.aside_batches()) == set()
