"""A sweep's jobs: expansion and names, scheduling of one-line shell commands in their place, stops, counts, display."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

import kdlab.sweeps.files
from kdlab.config.composition import composition, to_plain
from kdlab.config.schema import Config, checked
from kdlab.data.tasks import sources
from kdlab.errors import UserError
from kdlab.runs import process
from kdlab.runtime.progress import readable_time
from kdlab.storage import locks
from kdlab.storage.artifacts import ArtifactStore, key_of, lock_of
from kdlab.storage.files import open_locked
from kdlab.sweeps import display, expansion, job_logs, scheduler, sweep, validation
from kdlab.sweeps.expansion import Expansion, SweepJob
from kdlab.sweeps.job_status import SweepStatus
from kdlab.sweeps.launchers import local
from tests.support.runs import tiny_task

RESULT = (
    '{"status": "finished", "seed": 1, "select": {"name": "all", "ratio": 1.0}, "data": {"task": "rte"},'
    ' "metrics": {"student": {"loss": 0.5, "score": %s}},'
    ' "ledger": {"teacher_queries": {"total": 1}, "flops": {"total": 1.0}, "seconds": {"training": 1.0}}}'
)


def finish(score: float = 0.5) -> str:
    """A shell line that does what a run does in the end."""
    return f"mkdir -p $FOLDER; echo '{RESULT % score}' > $FOLDER/result.json"


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Jobs are shell lines: their first override. The environments they were given."""
    given: list[dict[str, str]] = []

    def spawn(overrides, environment, held, output, where=None):
        given.append(dict(environment))
        override = OverridesParser.create().parse_override(overrides[-1])
        assert override.key_or_group == "hydra.run.dir"
        folder = str(override.value())
        return subprocess.Popen(
            ["sh", "-c", overrides[0]], env={**environment, "FOLDER": folder}, pass_fds=held, stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip

    monkeypatch.setattr(process, "spawn", spawn)
    monkeypatch.setattr(local, "is_supported", lambda: False)  # of forks
    return given


def made(folder: Path, *lines: str, devices: int = 1, accelerator: str = "auto") -> list[SweepJob]:
    config = Config()
    config = dataclasses.replace(
        config, trainer=dataclasses.replace(config.trainer, devices=devices, accelerator=accelerator)
    )
    return [SweepJob(i, f"job={i}", folder / f"job={i}", (line,), config) for i, line in enumerate(lines)]


def run(found: Sequence[SweepJob], launcher: local.Local | None = None) -> tuple[SweepStatus, int | None, str]:
    """Dispatch some jobs; returns their states, the signal that stopped the sweep, and the output."""
    launcher = launcher or local.Local()
    launcher.prepare(found, "mine")
    status, said = SweepStatus(launcher.at_once), io.StringIO()
    stopped = scheduler.Scheduler(launcher, status, display.PlainDisplay(status, said)).run(found)
    return status, stopped, said.getvalue()


def states(status: SweepStatus) -> list[str]:
    return [one.state for one in status.jobs.values()]


# ---- which jobs


def no_job_begins(given, folder, monkeypatch, capsys) -> str:
    """The one line that refuses a sweep, with nothing begun and nothing written."""
    from kdlab import run as entry

    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(process, "spawn", None)
    monkeypatch.setattr(process, "fork", None)
    assert entry.main(["-m", *given]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and not list(folder.iterdir())
    return err


def test_jobs_are_the_product_and_named_by_what_differs():
    whole = Expansion(["+exp=adads_finetune", "select=random,entropy", "seed=1,2", "trainer.max_steps=3"], [])
    found = expansion.jobs(whole, {})
    names = ["seed=1,select=random", "seed=2,select=random", "seed=1,select=entropy", "seed=2,select=entropy"]
    assert [job.differs for job in found] == names
    assert found[0].overrides == ("+exp=adads_finetune", "select=random", "seed=1", "trainer.max_steps=3")
    (home,) = {job.folder.parent for job in found}
    assert home.parent == Path("outputs/adads_finetune") and home.name.startswith("sweep-")
    assert [job.config.seed for job in found] == [1, 2, 1, 2]


def test_a_sweep_lies_where_it_lay_wherever_it_runs():
    shared = ["+exp=adads_finetune", "trainer.max_steps=3", "seed=1,2"]
    first = Expansion(shared, [])
    other = Expansion([*reversed(shared), "hydra/launcher=parallel", "hydra.launcher.n_jobs=2"], [])
    # of the lines that the jobs share, sorted; written down when sweeps were Hydra's own
    assert first.digest == other.digest == "de65cb62"
    assert Expansion([*shared, "optim.lr=1e-3"], []).digest != first.digest


def test_devices_of_one_sweep_are_each_jobs_own():
    found = expansion.jobs(Expansion(["+exp=adads_finetune", "trainer.devices=1,2"], []), {})
    assert [job.config.trainer.devices for job in found] == [1, 2]
    assert [local.devices_of(job) for job in found] == [1, 2]


def test_the_jobs_of_all_grids_of_a_file_are_one_sweep_each_once(monkeypatch):
    def grids(name, overrides, folders):
        assert name == "mine" and list(overrides) == ["trainer.max_steps=3"]
        shared = ["+exp=adads_finetune", "seed=1,2", "select.ratio=0.3"]
        return [
            [*shared, "select=random,all", *overrides],
            [*shared, "select=all", *overrides],
            [*shared[:1], *overrides],
        ]

    monkeypatch.setitem(sys.modules, "kdlab.sweeps.files", SimpleNamespace(grids=grids))
    monkeypatch.setattr(kdlab.sweeps, "files", SimpleNamespace(grids=grids))
    found = expansion.jobs(Expansion(["+sweep=mine", "trainer.max_steps=3"], []), {})
    both = [f"seed={seed},select.ratio=0.3,select={name}" for seed in (1, 2) for name in ("random", "all")]
    assert [job.differs for job in found] == [*both, ""]
    assert len(found) == 5 and {job.folder.parent.parent for job in found} == {Path("outputs/mine")}
    assert [job.folder.name for job in found] == [
        "random-r0.3-s1", "all-r0.3-s1", "random-r0.3-s2", "all-r0.3-s2", "adads-r0.1-s1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["selct=random,all"], "unknown key selct"),
        (["select=random,nothing"], "there is no such choice"),
        (["select.ratio=0.5,2"], "in the job select.ratio=2"),
        (["select.ratio=interval(0.1,0.5)"], "hydra/sweeper=optuna"),
        (["hydra/launcher=paralel"], "did you mean parallel"),
        (["hydra.launcher.jobs=2"], "did you mean n_jobs"),
        (["hydra/launcher=basic,parallel"], "holds for the whole sweep"),
        (["hydra.sweep.subdir=x", "seed=1,2"], "two jobs have the folder"),
        (["hydra/launcher=parallel", "hydra.launcher.n_jobs=0"], "n_jobs=0"),
        (["hydra.sweep.subdir='" + 300 * "x" + "${hydra.job.num}'", "seed=1,2"], "longer than file systems take"),
        (["data.path=../../x,../../y"], "does not exist"),
        (["overwrite=true", "seed=1,2"], "a sweep skips what is finished"),
        (["hydra.sweep.subdir='/elsewhere/${hydra.job.num}'", "seed=1,2"], "outside of the sweep's"),
    ],
)
def test_what_is_no_sweep_is_refused_before_anything_is_written(given, said, tmp_path, monkeypatch, capsys):
    assert said in no_job_begins(["+exp=adads_finetune", *given], tmp_path / "home", monkeypatch, capsys)


@pytest.mark.parametrize(
    "given",
    [
        ["select=all,adads", "select.ratio=0.1,1"],
        ["select.policy.alpha=0.1,0.2", "select=adads", "optim.betas=[0.9,0.98]", "data.task=rte"],
        ["student=short_demo", "student.layers=2,[0,1]", "+teachers.others.small.layers=2", "teachers.name='a b'"],
        ["~select.arms.entropy", "select=adads", "select.arms.margin=null,1"],
        ["suite=null", "trainer.max_epochs=2,${seed}", "seed=3", "hydra.sweep.subdir='j${hydra.job.num}'"],
    ],
)
def test_jobs_are_as_if_each_had_been_composed_alone(given):
    """Jobs share what is composed once; the oracle is Hydra's own composition of each job's overrides."""
    found = expansion.jobs(Expansion(["+exp=adads_finetune", *given], []), {})
    assert len(found) > 1
    for job in found:
        composed = composition(job.overrides)[0]
        assert job.config == checked(composed) and job.resolved == to_plain(composed)
        assert "hydra" not in given[-1] or job.folder.name == f"j{job.number}"
    assert len({job.folder for job in found}) == len(found)


@pytest.mark.parametrize(
    ("given", "said", "job"),
    [
        (["knowledge=response,relk", "seed=1,2"], "the student has 1 and needs 2", "knowledge=relk,seed=1"),
        (["data.path={rows},{rows}/nowhere", "seed=1,2"], "does not exist", "data.path={rows}/nowhere,seed=1"),
        (["teachers.path={teacher},{rows}", "seed=1,2"], "a model folder", "seed=1,teachers.path={rows}"),
        (["adopt=single,hard", "seed=1,2"], "chooses among 2 teachers", "adopt=hard,seed=1"),
        (["select=random,nothing", "seed=1,2"], "select=nothing: there is no such choice", "seed=1,select=nothing"),
        (["select.ratio=0.1,0.2", "data.task=null,rte"], "RTE has 2", "data.task=rte,select.ratio=0.1"),
    ],
)
def test_a_job_whose_inputs_a_run_would_refuse_is_named_before_the_first(
    given, said, job, tmp_path, teacher_folder, task_folder, monkeypatch, capsys
):
    named = {"rows": task_folder, "teacher": teacher_folder}
    lines = tiny_task(teacher_folder, task_folder, "student.layers=1", *(line.format(**named) for line in given))
    err = no_job_begins(lines, tmp_path / "home", monkeypatch, capsys)
    assert said in err and f"(in the job {job.format(**named)})" in err


def test_a_folder_that_holds_something_else_is_named_before_the_first(
    tmp_path, teacher_folder, task_folder, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lines = tiny_task(teacher_folder, task_folder, "seed=1,2", "select=random")
    found = expansion.jobs(Expansion(lines, []), {})
    validation.check(found)
    found[1].folder.mkdir(parents=True)
    (found[1].folder / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"holds files that are not a run.*\(in the job seed=2\)"):
        validation.check(found)
    (found[1].folder / "result.json").write_text(RESULT % 0.5)  # finished: it is left alone
    validation.check(found)


def test_a_finished_run_of_another_configuration_is_no_result_of_a_job(tmp_path, monkeypatch):
    """With a folder of the user's choice, the same job names can come from another command."""
    monkeypatch.chdir(tmp_path)
    lines = ["+exp=adads_finetune", "hydra.sweep.dir=mine", "seed=1,2"]
    first, second = (expansion.jobs(Expansion([*lines, f"trainer.max_steps={n}"], []), {}) for n in (3, 4))
    for job in first:
        job.folder.mkdir(parents=True)
        (job.folder / "config.yaml").write_text(yaml.safe_dump({**job.resolved, "overwrite": True, "since": "1.0"}))
        (job.folder / "result.json").write_text(RESULT % 0.5)
    assert [job.folder for job in first] == [job.folder for job in second]
    validation.check_finished(first)
    with pytest.raises(
        UserError,
        match=r"mine/adads-r0.1-s1 holds a finished run with another trainer.max_steps.*\(in the job seed=1\)",
    ):
        validation.check_finished(second)
    (second[0].folder / "config.yaml").unlink()  # of a version that wrote none
    (second[1].folder / "result.json").write_text('{"status": "running"}')
    validation.check_finished(second)


def test_rows_are_read_once_for_jobs_that_share_them(tmp_path, teacher_folder, task_folder, monkeypatch):
    read: list[Path] = []
    original = sources.TaskFolder.read
    monkeypatch.setattr(sources.TaskFolder, "read", lambda self: read.append(Path(self.path)) or original(self))
    monkeypatch.chdir(tmp_path)
    lines = tiny_task(teacher_folder, task_folder, "seed=1,2", "select=random,entropy", "data.max_length=16,32")
    validation.check(expansion.jobs(Expansion(lines, []), {}))
    assert read == [task_folder, task_folder]  # for each of the lengths


# ---- running them


def test_a_failed_job_leaves_the_others_alone_and_is_named_with_its_line(tmp_path, shell, capsys):
    refused = "echo 'kdlab: teachers.path=x: there is no such folder' >&2; exit 2"
    crash = "printf 'fine\\nTraceback (most recent call last):\\n  File x\\nRuntimeError: boom\\nand more\\n'; exit 1"
    found = made(tmp_path, finish(0.25), refused, crash, "kill -9 $$", finish(0.75))
    status, stopped, said = run(found)
    assert states(status) == ["done", "failed", "failed", "failed", "done"] and stopped is None
    errors = [one.error for one in status.of("failed")]
    assert errors[0] == "teachers.path=x: there is no such folder" and errors[1] == "RuntimeError: boom"
    assert errors[2].startswith("killed (SIGKILL)")
    assert [one.job.number for one in status.best()] == [4]
    assert sweep._outcome(status, stopped) == 1
    printed = capsys.readouterr()
    assert "best rte: score 75.0" in printed.out and "3 jobs failed" in printed.err
    assert all(str(found[i].log) in printed.err for i in (1, 2, 3)) and "2 done" in said
    again, _, said = run([dataclasses.replace(job, overrides=(finish(),)) for job in found])
    assert states(again) == 5 * ["done"] and said.count("skipped") == 2


def test_a_job_knows_its_sweep_and_what_sets_it_apart(tmp_path, shell, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(made(tmp_path, finish()))
    assert (shell[0]["KDLAB_SWEEP"], shell[0]["KDLAB_DIFFERS"]) == ("mine", "job=0")
    assert "WORLD_SIZE" not in shell[0] and "CUDA_VISIBLE_DEVICES" not in set(shell[0]) - set(os.environ)


def test_several_at_once_share_the_gpus_and_the_cores(tmp_path, shell, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "cores", lambda: 12)
    lines = [f"sleep 0.3; {finish()}"] * 3
    launcher = local.Local("auto")
    status, _, _ = run(made(tmp_path, *lines), launcher)
    assert launcher.at_once == 3 and states(status) == 3 * ["done"]
    assert sorted(given["CUDA_VISIBLE_DEVICES"] for given in shell) == ["2", "5", "7"]
    assert {given["OMP_NUM_THREADS"] for given in shell} == {"4"}
    began = [one.began for one in status.jobs.values()]
    assert max(began) - min(began) < 0.25  # at once
    shell.clear()
    status, _, _ = run(made(tmp_path / "two", *lines[:2], devices=2), local.Local(2))
    assert all(len(given["CUDA_VISIBLE_DEVICES"].split(",")) == 2 for given in shell)
    assert {given["OMP_NUM_THREADS"] for given in shell} == {"3"}
    first, second = status.jobs.values()
    assert second.began >= first.ended - 0.05  # three GPUs hold one job of two
    for one in (local.Local(2), local.Local()):
        with pytest.raises(UserError, match="3 GPUs are free"):
            run(made(tmp_path / "four", finish(), devices=4), one)
    shell.clear()
    run(made(tmp_path / "cpu", finish(), accelerator="cpu"), local.Local(2))
    assert shell[0]["CUDA_VISIBLE_DEVICES"] == ""


def test_the_driver_lists_the_gpus_where_nothing_is_set(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'; echo 'GPU 1: A (UUID: y)'\n")
    tool.chmod(0o755)
    assert local.visible_gpus() == ["0", "1"]
    tool.write_text("#!/bin/sh\necho 'no driver'; exit 9\n")
    assert local.visible_gpus() == []
    with pytest.raises(UserError, match="give a number"):
        local.Local("auto").prepare([], "mine")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_jobs_and_the_same_command_goes_on(number, tmp_path, shell, capsys):
    saves = "trap 'echo saved > $FOLDER.saved; exit 130' INT TERM; echo here; while :; do sleep 0.05; done"
    found = made(tmp_path, finish(), saves, saves, finish())

    def soon():
        while not all(job.log.exists() and "here" in job.log.read_text() for job in found[1:3]):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=soon)
    thread.start()
    status, stopped, said = run(found, local.Local(2))
    thread.join()
    assert states(status) == ["done", "stopped", "stopped", "left"] and "stopping 2 jobs" in said
    assert all(job.folder.with_name(f"{job.folder.name}.saved").exists() for job in found[1:3])
    assert sweep._outcome(status, stopped) == 128 + number
    assert "3 jobs not finished; the same command resumes the sweep" in capsys.readouterr().err
    assert signal.getsignal(number) != stopped
    again, stopped, _ = run([dataclasses.replace(job, overrides=(finish(),)) for job in found])
    assert states(again) == 4 * ["done"] and stopped is None


def test_a_job_that_will_not_end_is_killed_when_its_time_is_up(tmp_path, shell, monkeypatch):
    monkeypatch.setattr(scheduler, "SAVE_TIMEOUT", 0.3)
    found = made(tmp_path, "trap '' INT; echo here; while :; do sleep 0.05; done")
    kill = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    kill.start()
    status, stopped, _ = run(found)
    assert states(status) == ["stopped"] and stopped == signal.SIGINT


def test_jobs_save_and_end_when_the_sweep_itself_fails(tmp_path, shell):
    found = made(tmp_path, "trap 'echo saved > $FOLDER.saved; exit 0' TERM; echo here; while :; do sleep 0.05; done")

    class Gone(display.PlainDisplay):
        """The reader of the output has exited."""

        def tick(self):
            if found[0].log.exists() and "here" in found[0].log.read_text():
                raise BrokenPipeError

    status = SweepStatus()
    launcher = local.Local()
    with pytest.raises(BrokenPipeError):
        scheduler.Scheduler(launcher, status, Gone(status, io.StringIO())).run(found)
    assert launcher._running[0].process.wait(10) == 0
    assert found[0].folder.with_name("job=0.saved").exists()


def test_two_commands_share_the_jobs_of_one_sweep(tmp_path, shell):
    """A job that another process runs is waited for, and counts as finished when that process finishes it."""
    found = made(tmp_path, finish(), finish())
    found[0].folder.mkdir(parents=True)
    descriptor, _ = open_locked(found[0].folder / locks.NAME, False, None, False)  # as another process has it
    assert descriptor is not None

    def elsewhere():
        while not (found[1].folder / "result.json").exists():
            time.sleep(0.02)
        (found[0].folder / "result.json").write_text(RESULT % 0.1)
        os.close(descriptor)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    status, _, said = run(found)
    thread.join()
    assert states(status) == ["done", "done"] and len(shell) == 1
    assert "another process is at work" in said


def test_a_rank_that_a_dead_job_leaves_behind_is_ended_too(tmp_path, shell):
    found = made(tmp_path, "sleep 300 & echo $! > $FOLDER.pid; kill -9 $$")
    run(found)
    pid = int((tmp_path / "job=0.pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the process lives on")
    assert not (tmp_path / "job=0").exists()


# ---- what is shown


def test_the_time_left_is_that_of_the_jobs_so_far():
    status = SweepStatus(at_once=2)
    status.add(made(Path("x"), *7 * ["true"]))
    assert status.seconds_left() is None
    now = time.monotonic()
    for number, (began, ended) in enumerate([(now - 50, now - 30), (now - 40, now - 10)]):
        one = status.jobs[number]
        one.state, one.began, one.ended = "done", began, ended
    status.jobs[2].state, status.jobs[2].began = "running", now - 15
    # 25 s a job; 10 s left of one, and four to come, two at a time
    assert status.seconds_left() == pytest.approx((4 * 25 + 10) / 2, abs=0.5)
    assert status.counts() == {"done": 2, "running": 1, "failed": 0, "left": 4}
    assert [readable_time(s) for s in (None, 45, 720, 12000, 187200)] == [
        "?",
        "45 s",
        "12 min",
        "3 h 20 min",
        "2 d 4 h",
    ]


def test_the_best_is_told_apart_by_task_and_by_direction(tmp_path):
    results = {
        0: {"metrics": {"student": {"loss": 5.0}}, "data": {"source": "text"}},
        1: {"metrics": {"student": {"loss": 4.0}}, "data": {"source": "text"}},
        2: {"metrics": {"student": {"loss": 0.1, "score": 0.6}}, "data": {"task": "rte"}},
        3: {"metrics": {"student": {"loss": 0.9, "score": 0.7}}, "data": {"task": "rte"}},
        4: {"metrics": {"student": {"score": 0.8}}, "data": {"path": "/a/rows.csv", "fingerprint": "a", "source": "TaskFolder"}},
        5: {"metrics": {"student": {"score": 0.9}}, "data": {"path": "/b/rows.csv", "fingerprint": "b", "source": "TaskFolder"}},
    }  # fmt: skip
    status = SweepStatus()
    status.add(made(tmp_path, *6 * ["true"]))
    for number, result in results.items():
        (tmp_path / f"job={number}").mkdir()
        (tmp_path / f"job={number}" / "result.json").write_text(json.dumps({**json.loads(RESULT % 0.5), **result}))
        status.finish(number)
    best = {str(one.objective): one.job.number for one in status.best()}
    assert best == {
        "held-out loss 4.0000": 1,
        "score 70.0 %": 3,
        "score 80.0 %": 4,
        "score 90.0 %": 5,
    }  # of each data set
    assert [one.objective.task for one in status.best() if one.objective] == ["text", "rte", "rows.csv", "rows.csv"]


def test_the_table_on_a_terminal_has_counts_times_last_lines_and_the_best(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    status = SweepStatus(at_once=1)
    found = made(tmp_path, *3 * ["true"])
    status.add(found)
    found[0].folder.mkdir()
    (found[0].folder / "result.json").write_text(RESULT % 0.75)
    found[1].log.write_text("first\n  training: step 20/300\n")
    stream = Terminal()
    shown = display.display_of(status, "mine-1234", stream)
    status.jobs[0].began = time.monotonic() - 30
    shown.changed(status.finish(0))
    status.jobs[1].state, status.jobs[1].began = "running", time.monotonic() - 10
    shown.changed(status.jobs[1])
    shown.close()
    last = stream.getvalue().rsplit("mine-1234", 1)[1]
    for said in (
        "done",
        "running",
        "failed",
        "left",
        "time left",
        "50 s",
        "training: step 20/300",
        "score 75.0 %",
        "job=0",
    ):
        assert said in last
    assert isinstance(display.display_of(status, "x", io.StringIO()), display.PlainDisplay)


def test_without_a_terminal_a_line_comes_once_a_minute(monkeypatch):
    status, stream = SweepStatus(), io.StringIO()
    status.add(made(Path("x"), "true"))
    shown = display.PlainDisplay(status, stream)
    shown.tick()
    assert not stream.getvalue()
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    shown.tick()
    assert stream.getvalue() == "kdlab: 0 done, 0 running, 0 failed, 1 left\n"


def test_a_progress_bar_in_a_log_is_read_as_what_it_shows_last(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"before\n\x1b[1mepoch 1\rstep 5/8\x1b[0m\n\n")
    assert job_logs.last_line(log, 0) == "step 5/8"
    assert job_logs.first_error(log, 7, 3) == "step 5/8" and job_logs.first_error(tmp_path / "none", 0, 3) != ""


def test_a_sweep_says_what_its_jobs_wait_for(tmp_path, shell, monkeypatch):
    """Both jobs need a teacher that a third process makes: their logs are what the artifact store prints for them."""
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.2)
    store, parts = ArtifactStore(tmp_path / "store"), {"teacher": "x"}
    final = tmp_path / "store" / "teachers" / key_of(parts)
    final.parent.mkdir(parents=True)
    made_elsewhere, _ = open_locked(lock_of(final), False, None, True)
    assert made_elsewhere is not None
    os.write(made_elsewhere, b"process 7 on node-12")
    printed: list[str] = []
    store.notify = printed.append
    waiting = threading.Thread(
        target=lambda: store.get(
            "teachers", parts, lambda folder: (folder / "a").write_text("x") and None, "teacher tiny"
        )
    )
    waiting.start()
    while not printed:
        time.sleep(0.02)
    found = made(
        tmp_path / "sweep", *2 * [f"echo '{printed[0]}'; sleep 0.8; echo 'training: step 2/3'; sleep 0.6; {finish()}"]
    )
    status, _, said = run(found, local.Local(2))
    os.close(made_elsewhere)
    waiting.join()
    assert states(status) == ["done", "done"]
    lines = [line for line in said.splitlines() if line.startswith("kdlab: 0 done, 2 running")]
    assert any(
        line.endswith("; 2 of the running wait for teacher tiny: process 7 on node-12 is making it") for line in lines
    ), said
    assert any("; job=0: training: step 2/3; job=1: training: step 2/3" in line for line in lines), said


@pytest.mark.parametrize(
    ("line", "wait"),
    [
        ("teacher tiny: process 7 on b is making it, waiting for that", "teacher tiny: process 7 on b is making it"),
        (
            "kdlab: process 7 on b is at work in outputs/x: waiting for its end",
            "process 7 on b is at work in outputs/x",
        ),
        ("  training: 3/8 steps, about 2 min left", None),
        ("", None),
    ],
)
def test_a_line_of_a_log_is_a_wait_or_not(line, wait):
    assert job_logs.wait_of(line) == wait


def test_a_finished_job_whose_end_fails_is_done(tmp_path, shell):
    status, _, _ = run(made(tmp_path, f"{finish()}; exit 120", "exit 120"))
    assert states(status) == ["done", "failed"]
