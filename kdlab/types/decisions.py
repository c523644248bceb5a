"""Inputs of rewards (`Observation`), weighing rules (`WeighingContext`) and contextual policies (`Context`).

Letters in shapes are those of `kdlab.types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdlab.types.tensors import seeded_generator

if TYPE_CHECKING:  # torch is imported where it is used: `--help` and reports, which need this module, load none
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Observation:
    """An observation of an adaptive policy, the input of a reward marked `@needs("observation")`.

    `loss` in nats at optimizer step `step`. Since the observation before (None, 0 and empty at the first): `arm` the arm
    in force, `shares` of each arm in what moved (they add up to 1; `kdlab.methods.selection.credit`), `steps` optimizer
    steps, `learning_rate` the sum over these of the learning rate as a share of its peak (of an unknown schedule: 1 each).
    Marked `@needs("observation", "cost")` also: `flops` of scoring, student and teachers, `queries` rows that teachers
    answered, from a cache or not; both of all ranks, without what observations, evaluations and probes took.
    """

    loss: float
    step: int = 0
    arm: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    learning_rate: float = 0.0
    flops: float = 0.0
    queries: int = 0


@dataclass
class WeighingContext:
    """The inputs of a weighing rule: the rows of the whole global batch in rank order, detached.

    `uncertainty` (k,) of the student, entropy / log C, in [0, 1]; `student` (k, H) and `teachers`, (k, H_t) each: the
    [CLS] state in the last layer, zeros where a teacher was not queried; `teacher_weights` (k, T) the adoption weights;
    `progress` share of training done; `epoch` the pass over the data; `rng` keyed by (seed, step). `units` (U, D): of a rule
    with a `summary`, what that made of the logits at each unit with a label. None: not needed.
    """

    uncertainty: Tensor | None = None
    student: Tensor | None = None
    teachers: tuple[Tensor, ...] = ()
    teacher_weights: Tensor | None = None
    progress: float = 0.0
    epoch: int = 0
    rng: torch.Generator = field(default_factory=seeded_generator)
    units: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """Facts of the training when an arm is chosen, the same on all ranks.

    `progress`: share of the training done, in [0, 1]. `loss`: the last observed loss as a share of the first one of the
    same loss (1: nothing was observed yet, at most 2). `spread`: of the last scores, the distance of their quartiles as a
    share of their range, in [0, 1]: large where scores tell many rows apart, small where a few stand out. `balance`:
    entropy of the classes that the student predicted for the rows scored last, as a share of the largest possible, in
    [0, 1]: 0 where all are predicted to be of one class. Spread and balance are 1/2 until they are known, and stay where
    an arm runs no forward.
    """

    progress: float = 0.0
    loss: float = 1.0
    spread: float = 0.5
    balance: float = 0.5

    def vector(self) -> list[float]:
        """The features of a linear model: 1, and the fields in their order."""
        return [1.0, self.progress, self.loss, self.spread, self.balance]
