"""The other ranks of a failed run, here small processes in place of trainings: how they end, and the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kdlab.errors import UserError
from kdlab.runs import failures, folders
from kdlab.runtime.signals import Stopped


class Launcher:
    """As Lightning's: a list of processes that is filled when the training begins."""

    def __init__(self) -> None:
        self.procs: list[subprocess.Popen] = []

    def start(self, code: str) -> subprocess.Popen:
        self.procs.append(subprocess.Popen([sys.executable, "-c", code]))
        return self.procs[-1]


@pytest.fixture(autouse=True)
def first_rank(monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "KDLAB_RUN_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(failures, "POLL", 0.05)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "rank 1 was ended by SIGKILL; the same command"),
        ("import sys; sys.exit(7)", "rank 1 ended with code 7; the same command"),
        (
            "import os, sys; open('ERROR-', 'w').write('no such row'); os.rename('ERROR-', 'ERROR'); sys.exit(2)",
            "rank 1 failed: no such row",
        ),
    ],
)
def test_what_a_dead_rank_said_is_the_error_of_the_job(tmp_path, code, sentence):
    launcher = Launcher()
    code = code.replace("ERROR", str(failures.error_file(tmp_path, 1)))
    with (
        pytest.raises(UserError, match=sentence),
        failures.recorded_failure(tmp_path, {"name": "x"}, launcher, 2, True),
    ):
        launcher.start(code)
        time.sleep(0.2)
        raise RuntimeError("Connection closed by peer")  # what a collective says then
    assert result(tmp_path)["status"] == "failed" and sentence in result(tmp_path)["error"]
    assert launcher.procs == []  # so that Lightning's observer has nobody to observe
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_other_ranks_end_with_the_first(tmp_path):
    launcher = Launcher()
    with pytest.raises(Stopped), failures.recorded_failure(tmp_path, {}, launcher, 2, True):
        process = launcher.start("import time; time.sleep(100)")
        raise Stopped(15)
    assert process.wait(10) == -9
    assert result(tmp_path) == {"status": "preempted", "signal": "SIGTERM", "step": None}


def test_a_run_that_ends_well_writes_nothing(tmp_path):
    launcher = Launcher()
    with failures.recorded_failure(tmp_path, {}, launcher, 2, True):
        launcher.start("pass").wait(30)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ones_own_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), failures.recorded_failure(tmp_path, {"seed": 1}, None, 1, True):
        _ = 1 / 0
    assert result(tmp_path) == {"status": "failed", "error": "ZeroDivisionError: division by zero", "seed": 1}


def test_only_a_rank_that_the_first_has_started_leaves_its_error(tmp_path, monkeypatch):
    assert not failures.leave_error("x")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not failures.leave_error("x")  # torchrun's
    monkeypatch.setenv("KDLAB_RUN_FOLDER", str(tmp_path))
    assert failures.leave_error("a line\nand more")
    assert failures.error_file(tmp_path, 1).read_text() == "a line"


def gone_within(pid: int, seconds: float) -> bool:
    """True if a process ends (a zombie has) within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if " Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


RANK = (
    "import time; from kdlab.runs import failures; failures.end_with_starter(); print('up', flush=True); time.sleep(60)"
)
START = "import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {rank!r}], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={{**os.environ, {own}}}); print(p.pid, {line})"
OWN = "'LOCAL_RANK': '1', 'KDLAB_RUN_FOLDER': 'x', 'KDLAB_STARTER': str(os.getpid())"
TORCHRUN = "'LOCAL_RANK': '0', 'RANK': '0', 'TORCHELASTIC_RUN_ID': 'x'"


@pytest.mark.parametrize(
    ("own", "line"),
    [(OWN, "p.stdout.readline()"), (OWN, "'at once, before the rank has imported anything'"), (TORCHRUN, "p.stdout.readline()")],
    ids=["own start", "own start, at once", "torchrun"],
)  # fmt: skip
def test_a_rank_ends_when_its_starter_is_gone(own, line):
    parent = START.format(rank=RANK, own=own, line=line)
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert gone_within(int(done.stdout.split()[0]), 20)


def test_a_rank_of_a_shell_does_not_end_with_it():
    parent = START.format(
        rank=RANK.replace("60", "2"), own="'LOCAL_RANK': '0', 'RANK': '0'", line="p.stdout.readline()"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    pid = int(done.stdout.split()[0])
    assert not gone_within(pid, 1.2) and gone_within(pid, 20)


@pytest.mark.parametrize("container", [False, True], ids=["init", "torchrun as process 1"])
def test_a_rank_whose_torchrun_died_before_it_could_look(container, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(failures, "_is_python", lambda process: container)
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, value)
    failures.end_with_starter()
    assert ended.wait(0.3 if container else 20) != container
    monkeypatch.setattr(os, "getppid", lambda: 7)  # the thread of this test ends
    assert ended.wait(20)


def test_how_often_a_run_saves_and_what_it_does_about_nan_is_the_same_run(tmp_path):
    given = {"seed": 1, "trainer": {"max_steps": 3, "checkpoint_every": 100}}
    (tmp_path / "config.yaml").write_text(json.dumps(given))
    other = {
        "seed": 1,
        "trainer": {"max_steps": 3, "checkpoint_every": 5, "on_nonfinite": "skip", "nonfinite_limit": 1},
    }
    assert folders.same_run(tmp_path, other)
    assert not folders.same_run(tmp_path, {"seed": 1, "trainer": {"max_steps": 4}})


def test_a_folder_in_which_a_run_had_hardly_begun_can_be_used(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 2")
    (tmp_path / ".result.json.tmp").write_text("{")
    assert folders.choose({"seed": 1}, tmp_path, True, False, True) == (tmp_path, False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not a run of kdlab"):
        folders.choose({"seed": 1}, tmp_path, True, False, True)
