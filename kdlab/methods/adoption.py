"""Adoption rules: the weights of the teachers for each row.

A rule is a function `(student, teachers, count) -> (k, T)`: `student` (k,) the student's uncertainty of each row,
entropy / log C in [0, 1]; `teachers` (k, T) the teachers' uncertainties, each over its own classes, or None; `count` T.
Teachers are ordered from small to large. Weights are 0 or more; a teacher is queried only for rows whose weight for it
is above 0.
`@needs` (`kdlab.methods.marks`) declares the inputs "student" and "teachers" (then every teacher answers first), what
the rule mixes, and how many teachers it needs. Sources: Dynamic KD (Li et al. 2021) section 3.1; DeKD section 3.3;
METHODS sections 5 and 7.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlab.methods.marks import needs

Rule = Callable[[Tensor, Tensor | None, int], Tensor]


@needs(mixes="answers", min_teachers=1)
def ensemble(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """1 / T for each teacher: the mean of the teachers' probabilities is the answer (a baseline of Dynamic KD Table
    1)."""
    return student.new_full((len(student), count), 1 / count)


@needs(min_teachers=1)
def every(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """1 for each teacher: the sum of all teachers' losses. With specialists this is UHC (Vongkulbhisal et al. 2019):
    each teacher's answer against the student's over that teacher's classes."""
    return student.new_ones(len(student), count)


@needs(min_teachers=1)
def alone(student: Tensor, teachers: Tensor | None, count: int, place: int = -1) -> Tensor:
    """1 for the teacher number `place`, 0 for all others: 0 is the smallest, -1 the largest (baselines of Dynamic KD
    Table 1)."""
    weights = student.new_zeros(len(student), count)
    weights[:, place] = 1
    return weights


@needs("student")
def hard(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """Split of the batch into T equal parts by the student's uncertainty, the most uncertain part to the smallest
    teacher.

    Two teachers: the uncertain half queries the small one, the certain half the large one (Dynamic KD section 3.1.2;
    DeKD section 3.3, where the small one is the assistant). Where T does not divide the number of rows, the smaller
    teachers get one row more. Rows of equal uncertainty keep their order.
    """
    order = student.argsort(descending=True, stable=True)
    weights = student.new_zeros(len(student), count)
    for teacher, part in enumerate(order.tensor_split(count)):
        weights[part, teacher] = 1
    return weights


@needs("student")
def soft(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """Weights by the row's uncertainty u: u for the small teacher, 1 - u for the large one (Dynamic KD section 3.1.2).

    More than two: linear between neighbours, so that u = 1 gives the smallest all weight, u = 0 the largest (ours).
    """
    place = (1 - student) * (count - 1)
    numbers = torch.arange(count, device=student.device, dtype=student.dtype)
    return (1 - (place.unsqueeze(1) - numbers).abs()).clamp_min(0)


@needs("teachers", mixes="answers")
def least_uncertain(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """1 for the most certain teacher of each row, 0 for all others: MUKI, hard (Li et al. 2022, as in METHODS section
    7)."""
    assert teachers is not None
    return torch.nn.functional.one_hot(teachers.argmin(1), count).to(teachers.dtype)


@needs("teachers", mixes="answers")
def by_certainty(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """Weights in proportion to 1 - the teacher's uncertainty, equal where all are uncertain: MUKI, soft.

    Li et al. 2022 weigh by model uncertainty over Monte Carlo dropout; here it is the entropy of one answer, which
    costs one forward (METHODS section 7 leaves it open).
    """
    assert teachers is not None
    certainty = (1 - teachers).clamp_min(0)
    total = certainty.sum(1, keepdim=True)
    return torch.where(total > 1e-6, certainty / total.clamp_min(1e-6), 1 / count)
