"""Statistics on plain numbers, without SciPy: paired tests over seeds, their power, and the Pareto front.

The papers report a two-sided t-test at p < 0.05 (DeKD, Table 5: five seeds; Dynamic KD, Table 1: three).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

ALPHA = 0.05
POWER = 0.8
_NO_SPREAD = 1e-12  # of the values' size: rounding error of equal differences


@dataclass(frozen=True)
class Paired:
    """Result of `paired`.

    `std` is None below two pairs; `t`, `p` and the interval `low` .. `high` are None where the differences have no spread.
    """

    pairs: int
    difference: float
    std: float | None = None
    t: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None


def paired(values: Sequence[float], base: Sequence[float]) -> Paired:
    """Mean of values - base, its paired two-sided t-test (Student 1908) and its 95 % t interval.

    `values` and `base` hold one number per seed, in the same order. If all differences are equal there is no test.
    The interval excludes 0 where p < 0.05. ValueError for different lengths or no pair.
    """
    if len(values) != len(base) or not values:
        raise ValueError(f"{len(values)} numbers cannot be paired with {len(base)}")
    differences = np.asarray(values, dtype=float) - np.asarray(base, dtype=float)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Paired(n, mean)
    std = float(differences.std(ddof=1))
    if std <= _NO_SPREAD * max(map(abs, (*values, *base))):
        return Paired(n, mean, 0.0)
    error = std / math.sqrt(n)
    half = _critical(n - 1, ALPHA) * error
    return Paired(n, mean, std, mean / error, two_sided(mean / error, n - 1), mean - half, mean + half)


def two_sided(t: float, df: int) -> float:
    """P(|T| >= |t|) for Student's t with `df` >= 1 degrees of freedom, to about ten digits in the far tails too."""
    return min(1.0, 2 * _above(abs(t), df, 0.0))


def holm(ps: Sequence[float]) -> list[float]:
    """p values adjusted for testing them together (Holm 1979), in the given order."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def detectable(std: float, pairs: int, tests: int = 1) -> float:
    """The smallest true mean difference that a paired t-test of `pairs` >= 2 seeds finds (p < 0.05 / `tests`, two-sided) in
    four cases of five, where differences have standard deviation `std`."""
    return _noncentrality(pairs, ALPHA / tests) * std / math.sqrt(pairs)


@lru_cache
def _critical(df: int, alpha: float) -> float:
    """The |t| that a two-sided test at level `alpha` must exceed."""
    return _root(lambda t: alpha - two_sided(t, df))


@lru_cache
def _noncentrality(pairs: int, alpha: float) -> float:
    df = pairs - 1
    critical = _critical(df, alpha)
    return _root(lambda ncp: _above(critical, df, ncp) + _above(critical, df, -ncp) - POWER)


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    while rising(high) < 0:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high


def _above(t: float, df: int, ncp: float) -> float:
    """P(T > t), t >= 0, for the noncentral t distribution: T = (Z + ncp) / S with Z normal and df S^2 chi-squared.

    The mean over S of P(Z > t S - ncp), by the trapezoidal rule in log S, where the integrand decays on both sides and
    the rule converges exponentially.
    """
    step = min(0.05, 0.2 / math.sqrt(df))
    logs = np.arange(-40.0, 4.0, step)
    s = np.exp(logs)
    # the density of log S; its logarithm first, which neither overflows nor cancels
    log_density = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2) + df * (logs - s * s / 2)
    tail = np.array([math.erfc(x / math.sqrt(2)) / 2 for x in (t * s - ncp).tolist()])
    return float(step * np.sum(np.exp(log_density) * tail))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, score) points on the Pareto front, cheapest first.

    On the front no other point has as high a score at a lower cost, or a higher score at no higher cost. Equal points
    all stay. Numbers must be finite.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front
