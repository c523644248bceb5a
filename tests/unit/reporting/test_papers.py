"""The papers' printed numbers, and the table that puts one's own beside them."""

from __future__ import annotations

import numpy as np
import pytest

from kdlab.data.tasks.registry import TASKS
from kdlab.reporting import glue_scoreboard, papers

# AdaDS Table 4 as the paper's text has it: MNLI-m/mm, QQP, QNLI, SST-2, CoLA, STS-B, MRPC, RTE, Avg
ORDER = ["MNLI-m", "MNLI-mm", "QQP", "QNLI", "SST-2", "CoLA", "STS-B", "MRPC", "RTE", "average"]
TABLE4 = """
teacher   84.28/84.70 89.44 91.51 92.48 55.88 88.67 85.34 64.55 81.87
all       82.09/82.34 88.42 88.51 90.73 50.34 86.42 86.10 59.13 79.34
random    81.90/82.36 88.30 88.64 91.19 48.13 85.22 85.79 57.76 78.81
entropy   81.82/82.30 88.41 88.82 90.99 42.45 84.30 86.34 59.06 78.28
margin    80.91/81.42 88.00 86.72 90.96 46.72 82.42 77.13 56.90 76.80
conf      81.61/82.17 88.27 88.91 91.05 41.23 84.06 85.56 59.86 78.08
certainty 81.13/81.77 88.12 87.88 90.87 48.72 83.87 82.39 59.93 78.30
cluster   81.81/82.30 88.43 88.64 91.24 49.13 85.48 85.41 57.47 78.88
density   81.93/82.45 88.35 88.67 91.33 46.74 84.36 84.61 58.34 78.53
"""
LINES = [line.replace("/", " ").split() for line in TABLE4.strip().splitlines()]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_table_4_is_as_printed(line):
    method, *values = line
    rows = papers.numbers_with(paper="adads", table="4", method=method)
    assert {row.task: row.value for row in rows} == dict(zip(ORDER, map(float, values), strict=True))
    assert {row.ratio for row in rows} == {{"teacher": None, "all": 1.0}.get(method, 0.1)}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_the_papers_average_is_that_of_its_nine_columns(line):
    *scores, average = map(float, line[1:])
    assert np.mean(scores) == pytest.approx(average, abs=0.0051)


def test_table_4_has_no_other_rows():
    assert list(dict.fromkeys(row.method for row in papers.numbers_with(paper="adads", table="4"))) == [
        x[0] for x in LINES
    ]


def test_rows_are_found_by_any_column():
    assert [row.value for row in papers.numbers_with(paper="dynamic_kd", table="1", method="no kd", task="RTE")] == [
        63.7
    ]
    assert {row.paper for row in papers.all_numbers()} == {"adads", "dynamic_kd", "ksm", "dekd"}
    assert papers.numbers_with(paper="nobody") == []
    with pytest.raises(AttributeError):
        papers.numbers_with(colour="red")


def all_of_glue(value: float) -> dict[str, dict[str, float]]:
    names = ("accuracy", "f1", "matthews", "pearson", "spearman")
    return {task: {name + end: value for name in names for end in ("", "_mismatched")} for task in FULL}


FULL = ("mnli", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte")


def test_with_all_nine_columns_the_published_averages_are_the_papers():
    runs = {"student": {(task, 1): metrics for task, metrics in all_of_glue(0.5).items()}}
    board = glue_scoreboard.board(runs, [TASKS[name] for name in FULL])
    assert board.columns == ORDER[:-1] == board.averaged and not board.partly
    assert [f"{line.average:.2f}" for line in board.published] == [line[-1] for line in LINES]
    assert board.own[0].average == pytest.approx(50) and board.own[0].spread == {}
    assert "Avg*" not in glue_scoreboard.text(board) and "| Avg |" in glue_scoreboard.markdown(board)


def test_the_mean_and_spread_over_seeds_and_the_average_over_what_ran():
    mrpc = {1: {"accuracy": 0.80, "f1": 0.90}, 2: {"accuracy": 0.70, "f1": 0.84}, 3: {"accuracy": 0.90, "f1": 0.94}}
    rte = {1: {"accuracy": 0.50}, 2: {"accuracy": 0.60}}  # the third has failed
    student = {("mrpc", s): m for s, m in mrpc.items()} | {("rte", s): m for s, m in rte.items()}
    runs = {"student": student, "teacher": {("mrpc", 1): {"accuracy": 0.9, "f1": 0.9}}}
    board = glue_scoreboard.board(runs, [TASKS["mrpc"], TASKS["rte"]])
    own, teacher = board.own
    assert own.scores == pytest.approx({"MRPC": np.mean([85, 77, 92]), "RTE": 55})
    assert own.spread == pytest.approx({"MRPC": np.std([85, 77, 92], ddof=1), "RTE": np.std([50, 60], ddof=1)})
    assert own.average == pytest.approx((np.mean([85, 77, 92]) + 55) / 2)
    assert own.average_spread == pytest.approx(np.std([(85 + 50) / 2, (77 + 60) / 2], ddof=1))  # of whole seeds
    assert teacher.scores == pytest.approx({"MRPC": 90}) and teacher.average is None  # not over the same columns
    assert board.published[0].average == pytest.approx((85.34 + 64.55) / 2) and board.partly
    text = glue_scoreboard.text(board)
    assert "Avg*" in text and "* over MRPC, RTE alone" in text


def test_columns_that_the_paper_lacks_are_shown_and_not_averaged():
    runs = {"student": {("rte", 1): {"accuracy": 0.5}, ("wnli", 1): {"accuracy": 0.9}}}
    board = glue_scoreboard.board(runs, [TASKS["rte"], TASKS["wnli"]])
    assert board.columns == ["RTE", "WNLI"] and board.averaged == ["RTE"] and board.own[0].average == pytest.approx(50)
    alone = glue_scoreboard.board({"student": {("sst5", 1): {"accuracy": 0.4}}}, [TASKS["sst5"]])
    assert alone.own[0].average == pytest.approx(40) and alone.published[0].average is None


def test_mnli_without_a_mismatched_set_has_one_column_of_scores():
    board = glue_scoreboard.board({"student": {("mnli", 1): {"accuracy": 0.8}}}, [TASKS["mnli"]])
    assert board.columns == ["MNLI-m", "MNLI-mm"] and board.averaged == ["MNLI-m"]
    assert board.own[0].scores == pytest.approx({"MNLI-m": 80})
