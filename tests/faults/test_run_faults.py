"""A sample of what `python -m kdlab.faults` causes; all of it runs every night."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdlab.testing import disk_faults, signals_and_nans
from kdlab.testing.child_process import tiny_task
from kdlab.testing.fault_lab import FaultLab, FaultResult
from kdlab.testing.fault_suite import KSM, RANKS, TWO_EPOCHS, override
from kdlab.testing.kills import KillCase, ReferenceRun, kill_chain, points, reference_run
from kdlab.testing.tiny import write_task


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_task(tmp_path_factory.mktemp("rows"), 80)


@pytest.fixture(scope="module")
def case(teacher_folder, rows) -> KillCase:
    return KillCase("adads_finetune", tuple(tiny_task(teacher_folder, rows, *TWO_EPOCHS)), points=5)


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory) -> ReferenceRun:
    return reference_run(case, tmp_path_factory.mktemp("whole") / "whole")


def lab_of(case: KillCase, whole: ReferenceRun, folder: Path) -> FaultLab:
    return FaultLab(folder, case.command, whole.outcome, whole.folder / "artifacts", case.ranks, few=True)


def assert_borne(found: FaultResult, injected: int) -> None:
    assert (found.injected, found.wrong) == (injected, 0), "\n".join(found.notes)


def test_a_run_killed_in_moments_of_all_kinds_ends_as_undisturbed(case, whole, tmp_path):
    chosen = points(case, whole.moments)
    assert {moment.when.split()[0] for moment in points(KillCase("", (), points=99), whole.moments)} >= {
        "start", "gradient", "end", "observation", "evaluation", "save",
    }  # fmt: skip
    found = kill_chain(case, whole, chosen, tmp_path / "killed")
    assert found.injected >= 4 and found.wrong == 0, found.notes  # a step whose checkpoint is written is not done again


@pytest.mark.parametrize(
    "fault", [signals_and_nans.signals_preparing, signals_and_nans.nonfinite_skipped, disk_faults.damaged]
)
def test_faults_on_one_process(fault: Callable[[FaultLab], FaultResult], case, whole, tmp_path):
    assert_borne(fault(lab_of(case, whole, tmp_path)), 1)


def test_a_disk_that_fills_while_a_teacher_is_saved_is_one_line(case, whole, tmp_path):
    lab = FaultLab(whole.folder.parent, case.command, whole.outcome, whole.folder / "artifacts", few=True)
    found = disk_faults.full_disks(lab, 2)
    if not found.injected:
        pytest.skip(found.notes[0])
    assert_borne(found, 2)


def test_a_forbidden_folder_is_one_line(case, whole, tmp_path):
    found = disk_faults.read_only(lab_of(case, whole, tmp_path))
    assert found.injected >= 1 and found.wrong == 0, found.notes


@pytest.mark.nightly
@pytest.mark.parametrize("fault", [signals_and_nans.signals, signals_and_nans.nonfinite])
def test_faults_of_one_of_two_ranks(fault: Callable[[FaultLab], FaultResult], case, tmp_path):
    both = KillCase("two", override(case.command, *RANKS), ranks=2)
    assert_borne(fault(lab_of(both, reference_run(both, tmp_path / "whole"), tmp_path)), 1)


def test_a_run_killed_in_the_phases_of_a_module_makes_the_same_module(teacher_folder, rows, tmp_path):
    command = tuple(tiny_task(teacher_folder, rows, "+exp=ksm", *TWO_EPOCHS, *KSM))
    case = KillCase("ksm", command, prepared=False, points=99)
    whole = reference_run(case, tmp_path / "whole")
    phases = [moment for moment in points(case, whole.moments) if moment.when == "phase"]
    assert_borne(kill_chain(case, whole, phases[1:2], tmp_path / "killed"), 1)
