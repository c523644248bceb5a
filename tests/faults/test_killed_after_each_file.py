"""Commands that write several files, killed before each operation on them: the same command completes all of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdlab.config.schema import Config
from kdlab.data.tasks.registry import find
from kdlab.runs.export import export_student
from kdlab.sweeps import suite
from kdlab.sweeps.suite import SuiteJob, SuitePlan
from kdlab.testing.child_process import tiny
from kdlab.testing.fault_lab import FaultLab
from kdlab.testing.file_kills import KillAtFile, results_killed
from kdlab.testing.kills import KillCase, reference_run
from tests.support.forks import in_child
from tests.support.made_runs import made_run, nine

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def ends(action: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> bool:
    """Run `action` in a forked process; True if it ended by itself, with 0, False if a signal killed it."""
    status = in_child(action, prepare)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, without locks, which block nobody once their owner has ended."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.endswith(".lock")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def killed_everywhere(
    folder: Path,
    action: Callable[[Path], object],
    whole: Callable[[Path], bool],
    before: Callable[[Path], object] = lambda home: home.mkdir(parents=True),
    stride: int = 1,
) -> int:
    """Kill `action(home)` before each of its operations in `home`, made by `before`, and repeat it; the number of kills.

    `stride`: operations from one kill to the next.
    `whole(home)` is True once a reader takes what is there for finished: then it must be all of it.
    """
    home, number = folder / "home", 0
    before(home)
    assert ends(lambda: action(home))
    expected = contents(home)
    while True:
        shutil.rmtree(home)
        before(home)
        ended = ends(lambda: action(home), KillAtFile(number, home))
        if whole(home):
            assert contents(home) == expected
        if ended:
            assert contents(home) == expected
            return -(-number // stride)
        assert ends(lambda: action(home))
        assert contents(home) == expected, f"after a kill before operation {number}"
        number += stride


def test_the_results_of_a_run(teacher_folder, text_folder, tmp_path):
    command = tuple(tiny(teacher_folder, text_folder, "trainer.max_steps=4", "select=entropy"))
    reference = reference_run(KillCase("undisturbed", command), tmp_path / "whole")
    lab = FaultLab(tmp_path / "lab", command, reference.outcome, reference.folder / "artifacts", few=True)
    found = results_killed(lab)
    assert found.injected >= 3 and found.wrong == 0, found.notes


@pytest.fixture
def jobs(monkeypatch) -> Callable[[Path], SuitePlan]:
    """The plan of a suite of two runs, which end at once."""

    def run(title: str, overrides: object, folder: Path) -> bool:
        if not (folder / "result.json").is_file():
            shutil.rmtree(folder.with_name(f".{folder.name}"), ignore_errors=True)
            made_run(folder.with_name(f".{folder.name}"), 0.75, task="rte", metrics={"accuracy": 0.75})
            os.rename(folder.with_name(f".{folder.name}"), folder)
        return True

    monkeypatch.setattr(suite, "run_unless_finished", run)

    def plan(home: Path) -> SuitePlan:
        made = [SuiteJob("student", find("rte"), seed, home / "rte" / f"seed={seed}", ()) for seed in (1, 2)]
        return SuitePlan(made, home, "0123abcd", False)

    return plan


def run_suite(plan: SuitePlan, overwrite: bool = False) -> None:
    config = Config()
    named = {part: dataclasses.replace(getattr(config, part), path="x") for part in ("student", "teachers")}
    config = dataclasses.replace(config, overwrite=overwrite, **named)
    foreign = suite._check_home(plan.home, plan.made_of, overwrite)
    suite._run(config, dataclasses.replace(plan, foreign=foreign), ["+exp=glue"])


def status_of(home: Path) -> str:
    file = home / "glue.json"
    return json.loads(file.read_text())["status"] if file.exists() else ""


def test_the_tables_of_a_suite(jobs, tmp_path):
    kills = killed_everywhere(tmp_path, lambda home: run_suite(jobs(home)), lambda home: status_of(home) == "finished")
    assert kills >= 12


def test_a_suite_that_replaces_another(jobs, tmp_path):
    def former(home: Path) -> None:
        (home / "wnli" / "seed=1").mkdir(parents=True)
        (home / "wnli" / "seed=1" / "result.json").write_text("{}")
        (home / "glue.md").write_text("another")
        (home / "glue.json").write_text('{"made_of": "another", "status": "finished"}')

    def ours(home: Path) -> bool:
        return status_of(home) == "finished" and "another" not in (home / "glue.json").read_text()

    assert killed_everywhere(tmp_path, lambda home: run_suite(jobs(home), overwrite=True), ours, former) >= 15


def test_an_export(teacher_folder, tmp_path):
    run = made_run(tmp_path / "run", 5.0, stage="pretrain")
    shutil.copytree(teacher_folder, run / "student")
    (run / "student" / "README.md").write_text("# a card\n")

    def export(home: Path) -> None:
        if not (home / "out").exists():  # a finished export is kept
            export_student(run, home / "out")

    assert killed_everywhere(tmp_path / "exports", export, lambda home: (home / "out").exists()) >= 6


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_report(stride, tmp_path):
    from kdlab import report

    nine(tmp_path / "runs")

    def write(home: Path) -> None:
        assert report.main([str(tmp_path / "runs"), "--out", str(home / "report.html")]) == 0

    # the page comes last: where it is new, its table is
    assert (
        killed_everywhere(tmp_path / "reports", write, lambda home: (home / "report.html").exists(), stride=stride) >= 4
    )


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.nightly)])
def test_an_analysis_and_the_tables_of_a_comparison(stride, tmp_path):
    from kdlab import analyse, compare

    for seed in (1, 2):
        made_run(tmp_path / "runs" / str(seed), 0.5 + seed / 10, seed)

    def analysis(home: Path) -> None:
        assert analyse.main(["against", str(tmp_path / "runs"), "--key", "seed", "--out", str(home / "figures")]) == 0

    def comparison(home: Path) -> None:
        assert (
            compare.main([str(tmp_path / "runs"), "--csv", str(home / "a.csv"), "--runs-csv", str(home / "b.csv")]) == 0
        )

    assert (
        killed_everywhere(
            tmp_path / "a", analysis, lambda home: (home / "figures" / "against_seed.png").exists(), stride=stride
        )
        >= 2
    )
    assert killed_everywhere(tmp_path / "b", comparison, lambda home: (home / "b.csv").exists(), stride=stride) >= 2
