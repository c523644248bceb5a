"""Metrics of the tasks, as fractions: 1 is best (papers print them times 100).

Each takes predictions (N,) and labels (N,): class indices, or numbers for the correlations. Values equal scikit-learn's and
SciPy's in float64. torchmetrics counts the right and wrong rows of each class; the ratios are taken here, because its own
are float32 (an error of 5e-8) and some of them are wrong for these tasks. `tests/unit/data/tasks/test_metrics.py` shows
each case in which its ready-made metric is not used:

- Matthews correlation of a single class in predictions and labels: 1 there; 0 here, as in scikit-learn.
- F1: macro over the classes by default there; binary F1 of class 1 here, as GLUE scores MRPC and QQP.
- Pearson of constant predictions or labels: NaN there; 0 here, because such predictions carry no information and a NaN
  would spoil every average. Elsewhere its last bit differs.
- Spearman: an epsilon in the denominator there, an error of 4e-6 on few rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdlab.errors import UserError, nearest
from kdlab.types import IGNORE

NEAR = 0.05  # share of the way from the majority class to a perfect score


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of rows with the right class."""
    true_positives, _, support = class_counts(predictions, labels)
    return sum(true_positives) / sum(support)


def f1(predictions: Tensor, labels: Tensor) -> float:
    """Binary F1 of class 1, as GLUE scores MRPC and QQP: 2 TP / (2 TP + FP + FN); 0 where class 1 never occurs."""
    return _f1_by_class(predictions, labels).get(1, 0.0)


def macro_f1(predictions: Tensor, labels: Tensor) -> float:
    """Mean of the F1 of each class that occurs among the labels or the predictions (scikit-learn's "macro")."""
    scores = _f1_by_class(predictions, labels)
    return sum(scores.values()) / len(scores)


def micro_f1(predictions: Tensor, labels: Tensor) -> float:
    """F1 of all classes together, 2 TP / (2 TP + FP + FN): with one label a row it equals the accuracy."""
    return accuracy(predictions, labels)


def balanced_accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur among the labels of the share of their rows with the right prediction."""
    hits, _, support = class_counts(predictions, labels)
    shares = [hit / rows for hit, rows in zip(hits, support, strict=True) if rows]
    return sum(shares) / len(shares)


def _f1_by_class(predictions: Tensor, labels: Tensor) -> dict[int, float]:
    """F1 of each class that occurs, by class index, ascending."""
    counts = zip(*class_counts(predictions, labels), strict=True)
    return {c: 2 * tp / (called + right) for c, (tp, called, right) in enumerate(counts) if called + right}


def class_counts(predictions: Tensor, labels: Tensor, classes: int = 0) -> tuple[list[int], list[int], list[int]]:
    """Of each of the C classes, at least `classes`: true positives, rows predicted, rows labelled."""
    from torchmetrics.functional.classification import multiclass_stat_scores  # slow to import

    counts = multiclass_stat_scores(predictions, labels, max(classes, _classes(predictions, labels)), average=None)
    tp, fp, _, _, support = counts.T.tolist()
    return tp, [a + b for a, b in zip(tp, fp, strict=True)], support


def _classes(predictions: Tensor, labels: Tensor) -> int:
    return max(2, int(max(predictions.max(), labels.max())) + 1)


def matthews(predictions: Tensor, labels: Tensor) -> float:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 where predictions or labels are one class."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # slow to import

    table = multiclass_confusion_matrix(predictions, labels, _classes(predictions, labels)).double()
    p, t = table.sum(0), table.sum(1)  # rows of each class among the predictions, among the labels
    n, correct = float(table.sum()), float(table.trace())
    spread = (n * n - float(p @ p)) * (n * n - float(t @ t))
    return (correct * n - float(p @ t)) / math.sqrt(spread) if spread > 0 else 0.0


def pearson(predictions: Tensor, labels: Tensor) -> float:
    """Linear correlation; 0 where predictions or labels are constant."""
    x, y = predictions.double(), labels.double()
    if (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    x, y = (v / v.abs().max() for v in (x - x.mean(), y - y.mean()))  # against underflow and overflow
    return max(-1.0, min(1.0, float((x / x.norm()) @ (y / y.norm()))))


def spearman(predictions: Tensor, labels: Tensor) -> float:
    """Correlation of ranks, equal values sharing their mean rank; 0 where predictions or labels are constant."""
    return pearson(_ranks(predictions), _ranks(labels))


def _ranks(values: Tensor) -> Tensor:
    """Ranks (N,) float64 from 1, ascending; equal values share their mean rank."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]


METRICS = {f.__name__: f for f in (accuracy, f1, macro_f1, micro_f1, balanced_accuracy, matthews, pearson, spearman)}


def predicted(logits: Tensor) -> Tensor:
    """Predictions of logits (N, C): the class (N,) int64 of the largest, or with C = 1 (regression) the number (N,)."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)


def score(metrics: Sequence[str], predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute the named metrics of predictions (N,) and labels (N,), and their mean as `average`.

    UserError for an unknown metric, no rows, predictions that are not finite (a model that diverged), and hidden labels
    (IGNORE, NaN, and GLUE's -1 where classes are scored).
    """
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"no metric is called {name!r}; {nearest(name, METRICS)}")
    if len(labels) == 0 or len(predictions) != len(labels):
        raise UserError(f"nothing to score: {len(predictions)} predictions for {len(labels)} labels")
    if not predictions.isfinite().all():
        raise UserError("some predictions are NaN or infinite: the model has diverged; try a smaller learning rate")
    hidden = labels.isnan() if labels.is_floating_point() else labels < 0
    if (hidden | (labels == IGNORE)).any():
        raise UserError("some labels are hidden (-1), as in GLUE's test sets: such a split cannot be scored here")
    predictions, labels = predictions.detach().cpu(), labels.detach().cpu()
    values = {name: METRICS[name](predictions, labels) for name in metrics}
    return {**values, "average": sum(values.values()) / len(values)}


def headline(scores: Mapping[str, float], metric: str | None) -> dict[str, float]:
    """`scores` over all dev splits, with the mean of `metric` over the splits as their `score`; None: unchanged."""
    if metric is None:
        return dict(scores)
    values = [value for name, value in scores.items() if name == metric or name.startswith(f"{metric}_")]
    return {**scores, "score": sum(values) / len(values)}


def task_average(scores: Mapping[str, Mapping[str, float]], metric: str = "average") -> float:
    """The one number of a task from the `score` of each of its dev splits: the mean of `metric` (MNLI: of both splits)."""
    return sum(part[metric] for part in scores.values()) / len(scores)


def hardly_better(score: float, majority: float) -> bool:
    """True for a score that is less than `NEAR` of the way from that of the majority class to a perfect one, or NaN."""
    return not score >= majority + NEAR * (1 - majority)
