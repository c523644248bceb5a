"""The numbers that the papers print, to stand beside one's own: `published.csv`, one number a row.

Papers: `adads` (Zhou et al., AdaDS: adaptive data selection for knowledge distillation), `dynamic_kd` (Li et al. 2021,
Dynamic Knowledge Distillation for Pre-trained Language Models), `ksm` (Wang et al., Improved Knowledge Distillation for
Pre-trained Language Models via Knowledge Selection), `dekd` (Xu et al., Data-Efficient Knowledge Distillation with
Teacher Assistant-Based Dynamic Objective Alignment). `table` is the number of the table in the paper.

The metric of each AdaDS number is the transcriber's: the paper prints one number a task and refers to GLUE, where QQP,
MRPC and STS-B have two metrics and the mean of both counts (its Fig. 3 says "combined score" of QQP).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """One printed number. `ratio`: share of the data that queries the teacher (None where none is). `value` as printed,
    in percent but for GFLOPs; `task` "average" is the paper's own average."""

    paper: str
    table: str
    method: str
    student: str
    ratio: float | None
    task: str
    metric: str
    value: float


@cache
def everything() -> tuple[Published, ...]:
    """All rows of the file, in its order: that of the papers' tables."""
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Published(**{**row, "ratio": float(row["ratio"]) if row["ratio"] else None, "value": float(row["value"])})
            for row in csv.DictReader(file)
        )


def rows(**wanted: str | float | None) -> list[Published]:
    """The numbers whose columns have the wanted values: `rows(paper="adads", table="4", task="RTE")`.

    AttributeError for a column that the file does not have.
    """
    return [row for row in everything() if all(getattr(row, name) == value for name, value in wanted.items())]
