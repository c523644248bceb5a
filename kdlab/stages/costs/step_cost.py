"""The cost of a step of a training: teacher queries, and FLOPs by the parts of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepCost:
    """Teacher queries (rows), and model FLOPs by the parts of the ledger."""

    queries: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """FLOPs of all parts."""
        return sum(self.parts.values())

    def __add__(self, other: StepCost) -> StepCost:
        names = dict.fromkeys([*self.parts, *other.parts])
        parts = {name: self.parts.get(name, 0.0) + other.parts.get(name, 0.0) for name in names}
        return StepCost(self.queries + other.queries, parts)

    def __mul__(self, factor: float) -> StepCost:
        return StepCost(self.queries * factor, {name: amount * factor for name, amount in self.parts.items()})
