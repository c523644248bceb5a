"""Checkpoints by the clock: whenever they come, on one process and on two ranks, the run ends with the same bits."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from kdlab.testing.child_process import call, outcome, tiny
from kdlab.testing.fault_points import FaultAt, SendSignal
from kdlab.testing.fault_suite import RANKS, override

AUTO = "trainer.checkpoint_every=auto"
RUN = "hydra.run.dir=run"


@dataclass
class Hasty:
    """A checkpoint is due at these calls of the clock (all ranks but the first have it due at all); perhaps a kill."""

    calls: tuple[int, ...]
    kill_at: int | None = None

    def __call__(self) -> None:
        from kdlab.callbacks.checkpoint_schedule import CheckpointSchedule

        asked = []

        def due(self: CheckpointSchedule) -> bool:
            asked.append(self.written)
            return len(asked) in calls

        calls = self.calls
        CheckpointSchedule.due = due  # pyright: ignore[reportAttributeAccessIssue]
        if self.kill_at is not None:
            FaultAt(self.kill_at, SendSignal(signal.SIGKILL))()


def kept(folder: Path) -> list[str]:
    return sorted(file.stem for file in (folder / "run" / "checkpoints").glob("*.ckpt"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, teacher_folder, text_folder) -> Path:
    """A run with a checkpoint every third step."""
    folder = tmp_path_factory.mktemp("whole")
    done = call([*tiny(teacher_folder, text_folder), RUN], folder)
    assert done.code == 0 and kept(folder) == ["step-00000003", "step-00000006"], done.output
    assert "\ncheckpoints: 2 written in " in done.output
    return folder


def test_a_short_run_writes_none_by_default_and_is_the_same(whole, tmp_path, teacher_folder, text_folder):
    done = call([*tiny(teacher_folder, text_folder, AUTO), RUN], tmp_path)
    assert done.code == 0 and kept(tmp_path) == [], done.output
    assert outcome(tmp_path / "run") == outcome(whole / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["checkpoints"] == {"written": 0, "seconds": 0.0, "share": 0.0}
    result = json.loads((whole / "run" / "result.json").read_text())["checkpoints"]
    assert result["written"] == 2 and result["seconds"] > 0 and 0 < result["share"] < 1


def test_killed_between_checkpoints_of_the_clock_it_ends_the_same(whole, tmp_path, teacher_folder, text_folder):
    command = [*tiny(teacher_folder, text_folder, AUTO), RUN]
    killed = call(command, tmp_path, Hasty((2, 3), kill_at=5))
    assert killed.code == -9 and kept(tmp_path) == ["step-00000002", "step-00000003"], killed.output
    done = call(command, tmp_path, Hasty((1, 2, 3, 4)))
    assert done.code == 0 and kept(tmp_path) == ["step-00000006", "step-00000007"], done.output
    assert outcome(tmp_path / "run") == outcome(whole / "run")
    # the one that was gone on from is not counted: its own ledger does not know of it
    assert json.loads((tmp_path / "run" / "result.json").read_text())["checkpoints"]["written"] == 1 + 4


def test_two_ranks_save_together_when_the_first_says_so(tmp_path, teacher_folder, text_folder):
    given = override(tiny(teacher_folder, text_folder), *RANKS)
    undisturbed = call([*given, RUN], tmp_path / "whole", ranks=2, trapped=0)
    assert undisturbed.code == 0, undisturbed.output
    command = [*override(given, AUTO), RUN]
    # due after step 1 until it is written: all know after step 3; and again after step 4, so after step 6
    killed = call(command, tmp_path / "auto", Hasty((1, 2, 3, 4, 5, 6), kill_at=7), ranks=2, trapped=0)
    assert killed.code == -9 and kept(tmp_path / "auto") == ["step-00000003", "step-00000006"], killed.output
    done = call(command, tmp_path / "auto", Hasty(()), ranks=2, trapped=0)
    assert done.code == 0, done.output
    assert outcome(tmp_path / "auto" / "run") == outcome(tmp_path / "whole" / "run")
    # what the second rank's clock says is not asked
    other = call(command, tmp_path / "other", Hasty((1, 2, 3, 4, 5, 6)), ranks=2, trapped=1)
    assert other.code == 0 and kept(tmp_path / "other") == [], other.output
