"""Results of faults: no wrong outcome is lost."""

from __future__ import annotations

import pytest

from kdlab import faults
from kdlab.testing import kills
from kdlab.testing.child_process import ChildResult
from kdlab.testing.fault_points import Moment
from kdlab.testing.kills import KillCase, ReferenceRun, kill_chain


@pytest.mark.parametrize(("code", "note"), [(1, "exit code 1: no such thing"), (0, "status differ")])
def test_a_run_that_goes_wrong_without_being_killed_counts(tmp_path, monkeypatch, code, note):
    monkeypatch.setattr(kills, "call", lambda *_, **__: ChildResult(code, "no such thing"))
    monkeypatch.setattr(kills, "outcome", lambda folder: {"status": "failed"})
    whole = ReferenceRun(tmp_path, [], {"status": "finished"})
    found = kill_chain(KillCase("it", (), prepared=False), whole, [Moment("training", 1, "start")], tmp_path / "killed")
    assert (found.injected, found.wrong) == (0, 1) and note in found.notes[0]


def test_a_word_that_no_fault_has_is_told(tmp_path, capsys):
    assert faults.main(["--only", "flood", "--folder", str(tmp_path)]) == 2
    assert "no fault has flood in its name" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
