"""Which of several results are worth their cost: the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (cost, score) points that none beats, cheapest first: no other has as high a score at a lower cost,
    or a higher score at no higher cost. Lower costs and higher scores are better; of equal points all stay. Numbers
    must be finite.
    """
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not found or points[i][1] > points[found[-1]][1] or points[i] == points[found[-1]]:
            found.append(i)
    return found
