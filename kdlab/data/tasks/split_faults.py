"""Caveats on the held-out splits of a task: rows that are in train too, and test rows of which some have no label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdlab.types import Caveat

LEAK = 0.01  # share of a split's rows that may be in train without a caveat


def found(stats: Mapping[str, Mapping[str, Any]], in_train: Mapping[str, int]) -> list[Caveat]:
    """The caveats by the counts of each split (`dataset.read_stats`) and of its rows in train (`dataset.rows_in_train`)."""
    leaks = [
        f"{count:,} of {stats[name]['rows']:,} rows of {name}"
        for name, count in in_train.items()
        if count > LEAK * stats[name]["rows"]
    ]
    caveats = []
    if leaks:
        text = f"{' and '.join(leaks)} have the same text as a training row: scores on them flatter every model"
        caveats.append(Caveat("rows_in_train", f"{text}; remove these rows from train"))
    for name, one in stats.items():
        if name.startswith("test") and 0 < one.get("hidden", 0) < one["rows"]:
            text = f"{name} is not scored: {one['hidden']:,} of its {one['rows']:,} rows have no label"
            caveats.append(Caveat("labels_missing", text))
    return caveats
