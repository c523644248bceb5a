"""`keep=`: files of a finished run that go, files that stay, a kill in the middle, and commands that need the student."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.runs import keeping, single
from kdlab.runs.finished import finished_result
from kdlab.runs.keeping import CHECKPOINTS, STUDENT
from kdlab.storage import locks
from kdlab.storage.files import readable_size
from tests.support.forks import in_child
from tests.support.made_runs import made_run

CKPT = ["step-00000003.ckpt", "step-00000006.ckpt"]
OWN = {
    CHECKPOINTS: [*CKPT, *(f"{name}.sha256" for name in CKPT), ".step-00000009.ckpt.tmp"],
    STUDENT: ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"],
}


def run_with_files(folder: Path, status: str = "finished") -> Path:
    """A run folder whose checkpoints and student have 100 bytes a file."""
    made_run(folder, 0.7, metrics={"loss": 0.5}, results={"status": status, "devices": {"precision": "32-true"}})
    (folder / "metrics.csv").write_text("step\n0\n")
    for part, names in OWN.items():
        (folder / part).mkdir()
        for name in names:
            (folder / part / name).write_bytes(b"x" * 100)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


REST = ["config.yaml", "metrics.csv", "result.json"]


def test_all_keeps_every_file(tmp_path):
    before = files(run := run_with_files(tmp_path / "run"))
    assert keeping.tidy(run, "all") == [] and files(run) == before


def test_best_removes_checkpoints_and_none_the_student_too(tmp_path):
    run = run_with_files(tmp_path / "run")
    (found,) = keeping.tidy(run, "best")
    assert str(found) == "2 checkpoints, 500 B" and files(run) == sorted(
        [*REST, *(f"student/{n}" for n in OWN[STUDENT])]
    )
    assert finished_result(run)["removed"] == ["checkpoints"]
    (found,) = keeping.tidy(run, "none")
    assert str(found) == "1 student, 500 B" and files(run) == REST and not (run / "student").exists()
    assert finished_result(run)["removed"] == ["checkpoints", "student"] and keeping.tidy(run, "none") == []


@pytest.mark.parametrize("status", ["running", "failed", "preempted"])
def test_an_unfinished_run_loses_nothing(tmp_path, status):
    before = files(run := run_with_files(tmp_path / "run", status))
    assert keeping.tidy(run, "none") == [] and files(run) == before


def test_files_of_others_and_links_stay(tmp_path):
    run, elsewhere = run_with_files(tmp_path / "run"), tmp_path / "elsewhere"
    (run / "student" / "notes.txt").write_text("mine")
    (run / "checkpoints" / "final.pt").write_text("mine")
    elsewhere.mkdir()
    (elsewhere / CKPT[0]).write_text("theirs")
    keeping.tidy(run, "none")
    assert files(run) == ["checkpoints/final.pt", *REST, "student/notes.txt"]
    other = run_with_files(tmp_path / "other")
    for file in (other / "checkpoints").iterdir():
        file.unlink()
    (other / "checkpoints").rmdir()
    (other / "checkpoints").symlink_to(elsewhere)
    keeping.tidy(other, "best")
    assert (elsewhere / CKPT[0]).read_text() == "theirs"


@pytest.mark.parametrize("moment", range(len(OWN[CHECKPOINTS]) + len(OWN[STUDENT])))
def test_a_kill_before_any_deletion_harms_nothing(tmp_path, moment):
    """SIGKILL before the file number `moment` goes: no command takes the rest for a student, and the next call ends it."""
    run = run_with_files(tmp_path / "run")
    child = os.fork()
    if child == 0:
        unlink, gone = Path.unlink, []

        def killing(path, *args, **options):
            if path.parent.name in OWN:
                if len(gone) == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                gone.append(path)
            unlink(path, *args, **options)

        Path.unlink = killing  # pyright: ignore
        keeping.tidy(run, "none")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = [name for name in files(run) if name not in REST]
    assert len(left) == 10 - moment
    result = finished_result(run)  # the run stays finished, with its scores
    assert result["metrics"]["student"]["score"] == 0.7
    whole = all((run / "student" / name).is_file() for name in OWN[STUDENT])
    assert whole or keeping.without_student(run, result)
    (run / keeping.STUDENT / "mine.txt").write_text("mine") if (run / keeping.STUDENT).is_dir() else None
    single.finish_removals(tmp_path / "new" if moment % 2 else run, chosen=not moment % 2)
    assert [name for name in files(run) if name not in (*REST, "student/mine.txt")] == _unlisted(result, run)
    keeping.tidy(run, "none")
    assert [name for name in files(run) if name != "student/mine.txt"] == REST


def _unlisted(result: dict, run: Path) -> list[str]:
    """Files of parts that a result does not list as removed: they stay until their own removal begins."""
    return sorted(f"{part}/{name}" for part in OWN if part not in result["removed"] for name in OWN[part])


def test_a_removed_student_is_named_in_one_line(tmp_path, capsys):
    from kdlab import evaluate, export
    from kdlab.sweeps import suite

    run = run_with_files(tmp_path / "run")
    keeping.tidy(run, "none")
    for command in (lambda: export.main([str(run), str(tmp_path / "out")]), lambda: evaluate.main([str(run)])):
        assert command() == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "its student was removed by keep=none" in err, err
    assert not (tmp_path / "out").exists()
    for given in (run / "student", run):
        with pytest.raises(UserError, match="its student was removed by keep=none"):
            suite._check_student(str(given), None)
        for key in ("student.path", "teachers.path", "+teachers.others.small.path"):
            config = checked(composition(["+exp=adads_finetune", f"{key}={given}"])[0])
            with pytest.raises(UserError, match=f"{key.strip('+')}={given}: its student was removed by keep=none"):
                keeping.check_models(config)


def test_a_runs_folder_given_for_its_student_is_corrected(tmp_path):
    run = run_with_files(tmp_path / "run")
    keeping.check_model("student.path", str(run / "student"))
    with pytest.raises(UserError, match=f"its student is student.path={run}/student"):
        keeping.check_model("student.path", str(run))


def test_a_run_lists_what_goes_with_its_last_write(tmp_path):
    """So that a kill between that and the first deletion leaves nothing to the user."""
    run = run_with_files(tmp_path / "run")
    assert keeping.unkept(run, "all") == [] and keeping.unkept(run, "best") == ["checkpoints"]
    assert keeping.unkept(run, "none") == ["checkpoints", "student"]
    result = {**finished_result(run), "removed": keeping.unkept(run, "none")}
    (run / "result.json").write_text(json.dumps(result))
    lock = locks.lock_folder(run)
    assert lock is not None
    lock.withhold_from_forks()
    assert in_child(lambda: keeping.finish(run)) == 0 and len(files(run)) == 14  # another process is at work in it
    lock.release()
    assert [str(one) for one in keeping.finish(run)] == ["2 checkpoints, 500 B", "1 student, 500 B"]
    assert files(run) == REST and keeping.finish(run) == [] and finished_result(run)["removed"] == result["removed"]


def test_a_run_whose_student_is_gone_otherwise_says_so_too(tmp_path):
    run = made_run(tmp_path / "run", 0.5)
    assert "has no student" in keeping.without_student(run, json.loads((run / "result.json").read_text()))
    assert readable_size(412_000_000) == "412 MB"
