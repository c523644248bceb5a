"""Scores of a model's answers beyond the metrics of its task: by class, calibration, agreement, intervals over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab.data.tasks import metrics
from kdlab.types import TaskShape

BINS = 15  # of the expected calibration error, of equal width (Guo et al. 2017)
RESAMPLES = 1000  # of the rows
LEVEL = 0.95
_CELLS = 20_000_000  # of a resampling at once: bounds its time and memory
OF_CLASSES = ("macro_f1", "micro_f1", "balanced_accuracy", "matthews")


def details(
    predictions: Tensor, labels: Tensor, shape: TaskShape, headline: Sequence[str], probabilities: Tensor | None = None
) -> dict[str, Any]:
    """Further scores of predictions (N,) for labels (N,); `probabilities` (N, C) of the classes, if known.

    Of classes: `OF_CLASSES`, `ece` (`calibration_error`), and `classes`: of each its `rows`, `precision`, `recall` and
    `f1`. Of numbers: `pearson`, `spearman`, `rmse`, `mae`. `interval`: of the mean of the metrics `headline`
    (`bootstrap`).
    """
    found: dict[str, Any] = {"interval": bootstrap(predictions, labels, headline)}
    if shape.labels is None:
        errors = predictions.double() - labels.double()
        found |= {"pearson": metrics.pearson(predictions, labels), "spearman": metrics.spearman(predictions, labels)}
        return {**found, "rmse": float(errors.square().mean().sqrt()), "mae": float(errors.abs().mean())}
    found |= {name: metrics.METRICS[name](predictions, labels) for name in OF_CLASSES}
    if probabilities is not None:
        found["ece"] = calibration_error(probabilities, labels)
    return {**found, "classes": by_class(predictions, labels, shape.labels)}


def by_class(predictions: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """`rows`, `precision`, `recall` and `f1` of each class by its name; 0 where it is never predicted, or has no row."""
    found = {}
    counts = metrics.class_counts(predictions, labels, len(names))
    for name, hits, called, rows in zip(names, *counts, strict=True):
        precision, recall = hits / called if called else 0.0, hits / rows if rows else 0.0
        f1 = 2 * hits / (called + rows) if called + rows else 0.0
        found[name] = {"rows": rows, "precision": precision, "recall": recall, "f1": f1}
    return found


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error of probabilities (N, C): the mean over `BINS` bins of the largest probability, weighted by
    their rows, of |accuracy - mean probability|."""
    from torchmetrics.functional.classification import multiclass_calibration_error  # slow to import

    return float(multiclass_calibration_error(probabilities, labels, probabilities.shape[1], n_bins=BINS, norm="l1"))


def agreement(predictions: Tensor, others: Tensor) -> float:
    """Share of rows with the same class in both; of numbers their correlation (Pearson)."""
    if predictions.is_floating_point():
        return metrics.pearson(predictions, others)
    return float((predictions == others).double().mean())


def bootstrap(predictions: Tensor, labels: Tensor, names: Sequence[str]) -> list[float]:
    """The 95 % percentile interval [low, high] over the rows (Efron 1979) of the mean of the metrics `names`.

    `RESAMPLES` resamples, fewer for very many rows of a regression. The draws depend on the number of rows alone.
    """
    rng = np.random.default_rng(len(labels))
    resampled = _of_numbers if predictions.is_floating_point() else _of_classes
    values = resampled(predictions.numpy(), labels.numpy(), names, rng)
    return [float(value) for value in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def _of_numbers(predictions: np.ndarray, labels: np.ndarray, names: Sequence[str], rng: Any) -> np.ndarray:
    rows, means = len(labels), []
    for _ in range(int(np.clip(_CELLS // rows, 50, RESAMPLES))):
        drawn = rng.integers(0, rows, rows)
        x, y = torch.from_numpy(predictions[drawn]), torch.from_numpy(labels[drawn])
        means.append(np.mean([metrics.METRICS[name](x, y) for name in names]))
    return np.array(means)


def _of_classes(predictions: np.ndarray, labels: np.ndarray, names: Sequence[str], rng: Any) -> np.ndarray:
    """Rows of the same label and prediction are alike, so a resample is a draw of how many of each it has."""
    classes = max(2, int(max(predictions.max(), labels.max())) + 1)
    cells, counts = np.unique(labels * classes + predictions, return_counts=True)
    truth, called, rows = cells // classes, cells % classes, len(labels)
    means, step = [], max(1, _CELLS // (10 * max(len(cells), classes)))
    for start in range(0, RESAMPLES, step):
        drawn = rng.multinomial(rows, counts / rows, min(step, RESAMPLES - start)).astype(float)  # (R, cells)

        def summed(where: np.ndarray, mask: np.ndarray, drawn: np.ndarray = drawn) -> np.ndarray:
            total = np.zeros((classes, len(drawn)))
            np.add.at(total, where[mask], drawn.T[mask])
            return total.T

        every = np.ones(len(cells), dtype=bool)
        hits, named, real = summed(truth, truth == called), summed(called, every), summed(truth, every)
        means.append(np.mean([_VALUES[name](hits, named, real) for name in names], axis=0))
    return np.concatenate(means)


# ---- metrics of many resamples from true positives, predicted rows and labelled rows, each (R, C)


def _f1s(hits: np.ndarray, called: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return 2 * hits / np.maximum(called + rows, 1)


def _accuracy(hits: np.ndarray, called: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return hits.sum(1) / rows.sum(1)


def _f1(hits: np.ndarray, called: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return _f1s(hits, called, rows)[:, 1]


def _macro_f1(hits: np.ndarray, called: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return _f1s(hits, called, rows).sum(1) / (called + rows > 0).sum(1)


def _balanced_accuracy(hits: np.ndarray, called: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return (hits / np.maximum(rows, 1)).sum(1) / (rows > 0).sum(1)


def _matthews(hits: np.ndarray, called: np.ndarray, rows: np.ndarray) -> np.ndarray:
    n = rows.sum(1)
    spread = (n * n - (called * called).sum(1)) * (n * n - (rows * rows).sum(1))
    above = hits.sum(1) * n - (called * rows).sum(1)
    return np.where(spread > 0, above / np.sqrt(np.maximum(spread, 1)), 0.0)


_VALUES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "micro_f1": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "balanced_accuracy": _balanced_accuracy,
    "matthews": _matthews,
}
