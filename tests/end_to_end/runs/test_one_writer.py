"""Two runs, suites or exports that would write one folder: the second is refused in one line, or has a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from kdlab.storage import locks, tables
from kdlab.testing.child_process import ChildResult
from kdlab.testing.fault_points import FaultAt, SendSignal, before_each
from tests.support.runs import call, outcome

RUN = "hydra.run.dir=run"


@dataclass
class WaitAt:
    """Stay in step 2 until a file appears; `begun` appears then."""

    begun: Path
    until: Path

    def __call__(self) -> None:
        def wait(module) -> None:
            if module.trainer.global_step == 2:
                self.begun.touch()
                while not self.until.exists():
                    time.sleep(0.02)

        before_each("training_step", wait)


@dataclass
class AtOneSecond:
    """The clock of folder names stands still, and the run begins its training when `others` have as well."""

    begun: Path
    others: int

    def __call__(self) -> None:
        import hydra.core.utils

        def wait(module) -> None:
            (self.begun / str(os.getpid())).touch()
            until = time.monotonic() + 60
            while len(list(self.begun.iterdir())) < self.others and time.monotonic() < until:
                time.sleep(0.02)

        before_each("on_train_start", wait)
        noon = datetime(2026, 1, 31, 12)
        hydra.core.utils.datetime = SimpleNamespace(now=lambda: noon)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def artifacts(undisturbed) -> str:
    return f"artifacts={undisturbed / 'artifacts'}"


def together(count: int, call_one) -> list[ChildResult]:
    done: dict[int, ChildResult] = {}
    threads = [Thread(target=lambda i=i: done.update({i: call_one(i)})) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done[i] for i in range(count)]


def steps(run: Path) -> list[str]:
    return [row["step"] for row in tables.read(run / "metrics.csv")]


def test_a_second_run_in_a_folder_is_refused_in_one_line(short_command, artifacts, tmp_path):
    begun, until = tmp_path / "begun", tmp_path / "until"
    first = Thread(target=lambda: done.append(call([*short_command, RUN, artifacts], tmp_path, WaitAt(begun, until))))
    done: list[ChildResult] = []
    first.start()
    while not begun.exists():
        time.sleep(0.02)
    for more in ((), ("seed=2",), ("overwrite=true",), ("resume=false",)):
        other = call([*short_command, RUN, artifacts, *more], tmp_path)
        lines = [line for line in other.output.splitlines() if line.startswith("kdlab: ")]
        assert other.code == 2 and len(lines) == 1 and "is at work in it" in lines[0], other.output
        assert "Traceback" not in other.output
    until.touch()
    first.join()
    assert done[0].code == 0, done[0].output
    assert steps(tmp_path / "run") == ["0", "4"] and not list(tmp_path.rglob(locks.NAME))


def test_runs_of_the_same_second_have_folders_of_their_own(short_command, artifacts, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    given = [[*short_command, artifacts, f"seed={seed}"] for seed in (1, 2)]
    done = together(2, lambda i: call(given[i], tmp_path, AtOneSecond(begun, 2)))
    assert [one.code for one in done] == [0, 0], [one.output for one in done]
    runs = sorted((tmp_path / "outputs" / "adads_pretrain").iterdir())
    assert [run.name for run in runs] == ["2026-01-31_12-00-00", "2026-01-31_12-00-00-2"]
    assert {json.loads((run / "result.json").read_text())["seed"] for run in runs} == {1, 2}
    assert all(steps(run) == ["0", "4"] for run in runs)


def test_the_same_command_leaves_a_run_that_is_under_way_alone(short_command, artifacts, tmp_path):
    begun, until = tmp_path / "begun", tmp_path / "until"
    done: list[ChildResult] = []
    first = Thread(target=lambda: done.append(call([*short_command, artifacts], tmp_path, WaitAt(begun, until))))
    first.start()
    while not begun.exists():
        time.sleep(0.02)
    again = call([*short_command, artifacts], tmp_path)
    until.touch()
    first.join()
    assert (again.code, done[0].code) == (0, 0), again.output + done[0].output
    assert "is at work on the same run" in again.output and "resuming" not in again.output
    runs = sorted((tmp_path / "outputs" / "adads_pretrain").iterdir())
    assert len(runs) == 2 and outcome(runs[0]) == outcome(runs[1])


def test_a_killed_run_blocks_nobody(short_command, artifacts, tmp_path):
    given = [*short_command, RUN, artifacts, "data.workers=2"]
    assert call(given, tmp_path, FaultAt(2, SendSignal(signal.SIGKILL))).code == -signal.SIGKILL
    assert (tmp_path / "run" / locks.NAME).exists()
    done = call(given, tmp_path)
    assert done.code == 0 and "resuming" in done.output, done.output
    assert steps(tmp_path / "run") == ["0", "4"]


def test_a_run_killed_while_it_replaces_another_is_begun_anew(short_command, artifacts, tmp_path):
    assert call([*short_command, RUN, artifacts], tmp_path).code == 0
    before = outcome(tmp_path / "run")
    given = [*short_command, RUN, artifacts, "seed=2"]
    killed = call([*given, "overwrite=true"], tmp_path, KillWhileRemoving())
    assert killed.code == -signal.SIGKILL and (tmp_path / "run" / "result.json").exists()
    done = call(given, tmp_path)  # the owner has decided that the first run goes
    assert done.code == 0 and "resuming" not in done.output, done.output
    assert outcome(tmp_path / "run")["student"] != before["student"] and steps(tmp_path / "run") == ["0", "4"]


class KillWhileRemoving:
    """SIGKILL at the second thing that a run removes from the folder of another."""

    def __call__(self) -> None:
        import shutil

        removed = []

        def rmtree(path, *arguments, **named) -> None:
            removed.append(path)
            if len(removed) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            original(path, *arguments, **named)

        original, shutil.rmtree = shutil.rmtree, rmtree  # pyright: ignore[reportAttributeAccessIssue]
