"""`python -m kdlab.compare --rows RUN RUN`: two runs by their predictions for the same rows (predictions/dev.csv, test.csv)."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdlab.errors import UserError
from kdlab.runs.finished import finished_result, inside
from kdlab.runs.folders import status

RESAMPLES = 1000


@dataclass(frozen=True)
class RowPredictions:
    """A split of a run: `rows` (ids), `labels` and predictions of the `student`, as texts."""

    rows: list[str]
    labels: list[str]
    student: list[str]


@dataclass(frozen=True)
class McNemar:
    """Rows that both runs get right, only the first, only the second, neither; `p` of McNemar's exact test, two-sided."""

    both: int
    first: int
    second: int
    neither: int
    p: float


def print_rows(runs: list[Path]) -> int:
    """Print for each split that two runs share how their students differ row by row; returns the exit code.

    Of classes McNemar's exact test; of numbers the difference of the correlations with its bootstrap interval. UserError
    unless there are two finished runs with predictions for the same rows and labels.
    """
    if len(runs) != 2:
        raise UserError(f"--rows compares two runs, and {len(runs)} are given")
    results = [finished_result(run) for run in runs]
    files = [sorted(file.name for file in (run / "predictions").glob("*.csv")) for run in runs]
    for run, found in zip(runs, files, strict=True):
        if not found:
            raise UserError(f"{run} has no predictions/: a run of an older kdlab, on text, or with predictions=0")
    shared = [name for name in files[0] if name in files[1]]
    if not shared:
        raise UserError(f"{runs[0]} has {', '.join(files[0])} and {runs[1]} {', '.join(files[1])}: no split in common")
    pairs = {name: [read(run / "predictions" / name) for run in runs] for name in shared}
    for name, (first, second) in pairs.items():
        check_alike(runs, name, first, second)
    numbers = [_of_numbers(result, run) for result, run in zip(results, runs, strict=True)]
    if numbers[0] != numbers[1]:
        raise UserError(f"{runs[0]} and {runs[1]} are of different tasks: one predicts numbers, the other classes")
    print(f"first: {runs[0]}\nsecond: {runs[1]}")
    for name, (first, second) in pairs.items():
        print(f"\n{name.removesuffix('.csv')}, {len(first.rows):,} rows")
        print("\n".join(_numbers(first, second) if numbers[0] else _classes(first, second)))
    return 0


def _of_numbers(result: dict[str, Any], run: Path) -> bool:
    """True if a run predicts numbers."""
    shape = inside(result, "data.shape")
    if not isinstance(shape, dict) or "labels" not in shape:
        raise UserError(f"{run}: result.json has no data.shape, which this command reads ({status(run)})")
    return shape["labels"] is None


def read(file: Path) -> RowPredictions:
    """The student's predictions in a file of a run; UserError for one that is not as runs write it."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
        return RowPredictions(*([line[name] for line in lines] for name in ("row", "label", "student")))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise UserError(f"{file} is not as runs write it: {type(error).__name__} {error}") from error


def check_alike(runs: list[Path], name: str, first: RowPredictions, second: RowPredictions) -> None:
    """UserError that names the first row in which two runs differ in rows or labels."""
    for place, (one, other) in enumerate(zip(first.rows, second.rows, strict=False)):
        if one != other or first.labels[place] != second.labels[place]:
            raise UserError(
                f"{name}: row {one} with label {first.labels[place]} in {runs[0]}, row {other} with label "
                f"{second.labels[place]} in {runs[1]}: they are of different rows, and cannot be compared row by row"
            )
    if len(first.rows) != len(second.rows):
        raise UserError(
            f"{name}: {len(first.rows):,} rows in {runs[0]} and {len(second.rows):,} in {runs[1]}: not the same rows"
        )


def mcnemar(first: list[bool], second: list[bool]) -> McNemar:
    """McNemar's exact test (1947; binomial) on which of two answers to each row are right.

    Under the null hypothesis a row that one of them alone gets right is either's with probability 1/2.
    """
    one, other = np.array(first, dtype=bool), np.array(second, dtype=bool)
    b, c = int((one & ~other).sum()), int((~one & other).sum())
    return McNemar(int((one & other).sum()), b, c, int((~one & ~other).sum()), sign_test(b, c))


def sign_test(b: int, c: int) -> float:
    """Two-sided p of min(b, c) or fewer of b + c fair coin throws: 2 P(X <= min(b, c)), at most 1."""
    n, logs = b + c, [math.lgamma(b + c + 1) - (b + c) * math.log(2)]
    terms = (logs[0] - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(min(b, c) + 1))
    return min(1.0, 2 * math.fsum(map(math.exp, terms)))


def _classes(first: RowPredictions, second: RowPredictions) -> list[str]:
    right = [[a == b for a, b in zip(one.student, one.labels, strict=True)] for one in (first, second)]
    found, rows = mcnemar(*right), len(first.rows)
    same = sum(a == b for a, b in zip(first.student, second.student, strict=True))
    return [
        f"  accuracy                 first {sum(right[0]) / rows:.1%}, second {sum(right[1]) / rows:.1%}",
        f"  same prediction          {same / rows:.1%} of the rows",
        f"  right                    both {found.both:,}, first alone {found.first:,}, second alone {found.second:,}, "
        f"neither {found.neither:,}",
        f"  McNemar's exact test     p = {found.p:.3g}{'' if found.p < 0.05 else ': no more than chance'}",
    ]


def _numbers(first: RowPredictions, second: RowPredictions) -> list[str]:
    labels, one, other = (np.array(list(map(float, v))) for v in (first.labels, first.student, second.student))
    rng, rows = np.random.default_rng(len(labels)), len(labels)
    differences = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, rows, rows)
        differences.append(_pearson(one[drawn], labels[drawn]) - _pearson(other[drawn], labels[drawn]))
    low, high = np.quantile(differences, [0.025, 0.975])
    own = [_pearson(values, labels) for values in (one, other)]
    return [
        f"  correlation with labels  first {own[0]:.3f}, second {own[1]:.3f}",
        f"  difference               {own[0] - own[1]:+.3f}, 95% interval over rows {low:+.3f} to {high:+.3f} (bootstrap)",
        f"  correlation of the two   {_pearson(one, other):.3f}",
    ]


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else 0.0
