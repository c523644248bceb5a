"""The committee behind a row's votes (`Evidence.votes`): exits of the student's layers, or forwards with dropout."""

from __future__ import annotations

from typing import Literal

import torch

from kdlab.modules.early_exit import exits
from kdlab.modules.views import StudentView
from kdlab.runtime import distributed
from kdlab.runtime.seeding import stable
from kdlab.types import Batch, Outputs


class Votes:
    """The members of a committee beside the student itself, for the rows of a batch; the student's head answers for each.

    `source` "exits": the states after each layer but the last, of the student's own forward; or a number of further
    forwards, with dropout in the layers, drawn by seed, batch and rank. Their FLOPs count as scoring.
    """

    def __init__(self, source: Literal["exits"] | int = "exits") -> None:
        self.source = source

    @property
    def needed(self) -> frozenset[str]:
        """Outputs of the student's own forward that the other members are made of."""
        return frozenset({"states"} if self.source == "exits" else ())

    def __call__(self, student: StudentView, batch: Batch, outputs: Outputs, rng: torch.Generator) -> list[Outputs]:
        """The outputs of each member for `batch`; `outputs`: the student's own, with `needed`; `rng`: of the selection, from
        which nothing is drawn."""
        if isinstance(self.source, str):
            return exits(student.student.model, outputs)
        with student.dropout(stable(rng.initial_seed(), "votes", distributed.rank())):
            return [student.encode(batch, "scoring") for _ in range(self.source)]
