"""The metrics of the tasks, as fractions: 1 is best (papers print them times 100).

Each is a function of predictions (N,) and labels (N,): class indices, or numbers for the correlations. They equal
scikit-learn's and SciPy's, except that a correlation that is not defined, because all predictions (or all labels) are
equal, is 0 here and NaN there: such predictions carry no information, and a NaN would spoil every average.
torchmetrics is not used: its Matthews is not 0 on one-class predictions, and its multi-class F1 is macro.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdlab.errors import UserError, nearest
from kdlab.types import IGNORE


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of rows with the right class."""
    return float((predictions == labels).double().mean())


def f1(predictions: Tensor, labels: Tensor) -> float:
    """Binary F1 of class 1, as GLUE scores MRPC and QQP: 2 TP / (2 TP + FP + FN); 0 where no row is or is called 1."""
    return _f1_of(1, predictions, labels)


def macro_f1(predictions: Tensor, labels: Tensor) -> float:
    """Mean of the F1 of each class that is among the labels or the predictions (scikit-learn's "macro")."""
    classes = torch.unique(torch.cat((predictions, labels))).tolist()
    return sum(_f1_of(c, predictions, labels) for c in classes) / len(classes)


def _f1_of(c: int, predictions: Tensor, labels: Tensor) -> float:
    called, right = predictions == c, labels == c
    both, either = int((called & right).sum()), int(called.sum() + right.sum())
    return 2 * both / either if either else 0.0


def matthews(predictions: Tensor, labels: Tensor) -> float:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 where predictions or labels are one class."""
    size = int(max(predictions.max(), labels.max())) + 1
    p, t = (torch.bincount(x, minlength=size).double() for x in (predictions, labels))
    n, correct = float(len(labels)), float((predictions == labels).sum())
    spread = (n * n - float(p @ p)) * (n * n - float(t @ t))
    return (correct * n - float(p @ t)) / math.sqrt(spread) if spread > 0 else 0.0


def pearson(predictions: Tensor, labels: Tensor) -> float:
    """Linear correlation; 0 where predictions or labels are constant."""
    x, y = predictions.double(), labels.double()
    if (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    x, y = (v / v.abs().max() for v in (x - x.mean(), y - y.mean()))  # so that tiny and huge numbers do not vanish
    return max(-1.0, min(1.0, float((x / x.norm()) @ (y / y.norm()))))


def spearman(predictions: Tensor, labels: Tensor) -> float:
    """Correlation of ranks, equal values sharing their mean rank; 0 where predictions or labels are constant."""
    return pearson(_ranks(predictions), _ranks(labels))


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]


METRICS = {f.__name__: f for f in (accuracy, f1, macro_f1, matthews, pearson, spearman)}


def predicted(logits: Tensor) -> Tensor:
    """What logits (N, C) answer: the class (N,) int64 of the largest; with C = 1 (regression) the number (N,)."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)


def score(metrics: Sequence[str], predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """Each of the named metrics of predictions (N,) and labels (N,), and their mean as `average`.

    Raises UserError for an unknown metric, no rows, predictions that are not numbers (a model that diverged), and
    hidden labels (IGNORE, NaN, and GLUE's -1 where classes are scored).
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
    found = {name: METRICS[name](predictions, labels) for name in metrics}
    return {**found, "average": sum(found.values()) / len(found)}


def task_average(scores: Mapping[str, Mapping[str, float]]) -> float:
    """The one number of a task from the `score` of each of its dev splits: their mean (MNLI: of both)."""
    return sum(part["average"] for part in scores.values()) / len(scores)
