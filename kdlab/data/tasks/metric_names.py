"""Names of the metrics that can be the score of a task; `kdlab.data.tasks.metrics` computes them."""

from __future__ import annotations

from collections.abc import Sequence

from kdlab.types import TaskShape

OF_CLASSES = ("accuracy", "f1", "macro_f1", "micro_f1", "balanced_accuracy", "matthews")
OF_NUMBERS = ("pearson", "spearman")


def choices(shape: TaskShape) -> tuple[str, ...]:
    """The metrics that can be the score of a task, its own first; binary F1 of two classes only."""
    if shape.labels is None:
        return tuple(dict.fromkeys((*shape.metrics, *OF_NUMBERS)))
    possible = [name for name in OF_CLASSES if name != "f1" or len(shape.labels) == 2]
    return tuple(dict.fromkeys((*shape.metrics, *possible)))


def named(own: Sequence[str], metric: str | None) -> tuple[str, ...]:
    """The metrics of a task with the one chosen as its score, if that is none of them."""
    return tuple(own) if metric is None or metric in own else (*own, metric)
