"""The table of official tasks, and labels compared by name."""

from __future__ import annotations

import re

import pytest
import torch

from kdlab.data.tasks.labels import align, codes, fold
from kdlab.data.tasks.metrics import METRICS
from kdlab.data.tasks.registry import GLUE, TASKS, find
from kdlab.errors import UserError


def test_the_nine_glue_tasks_and_the_four_others() -> None:
    assert GLUE == ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
    assert set(TASKS) - set(GLUE) == {"sst5", "imdb", "emotion", "agnews"}


@pytest.mark.parametrize(  # Wang et al. 2019, Table 1
    ("name", "columns", "classes", "metrics"),
    [
        ("cola", 1, 2, ("matthews",)),
        ("sst2", 1, 2, ("accuracy",)),
        ("mrpc", 2, 2, ("accuracy", "f1")),
        ("stsb", 2, 1, ("pearson", "spearman")),
        ("qqp", 2, 2, ("accuracy", "f1")),
        ("mnli", 2, 3, ("accuracy",)),
        ("qnli", 2, 2, ("accuracy",)),
        ("rte", 2, 2, ("accuracy",)),
        ("wnli", 2, 2, ("accuracy",)),
        ("sst5", 1, 5, ("accuracy",)),
        ("imdb", 1, 2, ("accuracy",)),
        ("emotion", 1, 6, ("accuracy",)),
        ("agnews", 1, 4, ("accuracy",)),
    ],
)
def test_shapes_and_metrics(name: str, columns: int, classes: int, metrics: tuple[str, ...]) -> None:
    shape = TASKS[name].shape
    assert (shape.columns, shape.outputs, shape.metrics) == (columns, classes, metrics)
    assert shape.regression == (name == "stsb")
    assert set(shape.metrics) <= set(METRICS)


def test_positive_classes_of_the_f1_tasks_are_class_1() -> None:
    assert TASKS["mrpc"].shape.labels == ("not_equivalent", "equivalent")
    assert TASKS["qqp"].shape.labels == ("not_duplicate", "duplicate")


def test_mnli_is_scored_on_both_dev_sets_and_others_on_one() -> None:
    assert TASKS["mnli"].dev == ("dev", "dev_mismatched")
    assert TASKS["rte"].dev == ("dev",)
    assert TASKS["imdb"].dev == ()  # none was published
    # 20,000 and 5,000 of IMDb's 25,000 rows: Dynamic KD Table 3, DeKD Table 2
    assert {name: task.dev_share for name, task in TASKS.items() if not task.dev} == {"imdb": 0.2, "agnews": 0.1}
    assert TASKS["mnli"].glue == {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}
    assert TASKS["stsb"].glue == {"test": "STS-B.tsv"}
    assert {name for name in GLUE if TASKS[name].glue_names} == {"mnli", "qnli", "rte"}


@pytest.mark.parametrize("name", TASKS)
def test_every_revision_is_a_full_commit_hash(name: str) -> None:
    task = TASKS[name]
    assert re.fullmatch(r"[0-9a-f]{40}", task.hub.revision)
    assert len(task.hub.columns) == task.shape.columns
    assert "train" in task.hub.splits


@pytest.mark.parametrize(
    ("name", "found"), [("SST-2", "sst2"), ("sts-b", "stsb"), ("ag_news", "agnews"), ("RTE", "rte")]
)
def test_tasks_are_found_in_any_spelling(name: str, found: str) -> None:
    assert find(name).name == found


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UserError, match="no task is called 'sst3'; did you mean sst"):
        find("sst3")


def test_the_mnli_order_trap() -> None:
    """Checkpoints such as roberta-large-mnli number the classes the other way round."""
    teacher = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
    order = align(TASKS["mnli"].shape.labels or (), teacher)
    assert order == (2, 1, 0)
    logits = torch.tensor([[0.0, 1.0, 9.0]])  # the teacher is sure of entailment
    assert logits[:, list(order)].argmax().item() == 0  # which is class 0 of the data


@pytest.mark.parametrize(
    ("data", "teacher", "words"),
    [
        (("a", "b"), ("a", "c"), "other labels: the data has a, b; the teacher has a, c"),
        (("a", "b"), ("a", "b", "c"), "the data has a, b; the teacher has a, b, c"),
        (("a", "b", "c"), ("a", "b"), "other labels"),
        (("a", "b"), ("a", "a "), "other labels"),
        (
            ("a", "b"),
            ("LABEL_0", "LABEL_1"),
            "numbered, not named.*the data has a, b; the teacher has LABEL_0, LABEL_1",
        ),
    ],
)
def test_other_labels_are_refused_with_both_lists(data, teacher, words: str) -> None:
    with pytest.raises(UserError, match=words):
        align(data, teacher)


def test_names_are_compared_without_case_and_separators() -> None:
    assert align(("not_entailment", "entailment"), ("Entailment", "Not-Entailment")) == (1, 0)
    assert align(("very negative", "Sci/Tech"), ("sci_tech", "very_negative")) == (1, 0)
    assert align(("negative", "positive"), ("pos", "neg")) == (1, 0)
    assert align(("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0")) == (1, 0)
    assert fold("?") != fold("!")


def test_labels_as_numbers_or_names() -> None:
    code = codes(("negative", "positive"))
    assert [code.index(value) for value in ("1.0", "Positive", "0", "neg", "2", "01")] == [1, 1, 0, 0, None, None]
    assert codes(("negative", "positive"), ("1", "0")).index("1") == 0  # as in a labels.txt
    with pytest.raises(UserError, match="written alike"):
        codes(("a", "b"), ("1", "1"))


def test_classes_that_differ_only_in_case_or_signs_stay_two() -> None:
    code = codes(("a", "A"), ("a", "A"))
    assert [code.index("a"), code.index("A")] == [0, 1]
    assert align(("a", "A"), ("A", "a")) == (1, 0)
    assert align(("c", "c++", "c#"), ("C#", "C", "C++")) == (1, 2, 0)
