"""The bridge to lm-evaluation-harness: what it is called with, and what is wrong in one line; the package is stood in for."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kdlab.errors import UserError
from kdlab.runs.decoding import scoring


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    harness, tasks, utils = (ModuleType(name) for name in ("lm_eval", "lm_eval.tasks", "lm_eval.utils"))

    class TaskManager:
        def match_tasks(self, names: list[str]) -> list[str]:
            return [name for name in names if name in ("hellaswag", "piqa")]

    vars(tasks)["TaskManager"] = TaskManager
    vars(utils)["make_table"] = lambda results: f"table of {results}"
    vars(harness)["simple_evaluate"] = lambda **given: found.append(given) or "scores"
    for module in (harness, tasks, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(scoring, "find_spec", lambda name: object())
    config = SimpleNamespace(trainer=SimpleNamespace(accelerator="cpu"))
    monkeypatch.setattr(scoring, "_checked", lambda run, option: config)
    return found


def test_the_students_folder_and_the_tasks_are_handed_over(calls, tmp_path, capsys):
    assert scoring.in_harness(tmp_path, "hellaswag, piqa") == 0
    (given,) = calls
    assert given["model"] == "hf" and given["tasks"] == ["hellaswag", "piqa"] and given["device"] == "cpu"
    assert given["model_args"] == {"pretrained": str(tmp_path / "student"), "dtype": "float32"}
    assert capsys.readouterr().out == "table of scores\n"


@pytest.mark.parametrize(("tasks", "named"), [("hellaswag,pica", " pica"), (" , ", "")])
def test_unknown_tasks_are_one_line(calls, tmp_path, tasks, named):
    with pytest.raises(UserError, match=f"no such task{named}; lm-eval ls tasks"):
        scoring.in_harness(tmp_path, tasks)
    assert calls == []


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-evaluation-harness is installed")
def test_a_missing_package_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_checked", lambda run, option: None)
    with pytest.raises(UserError, match=r"pip install 'kdlab\[lm-eval\]'"):
        scoring.in_harness(tmp_path, "piqa")
