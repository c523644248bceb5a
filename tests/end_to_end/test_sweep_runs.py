"""Sweeps of tiny runs: interrupted, killed, failed and gone on with; several at once; with Optuna."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.forked_jobs import FailAt, ForkedJobs, InterruptSweepAt
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


def test_two_jobs_at_once_that_need_one_teacher_make_it_once(tmp_path, teacher_folder, task_folder):
    command = ["-m", *tiny_task(teacher_folder, task_folder, "seed=1,2", "trainer.max_steps=2"), *AT_ONCE]
    done = call(command, tmp_path, Talkative())
    assert done.code == 0, done.output
    logs = [file.read_text() for file in sorted(home(tmp_path, "adads_finetune").glob("*.log"))]
    making = "making the teacher, fine-tuned on this task, to be kept in"
    makers = [log.count(making) for log in logs]
    assert sorted(makers) == [0, 1], logs
    waited = r"the teacher, fine-tuned on this task: process \d+ on \S+ is making it, waiting for that"
    assert re.search(waited, logs[makers.index(0)])
    said = r"0 done, 2 running, 0 failed, 0 left; 1 of the running waits for the teacher, fine-tuned on this task: process \d+ on \S+ is making it"
    assert re.search(said, done.output), done.output


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
