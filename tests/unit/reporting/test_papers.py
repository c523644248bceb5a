"""The papers' printed numbers, and the table that puts one's own beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdlab.data.tasks.registry import TASKS
from kdlab.reporting import glue_scoreboard, paper_arms, papers
from kdlab.reporting.seed_groups import Run

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
    assert {row.paper for row in papers.all_numbers()} == {"adads", "dynamic_kd", "ksm", "dekd", "sekd"}
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


# ---- all numbers

DEKD_5 = {  # DeKD Table 5, five runs each: UHC, MUKI, KSM, DeKD
    "SST-2": {
        "uhc": (85.74, 83.61, 84.22, 82.37, 85.69),
        "muki": (86.29, 82.16, 85.34, 84.68, 86.12),
        "ksm": (89.21, 89.01, 88.36, 89.18, 88.27),
        "dekd": (89.91, 89.88, 89.65, 89.17, 88.96),
    },
    "IMDb": {
        "uhc": (83.66, 81.21, 83.38, 82.93, 82.07),
        "muki": (84.51, 83.23, 84.47, 83.13, 82.98),
        "ksm": (85.31, 85.26, 84.93, 85.28, 84.97),
        "dekd": (86.12, 86.08, 86.02, 85.85, 85.93),
    },
}


@pytest.mark.parametrize("task", DEKD_5)
@pytest.mark.parametrize("method", ["uhc", "muki", "ksm", "dekd"])
def test_dekd_table_3_has_the_best_of_table_5_and_says_so(task, method):
    runs = DEKD_5[task][method]
    (printed,) = papers.numbers_with(paper="dekd", table="3", student="bert-6", method=method, task=task)
    (mean, spread) = papers.numbers_with(paper="dekd", table="5", method=method, task=task)
    assert printed.value == max(runs) and "best of the five runs" in printed.note
    assert mean.metric == "accuracy" and mean.value == pytest.approx(np.mean(runs), abs=0.0051)
    assert f"{mean.value:.2f}" in printed.note
    assert spread.metric == "standard deviation" and spread.value == pytest.approx(np.std(runs), abs=0.00051)


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        # KSM Table 6: RTE, MRPC (F1/accuracy), QNLI, Avg
        ({"paper": "ksm", "table": "6", "method": "ksm-soft, reward loss"}, [68.4, 89.3, 84.7, 89.0, 80.7]),
        ({"paper": "ksm", "table": "6", "method": "ksm-soft, reward f1"}, [66.9, 87.8, 82.9, 88.1, 79.3]),
        ({"paper": "ksm", "table": "6", "method": "ksm-soft, reward accuracy"}, [66.7, 88.1, 83.2, 87.3, 79.1]),
        # DeKD Table 1: SST-2, QNLI
        ({"paper": "dekd", "table": "1", "method": "kd bert-base", "ratio": 0.5}, [85.44, 82.24]),
        ({"paper": "dekd", "table": "1", "method": "kd bert-base", "ratio": 1.0}, [85.55, 82.46]),
        ({"paper": "dekd", "table": "1", "method": "bert-base teacher"}, [92.55, 91.32]),
        ({"paper": "dekd", "table": "1", "method": "kd bert-large", "ratio": 0.5}, [83.25, 78.94]),
        ({"paper": "dekd", "table": "1", "method": "kd bert-large", "ratio": 1.0}, [83.71, 79.22]),
        ({"paper": "dekd", "table": "1", "method": "bert-large teacher"}, [93.0, 92.66]),
        # Dynamic KD Appendix C: CoLA, IMDb
        ({"paper": "dynamic_kd", "table": "C", "method": "kd 12 x 256"}, [11.9, 83.4]),
        ({"paper": "dynamic_kd", "table": "C", "method": "kd 12 x 768"}, [8.8, 83.2]),
        # AdaDS' speed-ups
        ({"paper": "adads", "table": "5", "task": "speed-up", "method": "random"}, [10.0]),
        ({"paper": "adads", "table": "5", "task": "speed-up", "method": "entropy"}, [3.6]),
        ({"paper": "adads", "table": "5", "task": "speed-up", "method": "adads"}, [3.4]),
    ],
)
def test_the_smaller_tables_are_as_printed(columns, values):
    assert [number.value for number in papers.numbers_with(**columns)] == values


def test_adads_table_2_has_the_best_and_the_worst_strategy_of_each_ratio():
    rows = papers.numbers_with(paper="adads", table="2")
    of = {name: [row.method for row in rows if row.metric == f"rank from the {name}"] for name in ("best", "worst")}
    assert [row.ratio for row in rows][::2] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert of["best"] == ["certainty", "certainty", "entropy", "margin", "entropy"]
    assert of["worst"] == ["cluster", "cluster", "density", "density", "certainty"]  # "Diversity" is the clustering


def test_a_teacher_is_its_own_student_and_queries_nobody():
    teachers = [number for number in papers.all_numbers() if number.method.endswith("teacher")]
    assert {number.student for number in teachers} == {"bert-base", "bert-large"}
    assert {number.ratio for number in teachers} == {None}


def test_numbers_say_their_metric_and_rows():
    assert {row.metric for row in papers.numbers_with(paper="adads", task="QQP")} >= {"combined"}
    assert not papers.numbers_with(paper="adads", task="QQP", metric="accuracy")
    assert {row.split for row in papers.numbers_with(paper="dekd", table="3")} == {"test"}
    assert {row.split for row in papers.numbers_with(paper="dynamic_kd", table="4", metric="accuracy")} == {"test"}
    assert {row.split for row in papers.numbers_with(paper="ksm", table="3")} == {"GLUE test server"}
    (row,) = papers.numbers_with(paper="dekd", table="3", student="bert-6", method="dekd", task="IMDb")
    assert row.place == "Table 3, bert-6, test, the best of the five runs of Table 5; their mean is 86.00"


@pytest.mark.parametrize(
    ("paper", "words"),
    [
        ("adads", ["dev sets", "5 to 9 %"]),  # 3.35 to 3.45 of 56.4 / (15.81 + 11.3 x): x from 0.048 to 0.091
        ("dynamickd", ["1:1", "one mean", "33.9 G"]),  # 11.3 + 11.3 + 22.5 / 2
        ("ksm", ["test server", "random seeds", "teacher first"]),
        ("dekd", ["best of Table 5", "tau^2 KL(teacher || student)", "one mean"]),
    ],
)
def test_the_departures_stand_beside_the_numbers(paper, words):
    assert [word for word in words if word not in papers.CAUTIONS[paper]] == []


def decoder_run(select: str, ratio: float, **facts: str) -> Run:
    """A run of a decoder, as reports read it."""
    result = {
        "seed": 1, "stage": "causal", "data": {"source": "text"}, "select": {"name": select, "ratio": ratio}, "adopt": "single",
        "policy": {"name": "fixed"}, "knowledge": "causal", "student": {"layers": 10},
    }  # fmt: skip
    return Run(Path("run"), result, dict(facts), dict(facts), "Wikipedia excerpt")


def test_se_kd_stands_beside_runs_of_its_positions_alone():
    def beside(run: Run) -> dict[str, float]:
        return {number.metric: number.value for number in paper_arms.numbers_beside(run, "sekd")}

    assert beside(decoder_run("all", 1.0)) == {
        "accuracy": 64.4, "IFEval": 20.5, "perplexity": 7.3, "calibration error": 27.3,
    }  # fmt: skip
    assert beside(decoder_run("entropy", 0.2, **{"select.unit": "position"}))["accuracy"] == 64.8
    assert beside(decoder_run("entropy", 0.2)) == {}  # rows
    assert beside(decoder_run("entropy", 0.5, **{"select.unit": "position"})) == {}
    assert beside(decoder_run("random", 0.2, **{"select.unit": "position"})) == {}
    assert not any(paper_arms.numbers_beside(decoder_run("all", 1.0), paper) for paper in ("adads", "dynamickd"))


def test_a_number_of_no_table_says_where_it_stands():
    (number,) = papers.numbers_with(paper="sekd", method="se-kd", metric="accuracy")
    assert number.place == "README, qwen3-1.7b, zero-shot, mean of three seeds"
    assert papers.numbers_with(paper="dynamic_kd", table="C")[0].place.startswith("Appendix C")
