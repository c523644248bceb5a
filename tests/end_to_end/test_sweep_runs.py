"""Sweeps of tiny runs: interrupted, killed, failed and gone on with; several at once; with Optuna."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.forked_jobs import SWEEP, FailAt, ForkedJobs, InterruptSweepAt
from tests.support.runs import KillAt, call, outcome, tiny, tiny_task

AT_ONCE = ("hydra/launcher=parallel", "hydra.launcher.n_jobs=2")


class Talkative(ForkedJobs):
    """The sweep prints a line every fifth of a second, not every minute."""

    def __call__(self) -> None:
        from kdlab.sweeps import display

        display.PLAIN_SECONDS = 0.2
        super().__call__()


def home(folder: Path, name: str = "adads_pretrain") -> Path:
    (found,) = (folder / "outputs" / name).iterdir()
    return found


def test_a_sweep_goes_on_after_a_failure_and_a_killed_job(tmp_path, teacher_folder, text_folder):
    command = ["-m", *tiny(teacher_folder, text_folder, "select=random,entropy", "seed=1,2", "trainer.max_steps=4")]
    command.append("keep=best")
    traps = {"select=entropy,seed=1": FailAt(1), "select=random,seed=2": KillAt(4)}
    done = call(command, tmp_path, ForkedJobs(traps))
    assert done.code == 1, done.output
    assert "students stay until all jobs are finished" in done.output
    assert len(list(home(tmp_path).glob("*/student/model.safetensors"))) == 2  # of the finished ones
    failed = done.output.split("2 jobs failed")[1]
    assert "boom" in failed and "SIGKILL" in failed
    for name in ("entropy-r0.25-s1", "random-r0.25-s2"):
        assert str(home(Path() / tmp_path).relative_to(tmp_path) / f"{name}.log") in failed
    again = call(command, tmp_path, ForkedJobs())
    assert again.code == 0, again.output
    assert again.output.count("finished in") == again.output.count("skipped") == 2
    assert "resuming the unfinished run" in (home(tmp_path) / "random-r0.25-s2.log").read_text()
    results = [json.loads(file.read_text()) for file in home(tmp_path).glob("*/result.json")]
    assert sorted((r["select"]["name"], r["seed"]) for r in results) == [
        (name, seed) for name in ("entropy", "random") for seed in (1, 2)
    ]
    best = min(results, key=lambda result: result["metrics"]["student"]["loss"])
    (student,) = home(tmp_path).glob("*/student")
    assert json.loads((student.parent / "result.json").read_text()) == best
    (kept,) = [line for line in again.output.splitlines() if "kept the student of" in line]
    assert f"seed={best['seed']},select={best['select']['name']} " in kept and "removed 3 students, " in again.output
    assert not list(home(tmp_path).rglob("*.ckpt*")) and sum("student" in r["removed"] for r in results) == 3
    fewer = [one.replace("seed=1,2", "seed=1") for one in command]
    third = call(fewer, tmp_path, ForkedJobs())  # of one seed: in the same folder
    assert third.code == 0 and third.output.count("skipped") == 2 and home(tmp_path).is_dir()


def test_ctrl_c_stops_the_jobs_and_the_same_command_goes_on_to_the_same_bits(tmp_path, teacher_folder, text_folder):
    command = ["-m", *tiny(teacher_folder, text_folder, "seed=1,2")]
    stopped = call(command, tmp_path, ForkedJobs({"seed=1": InterruptSweepAt(5)}))
    assert stopped.code == 130, stopped.output
    assert (
        "2 jobs not finished; the same command resumes the sweep" in stopped.output
        and "Traceback" not in stopped.output
    )
    assert call(command, tmp_path, ForkedJobs()).code == 0
    alone = call([*tiny(teacher_folder, text_folder, "seed=1"), "hydra.run.dir=alone"], tmp_path)
    assert alone.code == 0
    assert outcome(next(home(tmp_path).glob("*-s1"))) == outcome(tmp_path / "alone")


class InPreparation:
    """In the process that prepares what jobs share: `happen` when a teacher is to be fine-tuned."""

    def __init__(self, happen: Callable[[], None]) -> None:
        self.happen = happen

    def __call__(self) -> None:
        from kdlab.stages.teachers.classifiers import TaskTeacherPool

        def finetune(pool, out, member, recipe):
            (out / "half").write_text("made")
            self.happen()

        TaskTeacherPool._finetune = finetune  # pyright: ignore


def fail() -> None:
    raise RuntimeError("boom")


def interrupt_the_sweep() -> None:
    os.kill(int(os.environ[SWEEP]), signal.SIGINT)
    time.sleep(60)


def test_jobs_begin_when_what_they_share_is_made_once(tmp_path, teacher_folder, task_folder):
    """A preparation that fails, one that is interrupted, and one to the end."""
    command = ["-m", *tiny_task(teacher_folder, task_folder, "seed=1,2", "trainer.max_steps=2"), *AT_ONCE]
    making = "making the teacher, fine-tuned on this task, to be kept in"

    failed = call(command, tmp_path, ForkedJobs({"--prepare": InPreparation(fail)}))
    log = home(tmp_path, "adads_finetune") / "preparation.log"
    assert failed.code == 1, failed.output
    said = "what the jobs share could not be prepared, and none was started: RuntimeError: boom\n    log: "
    assert said + str(log.relative_to(tmp_path)) in failed.output and "Traceback" not in failed.output

    stopped = call(command, tmp_path, ForkedJobs({"--prepare": InPreparation(interrupt_the_sweep)}))
    assert stopped.code == 130 and "SIGINT: stopping the preparation" in stopped.output, stopped.output
    assert "2 jobs not finished; the same command resumes the sweep" in stopped.output
    assert not list(tmp_path.rglob("half")) and not list(tmp_path.rglob("*.tmp"))  # nothing half-made
    assert list(log.parent.glob("*.log")) == [log]  # no job has begun

    done = call(command, tmp_path, Talkative())
    assert done.code == 0, done.output
    assert re.search(r"0 done, 0 running, 0 failed, 2 left; preparing what the jobs share: .", done.output), done.output
    assert log.read_text().count(making) == 3
    jobs = [file.read_text() for file in log.parent.glob("*.log") if file != log]
    assert len(jobs) == 2 and not any("to be kept in" in job for job in jobs)
    assert "preparing" not in call(command, tmp_path, ForkedJobs()).output


def test_optuna_searches_ratios_and_goes_on_with_its_study(tmp_path, teacher_folder, text_folder):
    given = [a for a in tiny(teacher_folder, text_folder, "trainer.max_steps=2") if not a.startswith("select.ratio")]
    command = ["-m", *given, "select.ratio=interval(0.1,0.5)", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]
    done = call(command, tmp_path, ForkedJobs({}))
    assert done.code == 0, done.output
    more = call([*command[:-1], "hydra.sweeper.n_trials=3"], tmp_path, ForkedJobs())
    assert more.code == 0 and more.output.count("skipped") == 2, more.output
    ratios = {
        float(file.parent.name.split("-")[1][1:]): json.loads(file.read_text())
        for file in home(tmp_path).glob("*/result.json")
    }
    assert len(ratios) == 3 and all(0.1 <= ratio <= 0.5 for ratio in ratios)
    assert all(result["select"]["ratio"] == ratio for ratio, result in ratios.items())
    import optuna

    (study,) = optuna.get_all_study_summaries(_journal(optuna, home(tmp_path) / "optuna.journal"))
    best = min(ratios, key=lambda ratio: ratios[ratio]["metrics"]["student"]["loss"])
    assert study.best_trial is not None and study.best_trial.params == {"select.ratio": best}
    assert f"select.ratio={best}" in more.output.split("best text")[1]


def _journal(optuna, path: Path):
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
