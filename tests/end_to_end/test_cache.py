"""Runs that share a teacher's answers, as commands: the second runs no teacher forward and learns the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_finetune import result_of
from tests.support.runs import call, outcome, tiny, tiny_task

COSTS = ("teacher_queries", "flops")


class DieWriting:
    """SIGKILL in the middle of the entries of the cache's write number `write`: some rows are there, some are not."""

    def __init__(self, write: int) -> None:
        self.write = write

    def __call__(self) -> None:
        from kdlab.teachers.cache import disk_store

        original, calls = disk_store.DiskStore.write, 0

        def trap(store: Any, epoch: int, rows: list[int], *given: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == self.write:
                contents, payloads, *tag = given
                original(store, epoch, rows[:2], contents[:2], payloads[:2], *tag)
                os.kill(os.getpid(), signal.SIGKILL)
            original(store, epoch, rows, *given)

        disk_store.DiskStore.write = trap


def learnt(folder: Path) -> dict[str, Any]:
    """The weights and scores of a run, without its costs."""
    found = outcome(folder)
    cost = ("teacher_queries", "queries_", "flops")
    rows = [{k: v for k, v in row.items() if not k.startswith(cost)} for row in found["metrics"]]
    return {**{k: found[k] for k in ("status", "scores", "student")}, "metrics": rows}


def queries_in(folder: Path) -> tuple[int, int]:
    found = result_of(folder)["ledger"]["teacher_queries"]
    return found["total"], found["cached"]


def test_the_second_student_asks_nobody_and_learns_the_same(tmp_path, teacher_folder, text_folder):
    """Each row of text has new masks in each epoch, so that a first run with a cache is a run without, bit for bit."""
    runs = {"off": "off", "first": "disk", "second": "disk", "memory": "memory"}
    output = {}
    for name, cache in runs.items():
        given = tiny(teacher_folder, text_folder, "select=entropy", f"teachers.cache={cache}", f"hydra.run.dir={name}")
        done = call(given, tmp_path)
        assert done.code == 0, done.output
        output[name] = done.output
    off, first, second, memory = (outcome(tmp_path / name) for name in runs)
    assert first == off == memory
    assert learnt(tmp_path / "second") == learnt(tmp_path / "first")
    (total, none), (nobody, cached) = queries_in(tmp_path / "first"), queries_in(tmp_path / "second")
    assert total == cached > 0 and none == nobody == 0
    assert second["ledger"]["flops"].get("teacher_forward", 0) == 0
    seconds = result_of(tmp_path / "second")["ledger"]["seconds"]
    assert "teacher_forward" not in seconds and seconds["teacher_cache"] > 0
    (about,) = re.findall(r"teacher cache: about ([\d.]+) KB", output["first"])
    (answers,) = (tmp_path / "artifacts" / "answers").iterdir()
    assert float(about) * 1000 == pytest.approx(
        sum(file.stat().st_size for file in answers.iterdir()), rel=0.3
    )  # it counts on full batches
    assert f"answered from a cache  {cached:>11}" in output["second"]


def test_killed_while_it_writes_answers_a_run_goes_on_bit_for_bit(tmp_path, teacher_folder, task_folder):
    """14 steps over 40 rows: most answers are used again in later epochs."""
    more = [
        "select=adads",
        "teachers.cache=disk",
        "data.train_rows=40",
        "trainer.max_steps=14",
        "teachers.sanity=false",
    ]
    given = tiny_task(teacher_folder, task_folder, *more)
    done = call([*given, "hydra.run.dir=whole"], tmp_path)
    assert done.code == 0, done.output
    assert queries_in(tmp_path / "whole")[1] > 0
    shutil.rmtree(tmp_path / "artifacts" / "answers")
    killed = call([*given, "hydra.run.dir=killed"], tmp_path, DieWriting(5))
    assert killed.code == -signal.SIGKILL, killed.output
    done = call([*given, "hydra.run.dir=killed"], tmp_path)
    assert done.code == 0 and "resuming the unfinished run" in done.output, done.output
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_the_order_of_rows_is_no_part_of_an_answer(tmp_path, teacher_folder, task_folder):
    more = ["select=all", "teachers.cache=disk", "data.train_rows=40", "teachers.sanity=false"]
    for order in ("random", "length"):
        given = tiny_task(teacher_folder, task_folder, *more, f"data.order={order}", f"hydra.run.dir={order}")
        done = call(given, tmp_path)
        assert done.code == 0, done.output
    assert queries_in(tmp_path / "random")[0] == 40
    assert queries_in(tmp_path / "length")[0] == 0


def test_over_the_limit_nothing_is_loaded_or_the_run_goes_on_without(tmp_path, teacher_folder, text_folder):
    given = tiny(teacher_folder, text_folder, "teachers.cache=disk", "teachers.cache_limit=1e-5", "select=random")
    done = call([*given, "hydra.run.dir=run"], tmp_path)
    assert done.code == 2 and not (tmp_path / "run").exists()
    (line,) = [line for line in done.output.splitlines() if line.startswith("kdlab: ")]
    assert "over the limit of 1e-05 GB" in line and "teachers.cache_vocabulary=sampled" in line
    done = call([*given, "teachers.cache_over=without", "hydra.run.dir=run"], tmp_path)
    assert done.code == 0 and "continues without" in done.output, done.output
    assert queries_in(tmp_path / "run")[1] == 0 and not (tmp_path / "artifacts" / "answers").exists()


def test_each_of_two_teachers_has_its_own_answers(tmp_path, teacher_folder, task_folder):
    small = "+teachers.others.small.layers=2"
    more = ["select=random", "adopt=soft", small, "teachers.finetune.max_steps=2", "teachers.sanity=false"]
    given = tiny_task(teacher_folder, task_folder, *more, "knowledge=minilm", "student.layers=1", "teachers.cache=disk")
    for name in ("one", "two"):
        done = call([*given, f"hydra.run.dir={name}"], tmp_path)
        assert done.code == 0, done.output
    assert learnt(tmp_path / "one") == learnt(tmp_path / "two")
    first, second = (json.loads((tmp_path / n / "result.json").read_text())["ledger"] for n in ("one", "two"))
    assert set(first["teacher_queries"]["per_teacher"]) == {"small", teacher_folder.name}
    for who, one in first["teacher_queries"]["per_teacher"].items():
        again = second["teacher_queries"]["per_teacher"][who]
        assert (again["total"], again["unique"], again["cached"]) == (0, 0, one["total"])
    assert len(list((tmp_path / "artifacts" / "answers").iterdir())) == 2


def test_a_damaged_cache_is_refused_or_filled_again_as_told(tmp_path, teacher_folder, task_folder):
    more = ["select=all", "teachers.cache=disk", "data.train_rows=40", "teachers.sanity=false", "trainer.max_steps=2"]
    given = tiny_task(teacher_folder, task_folder, *more, "trainer.probes=0")
    done = call([*given, "hydra.run.dir=whole"], tmp_path)
    assert done.code == 0, done.output
    (data,) = (tmp_path / "artifacts" / "answers").glob("*/*.data")
    os.truncate(data, data.stat().st_size // 2)
    done = call([*given, "teachers.cache_trouble=refuse", "hydra.run.dir=refused"], tmp_path)
    (line,) = [line for line in done.output.splitlines() if line.startswith("kdlab: ") and "truncated" in line]
    assert done.code == 2 and f"{data.name} is truncated" in line and "teachers.cache_trouble=rebuild" in line
    done = call([*given, "hydra.run.dir=mended"], tmp_path)
    assert done.code == 0 and "is truncated" in done.output and "queries the teacher again" in done.output, done.output
    total, cached = queries_in(tmp_path / "mended")
    assert total > 0 and cached > 0 and total + cached == 32


def test_episodes_and_the_run_share_one_teachers_answers(tmp_path, teacher_folder, task_folder):
    """40 rows in 6 batches: three passes over 32 rows (8 are set aside) in each episode, two in the run. None is queried
    twice."""
    learning = ["weigh=ksm", "weigh.episodes=2", "weigh.phase=3", "weigh.reward_rows=8", "knowledge=ksm"]
    more = [*learning, "select=all", "teachers.cache=disk", "data.train_rows=40", "teachers.sanity=false"]
    given = tiny_task(teacher_folder, task_folder, *more, "trainer.max_steps=6", "trainer.probes=0")
    asked_in_all = 0
    for name, seed in (("one", 0), ("two", 1)):  # another seed: another module, other rows in each batch
        done = call([*given, f"seed={seed}", f"hydra.run.dir={name}"], tmp_path)
        assert done.code == 0, done.output
        result = result_of(tmp_path / name)
        (stage,) = [one for one in result["preparation"] if one["what"].startswith("KSM")]
        assert stage["made_now"] and stage["queries"] + stage["cached"] == 2 * 3 * 32
        total, cached = queries_in(tmp_path / name)
        assert total + cached == 2 * 40 and result["ledger"]["teacher_queries"]["unique"] == total
        asked_in_all += stage["queries"] + total
        (answers,) = (tmp_path / "artifacts" / "answers").iterdir()
        assert f"answers/{answers.name}" in result["artifacts"]
        assert asked_in_all == 40, name


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["teachers.cache=memory", "teachers.cache_vocabulary=top"], "did you mean topk"),
        (["teachers.cache_vocabulary=topk"], "teachers.cache=disk or memory"),
        (["teachers.cache=disk", "teachers.cache_vocabulary=topk", "teachers.cache_k=1000"], "has 126 tokens"),
        (["teachers.cache=ram"], "teachers.cache=ram"),
    ],
)
def test_settings_that_contradict_are_one_line(tmp_path, teacher_folder, text_folder, more, told):
    done = call(tiny(teacher_folder, text_folder, *more), tmp_path)
    assert done.code == 2 and told in done.output and not (tmp_path / "outputs").exists(), done.output
