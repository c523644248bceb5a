"""Names, units and ranges of metrics as tables and figures print them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CORRELATIONS = {"matthews": "Matthews", "pearson": "Pearson", "spearman": "Spearman"}
_ACRONYMS = {"f1": "F1", "macro f1": "macro F1", "micro f1": "micro F1"}


@dataclass(frozen=True)
class MetricScale:
    """A metric as it is printed: `unit` ("accuracy (%)"), values times `scale`, which lie from `low` to `high`."""

    unit: str
    scale: int
    low: float
    high: float

    def clipped(self, value: float) -> float:
        """A printed value, moved into the metric's range."""
        return min(self.high, max(self.low, value))


def metric_scale(metric: str, scored_by: Sequence[str] = ()) -> MetricScale:
    """The scale of a metric of result.json. `scored_by`: the metrics whose mean is the task's `score`.

    Losses are printed as they are, shares in percent, correlations times 100, in which papers print them.
    """
    if metric.startswith("loss"):
        return MetricScale(metric, 1, 0.0, math.inf)
    names = list(scored_by) if metric == "score" and scored_by else [metric]
    correlated = [name for name in names if name.split("_")[0] in CORRELATIONS]
    title = " and ".join(map(_title, names)) if len(names) < 3 else f"{len(names)} metrics"
    if correlated == names:
        title += " correlation"
    title = f"mean of {title}" if len(names) > 1 else title
    return MetricScale(f"{title} (x 100)" if correlated else f"{title} (%)", 100, -100.0 if correlated else 0.0, 100.0)


def scored_by(result: Mapping[str, Any], chosen: str | None = None) -> tuple[str, ...]:
    """The metrics whose mean is a run's `score`: the one that `data.metric` chose, else those of the task."""
    data = result.get("data")
    data = data if isinstance(data, Mapping) else {}
    if chosen := chosen or data.get("metric"):
        return (str(chosen),)
    shape = data.get("shape")
    names = shape.get("metrics") if isinstance(shape, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def metric_words(result: Mapping[str, Any]) -> str:
    """The metric that a run's student is compared by: those whose mean is its score, on text the loss; "" if unknown."""
    if names := scored_by(result):
        return " and ".join(map(_title, names))
    metrics = result.get("metrics")
    student = metrics.get("student") if isinstance(metrics, Mapping) else None
    student = student if isinstance(student, Mapping) else {}
    return "score" if "score" in student else "masked-LM loss" if "loss" in student else ""


def _title(name: str) -> str:
    base, _, split = name.partition("_mismatched")
    text = CORRELATIONS.get(base) or base.replace("_", " ")
    return _ACRONYMS.get(text, text) + (", mismatched" if name != base or split else "")
