"""A forecast that another process makes: it comes through a pipe, and a refusal is one line."""

from __future__ import annotations

import os
import sys

import pytest

from kdlab.errors import UserError
from kdlab.runs.forecast import child
from tests.unit.sweeps.test_plan import JOB


def answering(code: str, monkeypatch) -> None:
    """Let a small program stand in for `python -m kdlab plan`."""
    python, popen = sys.executable, child.subprocess.Popen
    monkeypatch.setattr(child.subprocess, "Popen", lambda command, **options: popen([python, "-c", code], **options))


def test_the_forecast_comes_through_the_pipe(monkeypatch):
    answering(f"import os; os.write(int(os.environ['{child.PIPE}']), b'{{\"memory\": 7}}')", monkeypatch)
    assert child.planned_by_child(["+exp=ksm"]) == {"memory": 7}


@pytest.mark.parametrize(("code", "said"), [("raise SystemExit(2)", "failed, as said above"), ("", "this is a suite")])
def test_a_process_without_a_forecast_is_one_line(code, said, monkeypatch):
    answering(code, monkeypatch)
    with pytest.raises(UserError, match=said):
        child.planned_by_child(["+exp=glue"])


def test_a_forecast_is_handed_over_once_and_only_if_asked_for(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setenv(child.PIPE, str(write))
    child.hand_over(JOB)
    child.hand_over(JOB)  # nobody asks
    with os.fdopen(read) as pipe:
        assert '"steps": 60' in pipe.read()
