"""Adoption rules: the weights of the teachers for each row.

A rule is a function `(student, teachers, count) -> (k, T)`: `student` (k,) the student's uncertainty of each row,
entropy / log C in [0, 1]; `teachers` (k, T) the teachers' uncertainties, each over its own classes, or None; `count` T.
Teachers are ordered from small to large. Weights are 0 or more; a teacher is queried only for rows whose weight for it
is above 0.
A row's weights count in both ways of mixing alike: c times the weights are c times the row's loss. Where the teachers'
losses are added, each is multiplied by its weight; where their answers are mixed (`mixes="answers"`), the answer is the
weighted mean of their softened probabilities, and the sum of the weights multiplies its loss.
`@needs` (`kdlab.methods.marks`) declares the inputs "student", "teachers" (then every teacher answers first) and "rows" (their
ids, an argument of that name more), what the rule mixes, and how many teachers it needs. Sources: Dynamic KD (Li et al. 2021) section 3.1; DeKD section 3.3; MUKI
(Li et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import needs
from kdlab.ranges import Range, Temperature

Rule = Callable[[Tensor, Tensor | None, int], Tensor]


@needs(mixes="answers", min_teachers=1)
def ensemble(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """1 / T for each teacher: the mean of the teachers' softened probabilities is the answer (a baseline of Dynamic KD
    Table 1)."""
    return student.new_full((len(student), count), 1 / count)


@needs(min_teachers=1)
def every(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """1 for each teacher: the sum of all teachers' losses. With specialists this is UHC (Vongkulbhisal et al. 2019):
    each teacher's answer against the student's over that teacher's classes."""
    return student.new_ones(len(student), count)


@needs(min_teachers=1)
def alone(student: Tensor, teachers: Tensor | None, count: int, place: Annotated[int, Range()] = -1) -> Tensor:
    """1 for the teacher number `place`, 0 for all others: 0 is the smallest, -1 the largest (baselines of Dynamic KD
    Table 1). UserError for a teacher that is not there."""
    if not -count <= place < count:
        raise UserError(f"place={place}: there are {count} teachers, from 0 to {count - 1}, or from -{count} to -1")
    weights = student.new_zeros(len(student), count)
    weights[:, place] = 1
    return weights


@needs("rows")
def by_column(
    student: Tensor, teachers: Tensor | None, count: int, rows: Tensor, numbers: Callable[[Tensor], Tensor]
) -> Tensor:
    """1 for the teacher that a column of the data names for the row, 0 for all others: each domain has its own teacher.

    `rows` (k,) int64: ids of the rows in the data set; `numbers`: from these to the numbers (k,) of their teachers.
    """
    return torch.nn.functional.one_hot(numbers(rows), count).to(student.dtype)


@needs("student")
def hard(student: Tensor, teachers: Tensor | None, count: int) -> Tensor:
    """Split of the batch into T equal parts by the student's uncertainty, the most uncertain part to the smallest
    teacher.

    Two teachers: the uncertain half queries the small one, the certain half the large one (Dynamic KD section 3.1.2;
    DeKD section 3.3, where the small one is the assistant). Where T does not divide the number of rows, the larger
    teachers get one row more, as in Dynamic KD's public code (both papers: "evenly"). Rows of equal uncertainty keep
    their order. Each weight is 1, so the loss is one mean over all rows; that code adds the mean of each half, and DeKD
    (Eq. 7) adds two divergences without naming a reduction: of two equal halves their sum is twice ours.
    """
    order = student.argsort(descending=True, stable=True).flip(0)  # certain rows first: tensor_split serves them first
    weights = student.new_zeros(len(student), count)
    for place, part in enumerate(order.tensor_split(count)):
        weights[part, count - 1 - place] = 1
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
def least_uncertain(student: Tensor, teachers: Tensor | None, count: int, margin: bool = False) -> Tensor:
    """1 for the most certain teacher of each row, 0 for all others: MUKI, hard (Li et al. 2022).

    `margin`: times the row's `_margin`, MUKI's re-weighting of instances.
    """
    assert teachers is not None
    weights = torch.nn.functional.one_hot(teachers.argmin(1), count).to(teachers.dtype)
    return weights * _margin(teachers) if margin else weights


@needs("teachers", mixes="answers")
def by_certainty(
    student: Tensor, teachers: Tensor | None, count: int, scale: Temperature | None = None, margin: bool = False
) -> Tensor:
    """softmax(score / scale) over the teachers, a teacher's score 1 - its uncertainty: MUKI, soft (Li et al. 2022).

    `scale` is 0.2 in MUKI's public code; None: weights in proportion to the scores, equal where all are 0 (a rule of
    ours, and of runs before `scale` existed). `margin`: times the row's `_margin`.
    """
    assert teachers is not None
    if scale is None:
        certainty = (1 - teachers).clamp_min(0)
        total = certainty.sum(1, keepdim=True)
        weights = torch.where(total > 1e-6, certainty / total.clamp_min(1e-6), 1 / count)
    else:
        weights = ((1 - teachers) / scale).softmax(1)
    return weights * _margin(teachers) if margin else weights


def _margin(teachers: Tensor) -> Tensor:
    """The weight (k, 1) of each row's loss: the best teacher's score minus the second best's, plus 1e-6.

    MUKI: teachers that are equally certain of a row contradict each other there. 1e-6 is that of its public code.
    """
    best = (1 - teachers).topk(2, dim=1).values
    return best[:, :1] - best[:, 1:] + 1e-6
