"""The cost of a training so far, as a reward reads it: the same whatever caches hold."""

from __future__ import annotations

from collections.abc import Sequence

from kdlab.models import flops
from kdlab.modules.student import StudentModule

CHOSEN = ("scoring", "student_forward", "student_backward")  # parts of the ledger that an arm's choice has a share in


class Spending:
    """FLOPs and teacher queries of a student's training so far, without observations, evaluations and probes.

    Each answer of a teacher counts as a query and as a forward of a row of mean length, from a cache or not: what a cache
    holds depends on earlier runs, and a reward that went by it would not be repeatable.
    """

    def __init__(self, student: StudentModule, lengths: Sequence[int]) -> None:
        self.student = student
        length = max(1, round(sum(lengths) / len(lengths)))
        shapes = student.distillation.flops.teacher_shapes
        self.prices = {
            name: flops.forward(shape, 1, length) for name, shape in zip(student.teacher_names, shapes, strict=True)
        }

    def __call__(self) -> tuple[float, int]:
        """FLOPs and queries of all ranks (collective)."""
        assert self.student.ledger is not None
        spent, answers = self.student.ledger.answered(CHOSEN)
        queried = {name: count for name, count in answers.items() if name in self.prices}
        return spent + sum(self.prices[name] * count for name, count in queried.items()), sum(queried.values())
