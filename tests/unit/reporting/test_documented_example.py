"""The example of docs/compare.md is what `kdlab.compare` prints of the measured runs in experiments/adads_strategies."""

from __future__ import annotations

import csv
import json
import re

import pytest

from kdlab import compare
from tests.support.documents import ROOT
from tests.support.made_runs import made_run

PAGE = ROOT / "docs" / "compare.md"
# 350 steps of 32 rows, as docs/compare.md says of the teacher
TEACHER = {"part": "teacher", "what": "teacher, 6 layers, fine-tuned", "queries": 0, "flops": 9.63e12, "seconds": 200.0}


def rows() -> list[dict[str, str]]:
    with open(ROOT / "experiments" / "adads_strategies" / "results.csv", encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["task"] == "sst2"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The 15 runs of SST-2 below the current folder, with their measured scores and costs."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "adads_finetune"
    for row in rows():
        with_teacher = row["knowledge"] != "labels"
        results = {
            "ledger": {
                "teacher_queries": {"total": int(row["teacher_queries"])},
                "flops": {"total": int(row["flops"])},
                "seconds": {"training": float(row["seconds"])},
            },
            "preparation": [TEACHER] if with_teacher else [],
            "data": {"task": "sst2", "path": "/rows", "source": "TaskFolder", "shape": {"metrics": ["accuracy"]}},
        }
        made_run(
            folder / f"{1 + (not with_teacher)}-{row['select']}-{row['seed']}", float(row["score"]), int(row["seed"]),
            row["select"], float(row["ratio"]), knowledge=row["knowledge"], queries=int(row["teacher_queries"]), results=results,
        )  # fmt: skip
    return folder


def test_the_example_of_compare_is_what_it_prints(runs, capsys):
    (block,) = re.findall(r"```\n(\$ python -m kdlab\.compare .*?)\n```", PAGE.read_text(encoding="utf-8"), re.S)
    command, _, shown = block.partition("\n")
    assert compare.main(command.split()[4:]) == 0
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())
    assert shown == printed, f"docs/compare.md has another example; kdlab.compare prints\n{printed}\n<end>"


def test_the_runs_of_the_example_are_the_measured_ones(runs):
    found = [json.loads(file.read_text()) for file in sorted(runs.glob("*/result.json"))]
    assert len(found) == 15 and {run["seed"] for run in found} == {1, 2, 3}
    (random,) = [run for run in found if (run["select"]["name"], run["seed"]) == ("random", 3)]
    assert (
        round(100 * random["metrics"]["student"]["score"], 2) == 76.72
    )  # the best of its group, in the README of the sweep
