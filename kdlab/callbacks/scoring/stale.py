"""Scores from the last visit of a row (`select.scoring=stale`), for every strategy and for policies that change it.

Of a strategy whose scores are of one row each, the score is kept. Of one that scores rows against each other (cluster,
density, an ensemble of these) the evidence is kept, and it scores the rows of a batch by that. A visit gives what every arm
of the policy reads, so that a row is visited as often as with one arm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.methods.marks import FORWARD, marks_of, members_of
from kdlab.methods.selection.scores import combined
from kdlab.methods.selection.strategies import Strategy
from kdlab.modules.views import StudentView
from kdlab.runtime import distributed
from kdlab.types import Batch, Evidence, Outputs

Parts = Callable[[Batch, Outputs], Iterator[Evidence]]  # evidence of a few of the rows at a time


@dataclass(frozen=True)
class VisitRecord:
    """The parts of a visit that are kept: scores of the strategies `scored`, by key; the `fields` of the evidence."""

    scored: Mapping[str, Strategy]
    fields: tuple[str, ...]

    @classmethod
    def of(cls, arms: Mapping[str, Strategy]) -> VisitRecord:
        """The evidence of the student that the arms of a policy read."""
        scored: dict[str, Strategy] = {}
        fields: set[str] = set()
        for arm, strategy in arms.items():
            for name, member in members_of(strategy).items():
                marks = marks_of(member)
                if marks.needs & FORWARD and marks.rowwise:
                    scored[key(arm, name)] = member
                elif marks.needs & FORWARD:
                    fields |= marks.needs & FORWARD
        return cls(scored, tuple(sorted(fields)))

    @property
    def reads_features(self) -> bool:
        """True if some of it is made of features."""
        return "features" in self.fields or any("features" in marks_of(one).needs for one in self.scored.values())

    @property
    def reads_logits(self) -> bool:
        """True if some of it is made of logits, so that the head must run."""
        return bool(self.scored) or self.fields != ("features",)

    def due(self, memory: ScoreMemory, batch: Batch) -> Tensor:
        """Those of this rank's rows (d,), numbered in `batch`, on the host, whose entries are missing or old."""
        real = batch.host.real.nonzero().flatten()
        return real[memory.due([*self.scored, *self.fields], batch.host.rows[real], batch.epoch)]

    def update(
        self,
        memory: ScoreMemory,
        student: StudentView,
        batch: Batch,
        due: Tensor,
        forward: Callable[[StudentView, Batch, frozenset[str]], Outputs],
        needed: frozenset[str],
        parts: Parts,
    ) -> None:
        """Visit the rows `due` (d,) of this rank; every rank stores what all ranks found (collective).

        `needed`: outputs that `parts` reads, besides those at predictions and for features.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in [*self.scored, *self.fields]}
        if len(due):
            rows = batch.take(due)
            with student.timed("scoring"), student.inference_mode():
                whole = frozenset({"hidden"} if self.reads_features and not student.per_row else ())
                outputs = forward(student, rows, whole | needed)
                if "features" in self.fields:
                    found["features"].append(student.features(outputs).float())
                for part in parts(rows, outputs) if self.reads_logits else ():
                    for name, member in self.scored.items():
                        found[name].append(member(part.only(marks_of(member).needs)).double())
                    if "logits" in self.fields:
                        assert part.logits is not None
                        found["logits"].append(part.logits.float())
        ids = distributed.gather_rows(batch.host.rows[due])
        for name, values in found.items():
            empty = batch.rows.new_zeros(0, dtype=torch.float64)
            if name in self.fields:  # a rank without a due row learns the width from the others
                width = distributed.all_max(torch.tensor(values[0].shape[1] if values else 0))
                empty = batch.rows.new_zeros((0, int(width)), dtype=torch.float32)
            gathered = distributed.gather_rows(torch.cat([empty, *values]))
            if len(ids):
                memory.store(name, ids, batch.epoch, gathered)

    def scores(self, memory: ScoreMemory, arm: str, strategy: Strategy, evidence: Evidence) -> Tensor:
        """Scores (N,) by the arm in force of the rows of `evidence`, which gets the fields that were kept."""
        assert evidence.rows is not None
        rows = evidence.rows.cpu()
        for name in self.fields:
            setattr(evidence, name, memory.recall(name, rows).to(evidence.rows.device))
        return combined(
            strategy,
            [
                memory.recall(key(arm, name), rows)
                if key(arm, name) in self.scored
                else member(evidence.only(marks_of(member).needs)).cpu().double()  # a random draw, or by kept evidence
                for name, member in members_of(strategy).items()
            ],
        )


def key(arm: str, member: str) -> str:
    """A strategy's name in the memory (it is saved in checkpoints)."""
    return f"{arm.partition('@')[0]} {member}"  # of any ratio
