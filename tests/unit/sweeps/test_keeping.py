"""`keep=` at the end of a sweep: the best student of each group of comparable jobs stays, once every job is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdlab.config.schema import Config
from kdlab.storage import locks
from kdlab.sweeps import keeping
from kdlab.sweeps.expansion import SweepJob
from kdlab.sweeps.job_status import SweepStatus
from tests.unit.runs.test_keeping import run_with_files


def swept(home: Path, *scores: float | None, keep: str = "best", paths: tuple[str, ...] = ()) -> SweepStatus:
    """Finished jobs with these scores; None: without one. `paths`: their data.path."""
    import json

    status = SweepStatus()
    for number, score in enumerate(scores):
        folder = run_with_files(home / f"job-{number}")
        result = json.loads((folder / "result.json").read_text())
        result["metrics"]["student"] = {"score": score} if score is not None else {}
        (folder / "result.json").write_text(json.dumps(result))
        config = Config(keep=keep)
        path = paths[number] if paths else "rows"
        config = replace(config, data=replace(config.data, stage="finetune", path=path, batch_size=8 + number))
        status.add([SweepJob(number, f"seed={number}", folder, (), config)])
        status.finish(number)
    return status


def students(home: Path) -> list[str]:
    return sorted(folder.parent.name for folder in home.glob("*/student"))


def test_the_best_student_stays(tmp_path):
    lines = keeping.tidy(swept(tmp_path, 0.6, 0.8, 0.7))
    assert students(tmp_path) == ["job-1"] and not list(tmp_path.rglob("*.ckpt"))
    assert lines == ["removed 6 checkpoints, 1.5 KB and 2 students, 1 KB", "kept the student of seed=1 (score 80.0 %)"]


def test_of_equal_scores_the_first_stays_and_each_data_set_has_its_best(tmp_path):
    keeping.tidy(swept(tmp_path, 0.8, 0.8, 0.2, 0.3, paths=("a", "a", "b", "b")))
    assert students(tmp_path) == ["job-0", "job-3"]


def test_a_job_without_a_score_keeps_its_student(tmp_path):
    keeping.tidy(swept(tmp_path, 0.6, None, 0.7))
    assert students(tmp_path) == ["job-1", "job-2"]


def test_none_keeps_no_student_and_all_every_one(tmp_path):
    assert keeping.tidy(swept(tmp_path / "all", 0.6, 0.8, keep="all")) == []
    assert len(students(tmp_path / "all")) == 2
    keeping.tidy(swept(tmp_path / "none", 0.6, 0.8, keep="none"))
    assert students(tmp_path / "none") == []


def test_nothing_goes_before_every_job_is_done(tmp_path):
    status = swept(tmp_path, 0.6, 0.8, 0.7)
    for state in ("failed", "left", "stopped", "elsewhere"):
        status.jobs[2].state = state
        (line,) = keeping.tidy(status)
        assert "students stay until all jobs are finished" in line
        assert len(students(tmp_path)) == 3 and len(list(tmp_path.rglob("*.ckpt"))) == 6


def test_a_job_that_another_process_has_locked_is_left_alone(tmp_path, monkeypatch):
    status = swept(tmp_path, 0.6, 0.8)
    lock_folder = locks.lock_folder
    monkeypatch.setattr(locks, "lock_folder", lambda folder: None if folder.name == "job-0" else lock_folder(folder))
    keeping.tidy(status)
    assert students(tmp_path) == ["job-0", "job-1"] and not list((tmp_path / "job-1").rglob("*.ckpt"))
