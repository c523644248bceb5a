"""Answers shared by ranks, by runs at the same time, by kept augmented rows; killed at many writes."""

from __future__ import annotations

import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from tests.end_to_end.test_cache import DieWriting, learnt, queries_in
from tests.support.runs import ChildResult, call, outcome, tiny, tiny_task

TWO = ["data.batch_size=8", "trainer.devices=2", "trainer.accelerator=cpu"]


def test_two_ranks_fill_one_cache_and_the_second_run_asks_nobody(tmp_path, teacher_folder, task_folder):
    more = [*TWO, "select=entropy", "data.train_rows=60", "teachers.sanity=false", "teachers.cache=disk"]
    for name in ("one", "two"):
        done = call(tiny_task(teacher_folder, task_folder, *more, f"hydra.run.dir={name}"), tmp_path, ranks=2)
        assert done.code == 0, done.output
    assert learnt(tmp_path / "one") == learnt(tmp_path / "two")
    (total, again), (none, cached) = queries_in(tmp_path / "one"), queries_in(tmp_path / "two")
    assert total + again == cached and none == 0 and again > 0
    (answers,) = (tmp_path / "artifacts" / "answers").iterdir()
    assert len(list(answers.glob("*.data"))) == 2


def test_two_ranks_of_which_one_is_killed_go_on_bit_for_bit(tmp_path, teacher_folder, task_folder):
    more = [*TWO, "select=random", "data.train_rows=40", "teachers.sanity=false", "teachers.cache=disk"]
    given = tiny_task(teacher_folder, task_folder, *more)
    done = call([*given, "hydra.run.dir=whole"], tmp_path, ranks=2)
    assert done.code == 0, done.output
    shutil.rmtree(tmp_path / "artifacts" / "answers")
    killed = call([*given, "hydra.run.dir=killed"], tmp_path, DieWriting(3), ranks=2)
    assert killed.code != 0
    done = call([*given, "hydra.run.dir=killed"], tmp_path, ranks=2)
    assert done.code == 0, done.output
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("stage", ["task", "text"])
def test_killed_at_every_write_a_run_goes_on_bit_for_bit(tmp_path, teacher_folder, task_folder, text_folder, stage):
    more = ["select=adads", "teachers.cache=disk", "select.observe=kd", "hydra.run.dir=run"]
    given = tiny(teacher_folder, text_folder, *more)
    if stage == "task":
        given = tiny_task(teacher_folder, task_folder, *more, "data.train_rows=40", "teachers.sanity=false")
    done = call(given, tmp_path)
    assert done.code == 0, done.output
    shutil.move(tmp_path / "run", tmp_path / "whole")
    write = 0
    while True:
        write += 1
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.rmtree(tmp_path / "artifacts" / "answers")
        killed = call(given, tmp_path, DieWriting(write))
        if killed.code == 0:
            break
        assert killed.code == -signal.SIGKILL, killed.output
        done = call(given, tmp_path)
        assert done.code == 0, done.output
        assert outcome(tmp_path / "run") == outcome(tmp_path / "whole"), write
    assert write > 5


def at_once(folder: Path, *commands: list[str]) -> list[ChildResult]:
    done: list[ChildResult] = []
    threads = [
        threading.Thread(target=lambda given=given: done.append(call(given, folder / given[-1][-3:])))
        for given in commands
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


@pytest.mark.parametrize("fill", ["together", "alone"])
def test_runs_of_other_seeds_at_the_same_time(tmp_path, teacher_folder, task_folder, fill):
    """Together, a row's bits are those of whoever stored it first: equal within rounding. Alone, equal in bits."""
    more = ["select=random", "teachers.cache=disk", "teachers.sanity=false", f"teachers.cache_fill={fill}"]
    more += [f"artifacts={tmp_path / 'artifacts'}", "data.train_rows=60"]
    commands = [tiny_task(teacher_folder, task_folder, *more, f"seed={s}", f"hydra.run.dir=seed-{s}00") for s in (1, 2)]
    assert [done.code for done in at_once(tmp_path, *commands)] == [0, 0]
    shutil.rmtree(tmp_path / "artifacts" / "answers")
    done = call(commands[0], tmp_path / "cold")
    assert done.code == 0, done.output
    warm, cold = tmp_path / "100" / "seed-100", tmp_path / "cold" / "seed-100"
    if fill == "alone":
        assert learnt(warm)["student"] == learnt(cold)["student"]
    both = [safetensors.torch.load_file(folder / "student" / "model.safetensors") for folder in (warm, cold)]
    for name in both[0]:
        np.testing.assert_allclose(both[0][name].numpy(), both[1][name].numpy(), atol=2e-4, err_msg=name)


def test_augmented_rows_have_answers_of_their_own(tmp_path, teacher_folder, task_folder):
    more = ["select=random", "teachers.cache=disk", "teachers.sanity=false", "data.train_rows=40"]
    added = [*more, "+augment=tinybert", "data.augment.copies=1"]
    for name, given in (("plain", more), ("one", added), ("two", added)):
        done = call(tiny_task(teacher_folder, task_folder, *given, f"hydra.run.dir={name}"), tmp_path)
        assert done.code == 0, done.output
    assert queries_in(tmp_path / "one")[0] > 0 and queries_in(tmp_path / "two") == (
        0,
        sum(queries_in(tmp_path / "one")),
    )
    assert learnt(tmp_path / "one") == learnt(tmp_path / "two")
    assert len(list((tmp_path / "artifacts" / "answers").iterdir())) == 2


@pytest.mark.parametrize("knowledge", ["tinybert", "minilm", "pkd", "ksm"])
def test_the_second_run_of_every_kind_of_knowledge_asks_nobody(tmp_path, teacher_folder, task_folder, knowledge):
    more = ["select=random", "teachers.cache=disk", "teachers.sanity=false"]
    more += ["knowledge=ksm", "weigh=ksm", "weigh.episodes=1"] if knowledge == "ksm" else [f"knowledge={knowledge}"]
    for name in ("one", "two"):
        done = call(tiny_task(teacher_folder, task_folder, *more, f"hydra.run.dir={name}"), tmp_path)
        assert done.code == 0, done.output
    assert queries_in(tmp_path / "two")[0] == 0 < queries_in(tmp_path / "two")[1]
    assert learnt(tmp_path / "one") == learnt(tmp_path / "two")
