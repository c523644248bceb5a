"""`benchmarks.regress`: what counts as slower, what is measured, and that both commits run their own code."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from benchmarks import regress
from benchmarks.steps import Sizes
from kdlab.errors import UserError

FAKE = """
import json, pathlib, sys, time
assert "select=all" in sys.argv
place = next(a.partition("=")[2] for a in sys.argv if a.startswith("hydra.run.dir="))
pathlib.Path(place).mkdir()
seconds = {"total": SECONDS, "evaluation": 1.0, "loop": 0.5}
pathlib.Path(place, "result.json").write_text(json.dumps({"steps": 10, "ledger": {"seconds": seconds}}))
"""
COMMAND = regress.Command("all rows", ("select=all",), {"ratio 1": "ms a step", "the loop": "loop, ms a step"})


def tree(folder: Path, seconds: float) -> Path:
    """A checkout whose `kdlab.run` says that it took so many seconds."""
    (folder / "kdlab").mkdir(parents=True)
    (folder / "kdlab" / "__init__.py").touch()
    (folder / "kdlab" / "run.py").write_text(FAKE.replace("SECONDS", str(seconds)))
    return folder


def test_slower_is_by_more_than_a_tenth_and_in_every_turn():
    assert regress.is_slower([1.0, 1.0, 1.0], [1.2, 1.3, 1.01])
    assert not regress.is_slower([1.0, 1.0, 1.0], [1.2, 1.3, 0.99])  # one turn was not
    assert not regress.is_slower([1.0, 1.0, 1.0], [1.05, 1.09, 1.5])  # the median is within a tenth
    assert not regress.is_slower([1.0, 1.0], [0.5, 0.6])


def test_a_line_has_medians_quotient_and_range():
    found = {"a": {"old": [2.0, 4.0, 3.0], "new": [3.0, 4.4, 4.5]}, "b": {"old": [2.0, 2.0], "new": [1.0, 1.0]}}
    assert regress.lines(found, "old", "new") == [
        ["a", "3", "4.4", "1.50", "1.10 to 1.50", "slower"],
        ["b", "2", "1", "0.50", "0.50 to 0.50", ""],
    ]


def test_each_tree_runs_its_own_code_in_turns(tmp_path, monkeypatch):
    trees = {"before": tree(tmp_path / "a", 2.0), "now": tree(tmp_path / "b", 3.0)}
    monkeypatch.setattr(regress, "commands", lambda folder, steps: [COMMAND])
    (found,) = regress.compare(trees, tmp_path, turns=2, steps=10)
    assert found["ratio 1"] == {"before": [100.0, 100.0], "now": [200.0, 200.0]}  # (seconds - evaluation) / 10 steps
    assert found["the loop"]["now"] == [50.0, 50.0]


def test_a_command_that_fails_is_one_line(tmp_path):
    with pytest.raises(UserError, match="^all rows: code 1 with the code in .*: AssertionError$"):
        regress.measure(tree(tmp_path / "a", 1.0), regress.Command("all rows", (), {}), tmp_path)


def test_ten_numbers_of_ten_names():
    names = [name for command in regress.commands(Path("x"), 5) for name in command.numbers]
    assert len(names) == len(set(names)) == 10


def test_only_names_the_commands_that_run(tmp_path, monkeypatch):
    made = [COMMAND, dataclasses.replace(COMMAND, name="random rows")]
    monkeypatch.setattr(regress, "commands", lambda folder, steps: made)
    trees = {"before": tree(tmp_path / "a", 2.0), "now": tree(tmp_path / "b", 3.0)}
    assert len(list(regress.compare(trees, tmp_path, turns=1, steps=10))) == 2
    assert len(list(regress.compare(trees, tmp_path, turns=1, steps=10, only="random"))) == 1


def test_commands_that_only_prepare_run_twice(tmp_path, monkeypatch):
    """They are those of a sweep, which refuses what it has done already."""
    monkeypatch.setattr(regress, "SIZES", Sizes(student=3, teacher=6, hidden=32, vocab=200))
    regress.write_inputs(tmp_path, files=20)
    (prepares, _) = (command for command in regress.commands(tmp_path, 1) if command.prepares)
    root = Path(regress.__file__).resolve().parent.parent
    for _ in range(2):
        assert regress.measure(root, prepares, tmp_path).wall > 0


def test_an_unknown_commit_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        regress.main(["no-such-commit"])
    assert ended.value.code == 2 and "no-such-commit is no commit of" in capsys.readouterr().err


def test_a_commit_is_checked_out_and_removed_again(tmp_path):
    root = Path(regress.__file__).resolve().parent.parent
    if subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("not a git checkout")
    with regress.checked_out("HEAD", tmp_path) as place:
        assert (place / "pyproject.toml").is_file()
    assert not place.exists()
