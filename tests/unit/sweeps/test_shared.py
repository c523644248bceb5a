"""What the jobs of a sweep share: counted by artifacts, of jobs that differ."""

from __future__ import annotations

import pytest

from kdlab.run import main
from kdlab.runs.forecast.missing import NotPrepared
from kdlab.sweeps import expansion, shared
from kdlab.sweeps.expansion import Expansion
from kdlab.testing.child_process import tiny_task


def sharing(*given: str) -> shared.Sharing:
    return shared.Sharing(expansion.jobs(Expansion(list(given), []), {}), lambda line: None)


@pytest.fixture
def command(tmp_path, monkeypatch, teacher_folder, task_folder):
    monkeypatch.chdir(tmp_path)
    return tiny_task(teacher_folder, task_folder, "no_kd_baseline=true")


def test_jobs_that_differ_in_selection_alone_are_asked_once(command):
    found = sharing(*command, "select=random,entropy,adads", "select.ratio=0.25,0.5", "seed=1,2")
    assert sorted(jobs for jobs, _ in found.stages) == [3, 3, 3, 3] and found.least == 2
    assert sharing(*command, "select=random").least == 1


def test_an_artifact_is_shared_if_two_jobs_need_it(command, monkeypatch):
    """The rows are found first; then teacher and baselines are known, of which each seed has one."""
    needs = {  # by seed: artifacts that its jobs need
        1: ["task/rows", "classifier/one", "baseline/1"],
        2: ["task/rows", "classifier/one", "baseline/2"],
        3: ["task/rows", "classifier/three", "baseline/3"],
    }
    made: set[str] = set()

    def of(stage):
        def get(name):
            if name in found.wanted:
                made.add(name)
            if name not in made:
                raise NotPrepared("", name, "")

        for name in needs[stage.config.seed]:
            yield lambda name=name: get(name)
            if name not in made:
                return

    monkeypatch.setattr(shared, "_needs", of)
    found = sharing(*command, "select=random,entropy", "seed=1,2")
    found.stages += sharing(*command, "select=random", "seed=3,4").stages[:1]
    while missing := found.missing():
        found.wanted |= missing
    assert found.wanted == {"task/rows", "classifier/one", "baseline/1", "baseline/2"} == made


def test_rows_are_found_and_then_made_for_all(command, tmp_path):
    found = sharing(*command, "select=random,entropy")
    teacher, rows = sorted(found.missing())
    assert rows.startswith("task/") and teacher.startswith("classifier/") and not (tmp_path / "artifacts").exists()
    found.wanted.add(rows)
    assert teacher in found.missing()
    store = found.stages[0][1].inputs.store
    assert (store.root / rows / "manifest.json").is_file() and not (store.root / teacher).exists()


def test_prepare_is_alone_on_a_command_line(capsys):
    assert main(["--prepare", "--dry-run", "+exp=adads_finetune"]) == 2
    assert capsys.readouterr().err == "kdlab: --prepare and --dry-run: one of them at a time\n"
