"""Code of the user's own on the command line: `kdlab new`, sweeps that are killed and resumed, changed files, ranks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from kdlab.templates import new
from tests.support.forked_jobs import ForkedJobs, InterruptSweepAt
from tests.support.runs import call, in_fork, tiny_task

CODE = ["--code", "mine.py", "--config-dir", "."]


def recorded(run: Path) -> list[dict[str, str]]:
    return json.loads((run / "result.json").read_text())["code"]


def test_a_sweep_with_a_strategy_of_a_file_is_interrupted_and_resumed_with_the_same_file_alone(
    tmp_path, teacher_folder, task_folder
):
    new.written("strategy", "mine", tmp_path)
    code = tmp_path / "mine.py"
    text = code.read_text()
    digest, other = (hashlib.sha256(one.encode()).hexdigest() for one in (text, text + "\n"))
    options = ["select=mine", "trainer.max_steps=6", "trainer.checkpoint_every=2", *CODE]
    command = ["-m", *tiny_task(teacher_folder, task_folder, "seed=1,2"), *options]
    stopped = call(command, tmp_path, ForkedJobs({"seed=2": InterruptSweepAt(4)}))
    assert stopped.code == 130, stopped.output
    home = next((tmp_path / "outputs" / "adads_finetune").iterdir())
    runs = sorted(one for one in home.iterdir() if one.is_dir())
    assert [recorded(run)[0]["sha256"] for run in runs] == [digest, digest]

    code.write_text(text + "\n")
    changed = call(command, tmp_path, ForkedJobs())
    assert changed.code == 2
    assert f"used {code} as it was with sha256 {digest[:12]}, and its sha256 is {other[:12]} now" in changed.output
    assert "put that file back, or choose another hydra.sweep.dir= (in the job seed=1)" in changed.output

    code.write_text(text)
    resumed = call(command, tmp_path, ForkedJobs())
    assert resumed.code == 0, resumed.output
    assert "2 jobs, 2 finished (1 of them before)" in resumed.output
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert result["status"] == "finished" and result["select"]["name"] == "mine"
        assert result["code"] == [{"module": "mine", "file": str(code), "sha256": digest, "version": None}]
        assert result["command"][3:5] == ["--code", str(code)]

    without = call(["--repeat", str(runs[1])], tmp_path)
    assert without.code == 2 and f"add --code {code}" in without.output
    same = call(["--repeat", str(runs[1]), "--code", "mine.py"], tmp_path)
    assert same.code == 0 and "the same bits as" in same.output
    code.write_text(text + "\n")
    again = call(["--repeat", str(runs[1]), "--code", "mine.py"], tmp_path)
    assert again.code == 2 and digest[:12] in again.output and other[:12] in again.output


@pytest.mark.parametrize("kind", new.KINDS)
def test_what_new_writes_is_run_as_it_says(kind, tmp_path, teacher_folder, task_folder):
    group, experiment = new.KINDS[kind]
    wrote, _, run = new.written(kind, "mine", tmp_path).splitlines()
    assert wrote.count("mine") == 3 and f"+exp={experiment} {group}=mine --code" in run
    more = [f"{group}=mine"] + ["adopt.arms.mine.at=0.3", "+teachers.others.small.layers=1"] * (kind == "adoption")
    done = call([*tiny_task(teacher_folder, task_folder, *more), *CODE, "--dry-run"], tmp_path)
    assert done.code == 0 and "the command is valid" in done.output, done.output


def test_the_tests_that_new_writes_pass_as_written(tmp_path):
    for kind in new.KINDS:
        new.written(kind, f"my_{kind}", tmp_path)
    done = in_fork("pytest", ["-q", "-p", "no:cacheprovider", str(tmp_path)], tmp_path)
    assert done.code == 0 and "10 passed" in done.output, done.output


def test_code_that_fails_in_training_ends_the_run_with_its_file_and_line(tmp_path, teacher_folder, task_folder):
    (tmp_path / "mine.py").write_text(
        "from kdlab.methods.marks import needs\n\n@needs('logits')\ndef late(student, teacher):\n"
        "    assert len(student.logits) < 4, 'too many'\n    return (student.logits - teacher.logits).abs().sum(-1)\n"
    )
    term = "{label: null, own: {weight: 1.0, at: all, term: {_target_: mine.late, _partial_: true}}}"
    options = ["knowledge=response", f"+knowledge.terms.own={term.partition('own: ')[2][:-1]}", "select.ratio=0.5"]
    done = call([*tiny_task(teacher_folder, task_folder, *options), "--code", "mine.py"], tmp_path)
    assert done.code == 2
    line = "knowledge.terms.own.term: mine.py:5 in late: AssertionError: too many"
    assert f"kdlab: {line}\n" in done.output
    run = next((tmp_path / "outputs" / "adads_finetune").iterdir())
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["error"], result["code"][0]["module"]) == ("failed", line, "mine")
