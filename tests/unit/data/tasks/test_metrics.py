"""The metrics against scikit-learn and SciPy, on ordinary rows and on the edges where libraries differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torchmetrics import functional as tm

from kdlab.data.tasks.metrics import (
    METRICS,
    accuracy,
    f1,
    macro_f1,
    matthews,
    pearson,
    predicted,
    score,
    spearman,
    task_average,
)
from kdlab.errors import UserError

CLASSES = [
    ([0, 1, 1, 0, 1], [0, 1, 0, 1, 1]),
    ([1, 1, 1], [1, 0, 1]),  # one class predicted
    ([0, 0, 0], [1, 0, 1]),
    ([1, 0, 1], [1, 1, 1]),  # one class true
    ([0, 0], [0, 0]),
    ([1, 1], [1, 1]),
    ([0], [1]),
    ([1, 0], [0, 1]),  # all wrong
    ([0, 2, 1, 3, 3, 0, 2], [0, 1, 1, 3, 2, 0, 4]),  # a class that only the labels have
]


@pytest.mark.filterwarnings("ignore")  # scikit-learn warns of the edges that are the point here
@pytest.mark.parametrize(("predictions", "labels"), CLASSES)
def test_class_metrics_equal_scikit_learn(predictions: list[int], labels: list[int]) -> None:
    p, t = torch.tensor(predictions), torch.tensor(labels)
    assert accuracy(p, t) == pytest.approx(sk.accuracy_score(labels, predictions))
    assert matthews(p, t) == pytest.approx(sk.matthews_corrcoef(labels, predictions))
    assert macro_f1(p, t) == pytest.approx(sk.f1_score(labels, predictions, average="macro", zero_division=0))
    if max(labels + predictions) < 2:
        assert f1(p, t) == pytest.approx(sk.f1_score(labels, predictions, zero_division=0))


def test_class_metrics_equal_scikit_learn_on_many_rows() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 26, 500_000)  # as many rows as the largest task: counts beyond 32 bits when squared
    predictions = np.where(rng.random(500_000) < 0.6, labels, rng.integers(0, 26, 500_000))
    p, t = torch.from_numpy(predictions), torch.from_numpy(labels)
    assert matthews(p, t) == pytest.approx(sk.matthews_corrcoef(labels, predictions), abs=1e-12)
    assert macro_f1(p, t) == pytest.approx(sk.f1_score(labels, predictions, average="macro"), abs=1e-12)


@pytest.mark.parametrize("predictions", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_one_class_predictions_score_zero_where_glue_says_so(predictions: list[int]) -> None:
    assert matthews(torch.tensor(predictions), torch.tensor([0, 1, 1, 0])) == 0.0


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        ([0.1, 2.0, 3.5, -1.0], [1.0, 2.0, 5.0, 0.0]),
        ([1.0, 1.0, 2.0, 2.0, 2.0], [3.0, 1.0, 2.0, 2.0, 5.0]),  # ties
        ([1.0, 2.0], [5.0, 3.0]),
        ([1e30, 2e30, 4e30], [1.0, 2.0, 2.5]),
        ([1e-30, 2e-30, 4e-30], [1.0, 2.0, 2.5]),
        ([1000.0, 1000.001, 1000.002, 1000.0], [1.0, 2.0, 3.0, 0.0]),
    ],
)
def test_correlations_equal_scipy(predictions: list[float], labels: list[float]) -> None:
    p, t = torch.tensor(predictions, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
    assert pearson(p, t) == pytest.approx(stats.pearsonr(predictions, labels).statistic, abs=1e-9)
    assert spearman(p, t) == pytest.approx(stats.spearmanr(predictions, labels).statistic, abs=1e-12)


def test_correlations_of_float32_predictions() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(1500).round(1)  # many ties, as in STS-B
    predictions = (labels + rng.normal(size=1500)).astype(np.float32)
    p, t = torch.from_numpy(predictions), torch.from_numpy(labels.astype(np.float32))
    assert pearson(p, t) == pytest.approx(stats.pearsonr(p.double(), t.double()).statistic, abs=1e-12)
    assert spearman(p, t) == pytest.approx(stats.spearmanr(predictions, labels).statistic, abs=1e-12)


@pytest.mark.parametrize("metric", [pearson, spearman])
@pytest.mark.parametrize("constant", [0.1, 3.0, 1e-30])
def test_a_constant_correlates_with_nothing(metric, constant: float) -> None:
    """SciPy gives NaN; 0 here. 0.1 is no binary fraction: its mean may differ from it in the last bit."""
    flat, varied = torch.full((7,), constant), torch.arange(7.0)
    assert metric(flat, varied) == metric(varied, flat) == metric(flat, flat) == 0.0
    assert metric(torch.tensor([2.0]), torch.tensor([1.0])) == 0.0


def test_score_gives_each_metric_and_their_mean() -> None:
    # 3 of 4 right; one true positive, one missed, none false: F1 = 2 / 3
    found = score(("accuracy", "f1"), torch.tensor([1, 0, 0, 0]), torch.tensor([1, 1, 0, 0]))
    assert found == {"accuracy": 0.75, "f1": pytest.approx(2 / 3), "average": pytest.approx((0.75 + 2 / 3) / 2)}
    assert score(("pearson", "spearman"), torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 3.0, 5.0]))[
        "spearman"
    ] == pytest.approx(1.0)


def test_mnli_is_the_mean_of_both_dev_sets() -> None:
    two = {
        "dev": {"accuracy": 0.8, "f1": 0.9, "average": 0.85},
        "dev_mismatched": {"accuracy": 0.6, "f1": 0.7, "average": 0.65},
    }
    assert task_average(two) == 0.75 and task_average(two, "accuracy") == pytest.approx(0.7)
    assert task_average({"dev": {"accuracy": 0.8, "average": 0.8}, "dev_mismatched": {"average": 0.7}}) == 0.75


def test_what_logits_answer() -> None:
    assert predicted(torch.tensor([[0.1, 0.3, 0.2], [2.0, -1.0, 0.0]])).tolist() == [1, 0]
    assert predicted(torch.tensor([[1.5], [-2.0]])).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("metrics", "predictions", "labels", "words"),
    [
        (("acuracy",), [0], [0], "did you mean accuracy"),
        (("accuracy",), [], [], "nothing to score"),
        (("accuracy",), [0], [0, 1], "1 predictions for 2 labels"),
        (("accuracy",), [0, 1], [0, -1], "hidden"),
        (("accuracy",), [0, 1], [0, -100], "hidden"),
        (("pearson",), [0.5, 1.0], [0.5, math.nan], "hidden"),
        (("pearson",), [math.nan, 1.0], [0.5, 1.0], "diverged"),
        (("pearson",), [math.inf, 1.0], [0.5, 1.0], "diverged"),
    ],
)
def test_what_cannot_be_scored(metrics, predictions, labels, words: str) -> None:
    with pytest.raises(UserError, match=words):
        score(metrics, torch.tensor(predictions), torch.tensor(labels))


def test_negative_scores_are_scores() -> None:
    found = score(tuple(METRICS)[-2:], torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-2.0, -1.0, 0.0]))
    assert found == {"pearson": pytest.approx(1.0), "spearman": pytest.approx(1.0), "average": pytest.approx(1.0)}


def test_class_metrics_are_ratios_of_exact_counts() -> None:
    """The float64 values of the definitions, bit by bit: result.json must not change in its last digit."""
    rng = np.random.default_rng(2)
    for size, classes in ((1, 1), (7, 2), (50, 3), (400, 6), (3000, 26)):
        p, t = (torch.from_numpy(rng.integers(0, classes, size)) for _ in range(2))
        hits = {c: int(((p == c) & (t == c)).sum()) for c in range(classes)}
        rows = {c: int((p == c).sum()) + int((t == c).sum()) for c in range(classes)}
        scores = [2 * hits[c] / rows[c] for c in range(classes) if rows[c]]
        assert accuracy(p, t) == float((p == t).double().mean()) == sum(hits.values()) / size
        assert macro_f1(p, t) == sum(scores) / len(scores)
        assert f1(p, t) == (2 * hits[1] / rows[1] if rows.get(1) else 0.0)


@pytest.mark.filterwarnings("ignore")
def test_torchmetrics_own_scores_are_not_those_of_the_tasks() -> None:
    """Each reason that kdlab.data.tasks.metrics gives for not using one; if a test fails, torchmetrics can be used."""
    p, t = torch.tensor([0, 1, 1, 0, 1, 2]), torch.tensor([0, 1, 0, 0, 1, 1])
    assert float(tm.classification.multiclass_accuracy(p, t, 3, average="micro")) != accuracy(p, t) == 4 / 6  # float32
    one = torch.zeros(3, dtype=torch.int64)
    assert float(tm.matthews_corrcoef(one, one, "multiclass", num_classes=2)) == 1.0
    assert matthews(one, one) == sk.matthews_corrcoef(one, one) == 0.0
    b, u = torch.tensor([0, 1, 1, 0, 1, 1]), torch.tensor([0, 1, 0, 0, 1, 1])
    macro = float(tm.classification.multiclass_f1_score(b, u, 2))
    assert abs(macro - f1(b, u)) > 1e-3 and macro == pytest.approx(macro_f1(b, u))
    varied, flat = torch.arange(7.0, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    assert math.isnan(float(tm.pearson_corrcoef(flat, varied))) and pearson(flat, varied) == 0.0
    x, y = varied[:2], varied[:2].flip(0)
    assert abs(float(tm.spearman_corrcoef(x, y)) + 1) > 1e-7 > abs(spearman(x, y) + 1)
