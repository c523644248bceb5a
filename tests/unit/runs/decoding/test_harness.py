"""The bridge to lm-evaluation-harness: what it is called with, and what is wrong in one line; the package is stood in for."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kdlab.errors import UserError
from kdlab.runs.decoding import scoring
from tests.conftest import WORDS
from tests.support.causal import characters, decoder, write_rows


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    harness, tasks, utils = (ModuleType(name) for name in ("lm_eval", "lm_eval.tasks", "lm_eval.utils"))

    class TaskManager:
        def __init__(self, include_path: list[str] | None = None) -> None:
            self.own = [
                line.split()[1]
                for f in include_path or []
                for line in (Path(f) / "own.yaml").read_text().splitlines()[:1]
            ]

        def match_tasks(self, names: list[str]) -> list[str]:
            return [name for name in names if name in ("hellaswag", "piqa", *self.own)]

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


def test_a_task_of_your_own_is_a_file(calls, tmp_path):
    (tmp_path / "own.yaml").write_text("task: mine  # of this test\n")
    assert scoring.in_harness(tmp_path, f"piqa,{tmp_path / 'own.yaml'}") == 0
    assert calls[0]["tasks"] == ["piqa", "mine"]
    (tmp_path / "own.yaml").write_text("tasks: mine\n")
    with pytest.raises(UserError, match="no line `task: NAME`"):
        scoring.in_harness(tmp_path, str(tmp_path / "own.yaml"))
    with pytest.raises(UserError, match="--lm-eval none.yaml: no such file"):
        scoring.in_harness(tmp_path, "none.yaml")


def test_the_harness_itself_finds_what_questions_finds(tmp_path, monkeypatch, capsys):
    """Accuracy, by the sum and per character, of lm-evaluation-harness where it is installed, on a tiny decoder."""
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(
        scoring, "_checked", lambda run, option: SimpleNamespace(trainer=SimpleNamespace(accelerator="cpu"))
    )
    decoder(2).save_pretrained(tmp_path / "student")
    characters().save_pretrained(tmp_path / "student")
    rows = [
        {"question": f"{word} is", "choices": WORDS[i : i + 3 + i % 2], "answer": i % 3}
        for i, word in enumerate(WORDS[:12])
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: '{tmp_path / 'rows.jsonl'}'}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    assert scoring.in_harness(tmp_path, str(tmp_path / "own.yaml")) == 0
    theirs = re.findall(r"\|(?:acc|acc_norm)\s*\|[^|]*\|\s*([0-9.]+)", capsys.readouterr().out)
    assert scoring.answer_questions(tmp_path, tmp_path / "rows.jsonl") == 0
    ours = re.search(r"accuracy ([0-9.]+), per character ([0-9.]+)", capsys.readouterr().out)
    assert ours is not None and theirs == list(ours.groups())


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
