"""Further scores of answers against scikit-learn, SciPy, and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from kdlab.data.tasks import details, metrics
from kdlab.types import TaskShape

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 300)
LOGITS = RNG.normal(size=(300, 4)) + 1.5 * np.eye(4)[LABELS]
SHAPE = TaskShape(1, ("a", "b", "c", "d"), ("accuracy",))


def found() -> dict:
    logits = torch.tensor(LOGITS)
    return details.details(logits.argmax(1), torch.tensor(LABELS), SHAPE, ("accuracy",), logits.softmax(1))


def test_scores_of_classes_equal_scikit_learn():
    predicted, scores = LOGITS.argmax(1), found()
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(LABELS, predicted, average="macro"), abs=1e-12)
    assert scores["micro_f1"] == pytest.approx(sk.f1_score(LABELS, predicted, average="micro"), abs=1e-12)
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(LABELS, predicted), abs=1e-12)
    assert scores["matthews"] == pytest.approx(sk.matthews_corrcoef(LABELS, predicted), abs=1e-12)
    precision, recall, f1, rows = sk.precision_recall_fscore_support(LABELS, predicted, zero_division=0)
    for i, name in enumerate(SHAPE.labels or ()):
        wanted = {"rows": rows[i], "precision": precision[i], "recall": recall[i], "f1": f1[i]}
        assert scores["classes"][name] == pytest.approx(wanted, abs=1e-12)


def test_a_class_that_never_occurs_has_zeros_and_one_without_rows_no_share_of_balanced_accuracy():
    predicted, labels = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    assert details.by_class(predicted, labels, ("a", "b", "c"))["c"] == {
        "rows": 0,
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
    }
    assert metrics.balanced_accuracy(predicted, labels) == (0.5 + 1.0) / 2


def test_calibration_error_by_hand():
    """Confidences 0.9 (two rows, one right) and 0.6 (one row, right): 2/3 |0.5 - 0.9| + 1/3 |1 - 0.6|."""
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    error = details.calibration_error(shares, torch.tensor([0, 1, 1]))
    assert error == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.4, abs=1e-6)


def test_the_interval_is_that_of_a_resampling_of_the_rows():
    """Of the accuracy of n rows a resample is binomial: its quantiles are known."""
    low, high = found()["interval"]
    rate = (LOGITS.argmax(1) == LABELS).mean()
    wanted = stats.binom.ppf([0.025, 0.975], 300, rate) / 300
    assert [low, high] == pytest.approx(wanted, abs=0.01) and details.bootstrap(
        torch.tensor(LOGITS).argmax(1), torch.tensor(LABELS), ("accuracy",)
    ) == [low, high]


@pytest.mark.parametrize("name", ["accuracy", "f1", "macro_f1", "micro_f1", "balanced_accuracy", "matthews"])
def test_metrics_of_resamples_are_those_of_the_rows(name):
    labels = RNG.integers(0, 2, 50)
    predicted = np.where(RNG.random(50) < 0.7, labels, 1 - labels)
    hits = np.array([[((labels == c) & (predicted == c)).sum() for c in (0, 1)]], dtype=float)
    called = np.array([[(predicted == c).sum() for c in (0, 1)]], dtype=float)
    rows = np.array([[(labels == c).sum() for c in (0, 1)]], dtype=float)
    wanted = metrics.METRICS[name](torch.tensor(predicted), torch.tensor(labels))
    assert details._VALUES[name](hits, called, rows)[0] == pytest.approx(wanted, abs=1e-12)


def test_scores_of_numbers_have_no_classes():
    labels = torch.tensor([1.0, 2.0, 4.0, 3.0])
    predicted = torch.tensor([1.5, 2.0, 3.0, 5.0])
    scores = details.details(predicted, labels, TaskShape(1, None, ("pearson",)), ("pearson",))
    assert scores.keys() == {"interval", "pearson", "spearman", "rmse", "mae"}
    assert scores["rmse"] == pytest.approx(((0.25 + 0 + 1 + 4) / 4) ** 0.5) and scores["mae"] == pytest.approx(3.5 / 4)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(predicted, labels).statistic)
    assert details.agreement(predicted, labels) == pytest.approx(stats.pearsonr(predicted, labels).statistic)


def test_agreement_is_a_share_of_rows():
    assert details.agreement(torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 1, 1])) == 0.75
