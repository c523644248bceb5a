"""AdaDS Fig. 4: suites with the scores of Table 4 have its means, against the ratios of the runs that pre-trained them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from kdlab.data.tasks.registry import TASKS
from kdlab.errors import UserError
from kdlab.reporting import glue_scoreboard
from kdlab.reporting.analyses.glue_by_ratio import glue
from tests.support.made_runs import made_run

# AdaDS Table 4: MNLI-m, MNLI-mm, QQP, QNLI, SST-2, CoLA, STS-B, MRPC, RTE, and their printed mean
RANDOM = (81.90, 82.36, 88.30, 88.64, 91.19, 48.13, 85.22, 85.79, 57.76), 78.81
CLUSTER = (81.81, 82.30, 88.43, 88.64, 91.24, 49.13, 85.48, 85.41, 57.47), 78.88
ALL = (82.09, 82.34, 88.42, 88.51, 90.73, 50.34, 86.42, 86.10, 59.13), 79.34
NAMES = ("mnli", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte", "wnli")


def made_suite(home: Path, student: Path, scores: tuple[float, ...], tasks: tuple[str, ...] = NAMES) -> Path:
    """A suite as `kdlab.sweeps.suite` writes it: every metric of a task is its score; WNLI at chance."""
    m, mm, *others = (score / 100 for score in scores)
    of = {"mnli": m, **dict(zip(NAMES[1:-1], others, strict=True)), "wnli": 0.56}
    runs = {
        (task, 1): dict.fromkeys(TASKS[task].shape.metrics, of[task])
        | ({"accuracy_mismatched": mm} if task == "mnli" else {})
        for task in tasks
    }
    board = glue_scoreboard.board({"student, 1 seed": runs}, [TASKS[task] for task in tasks])
    home.mkdir(parents=True)
    content = {"status": "finished", "made_of": home.name, "student": str(student), "teacher": "bert", **asdict(board)}
    (home / "glue.json").write_text(json.dumps(content))
    return home


def pretrained(home: Path, select: str, ratio: float, seed: int = 1) -> Path:
    return (
        made_run(home / f"{select}{ratio}{seed}", 2.5, seed, select, ratio, stage="pretrain", knowledge="distilbert")
        / "student"
    )


def test_suites_of_table_4_have_its_means_and_stand_at_the_ratio_of_their_pre_training(tmp_path):
    students = tmp_path / "runs"
    made_suite(tmp_path / "glue" / "a", pretrained(students, "random", 0.1), RANDOM[0])
    made_suite(tmp_path / "glue" / "b", pretrained(students, "cluster", 0.1), CLUSTER[0])
    made_suite(tmp_path / "glue" / "c", pretrained(students, "random", 0.2), CLUSTER[0])
    made_suite(tmp_path / "glue" / "d", pretrained(students, "all", 1.0), ALL[0])
    found = glue([tmp_path / "glue"], pytest.fail)
    rows = {(row["select"], row["ratio"]): row for row in found.rows}
    assert rows.keys() == {("random", 0.1), ("cluster", 0.1), ("random", 0.2), ("all", 1.0)}
    assert rows["random", 0.1]["mean"] == pytest.approx(RANDOM[1] / 100, abs=5.1e-5)
    assert rows["cluster", 0.1]["mean"] == pytest.approx(CLUSTER[1] / 100, abs=5.1e-5)
    assert [rows[key]["published"] for key in rows] == [
        79.34 if key[0] == "all" else {("random", 0.1): 78.81, ("cluster", 0.1): 78.88}.get(key) for key in rows
    ]
    assert not any(row["loss"] for row in found.rows) and {row["queries"] for row in found.rows} == {1200}
    (axes,) = found.figure.axes
    assert any(abs(line.get_ydata()[0] - ALL[1]) < 0.01 for line in axes.lines)  # full data is a level


def test_students_of_several_seeds_are_one_point_with_its_spread(tmp_path):
    for seed, (scores, _) in ((1, RANDOM), (2, CLUSTER)):
        made_suite(tmp_path / "glue" / str(seed), pretrained(tmp_path / "runs", "random", 0.1, seed), scores)
    (row,) = glue([tmp_path], pytest.fail).rows
    assert (row["seeds"], row["mean"]) == (2, pytest.approx((RANDOM[1] + CLUSTER[1]) / 200, abs=5.1e-5))
    assert row["std"] == pytest.approx((CLUSTER[1] - RANDOM[1]) / 100 / 2**0.5, abs=5.1e-5)


def test_means_over_other_columns_stand_in_a_panel_of_their_own_without_a_published_one(tmp_path):
    student = pretrained(tmp_path / "runs", "random", 0.1)
    made_suite(tmp_path / "glue" / "few", student, RANDOM[0], ("rte", "mrpc"))
    (row,) = glue([tmp_path], pytest.fail).rows
    assert row["task"] == "GLUE, mean of 2: RTE, MRPC" and row["published"] is None
    assert row["mean"] == pytest.approx((57.76 + 85.79) / 200)


def test_what_is_no_suite_of_a_pre_trained_student_is_said(tmp_path):
    made_suite(tmp_path / "hub", Path("bert-base"), RANDOM[0])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "glue.json").write_text("[1")
    said: list[str] = []
    with pytest.raises(UserError, match="no finished suite with a mean"):
        glue([tmp_path], said.append)
    assert len(said) == 2 and "stands in no run folder" in said[1] and "not as suites write it" in said[0]
