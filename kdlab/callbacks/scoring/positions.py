"""Selection of positions (`select.unit=position`): scores of every position with a label, from the training forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from kdlab.callbacks.scoring.importance import whole_units
from kdlab.callbacks.scoring.observed import ScoredLoss
from kdlab.methods.marks import marks_of, members_of
from kdlab.methods.selection.candidates import reads_student
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.scores import arm_scores
from kdlab.methods.selection.top_k import selection_size
from kdlab.modules.evidence.votes import Votes
from kdlab.modules.objective import units_of
from kdlab.modules.views import StudentView
from kdlab.runtime import distributed
from kdlab.runtime.seeding import generator
from kdlab.types import Batch, Evidence, Importance, Outputs, moved


class Chooser(Protocol):
    """The parts of `kdlab.callbacks.select.Select` that a `PositionSelection`, which it makes, reads."""

    unit: str
    all_ranks: bool
    selector: Any
    row_selector: RowSelector
    votes: Votes
    scored: ScoredLoss | None

    def parts(
        self, student: StudentView, batch: Batch, outputs: Outputs, whole: Evidence, voted: bool, units: bool = False
    ) -> Iterator[Evidence]:
        """Evidence of a few rows, or positions with `units`, of `batch` at a time."""
        ...

    def close_observation(self) -> None:
        """Close the batch under way of the observation that is made of the rows scored."""
        ...


class PositionSelection:
    """Selects positions from the outputs of the training forward, which runs on whole rows (`kdlab.types.PositionRule`).

    Each position with a label is a row of `Evidence`, so every strategy scores positions as it scores the rows of a task:
    its logits are those of the head, without dropout, at the state that the training forward has there; its features are
    that state. Scores are of all positions of the batch, of all ranks with `select.all_ranks`. Of each row the share
    `ratio` of its positions is kept with `per_row`, at least one; else that share of the positions of the batch. So SE-KD
    keeps the positions of the highest entropy (Tavor et al. 2026, arXiv 2602.01395).
    """

    def __init__(self, select: Chooser, student: StudentView, batch_idx: int, ratio: float, per_row: bool) -> None:
        self.select, self.student, self.batch_idx = select, student, batch_idx
        self.ratio, self.per_row = ratio, per_row
        reads = any("votes" in marks_of(member).needs for member in members_of(select.selector.rule).values())
        self.needed = select.votes.needed if reads else frozenset[str]()

    def __call__(
        self, batch: Batch, outputs: Outputs, importance: Importance | None
    ) -> tuple[Tensor, Importance | None]:
        select, selector = self.select, self.select.row_selector
        gather = select.all_ranks and distributed.world() > 1
        row, token = units_of(batch, "labelled")
        mask = torch.zeros_like(batch.host.labels, dtype=torch.bool)
        offset = (
            sum(distributed.gather_rows(torch.tensor([len(batch)])).tolist()[: distributed.rank()]) if gather else 0
        )
        own, group = batch.host.real[row], row + offset
        real, group = (distributed.gather_rows(each) if gather else each for each in (own, group))
        places = real.nonzero().flatten()
        weighted = selector.keeping.importance
        units = whole_units(batch) if weighted and importance is None else {}
        if len(places) == 0:
            self._close()
            return mask, importance

        def of_real(values: Tensor, pad: float | None = None) -> Tensor:
            return (distributed.gather_rows(values, pad) if gather else values)[moved(places, values.device)]

        rank = () if select.all_ranks else (distributed.rank(),)  # the same draw on any number of ranks
        draw = ("positions", self.batch_idx, *rank)
        keep = selection_size(len(places), self.ratio)
        evidence = Evidence(
            rows=of_real(batch.rows[moved(row, batch.rows.device)]),
            keep=keep,
            progress=self.student.progress,
            rng=generator(selector.seed, "select", *draw),
        )
        scores = self._scores(batch, outputs, evidence, of_real)
        found = selector.kept_units(scores, self.ratio, draw, group[places] if self.per_row else None)
        kept = places[found.rows]
        first = sum(distributed.gather_rows(torch.tensor([len(row)])).tolist()[: distributed.rank()]) if gather else 0
        mine = (kept >= first) & (kept < first + len(row))
        index = kept[mine] - first
        mask[row[index], token[index]] = True
        if found.weights is None:
            return mask, importance
        weights = torch.zeros(mask.shape, dtype=torch.float64)
        weights[row[index], token[index]] = found.weights[mine]
        if importance is None:
            return mask, Importance(weights, units)
        return mask, Importance(weights * importance.weights.to(weights).unsqueeze(1), importance.units)

    def _scores(self, batch: Batch, outputs: Outputs, evidence: Evidence, of_real: Callable[..., Tensor]) -> Tensor:
        """Scores (U,) by the arm in force of the real positions, of all ranks where they choose together."""
        select, student, arm = self.select, self.student, self.select.selector.rule
        needs = frozenset().union(*(marks_of(member).needs for member in members_of(arm).values()))
        row, token = (moved(place, batch.rows.device) for place in units_of(batch, "labelled"))
        if "labels" in needs:
            evidence.labels = of_real(batch.labels[row, token])
        scored = select.scored if select.unit == "position" else None  # with "both", rows were chosen by their scores
        if not reads_student(arm) and not (scored is not None and scored.taking):
            self._close()
            return arm_scores(arm, evidence, ())
        part = "scoring" if reads_student(arm) else "observation"
        with student.timed(part), student.inference_mode():
            if "features" in needs:
                evidence.features = of_real(student.student.vectors(outputs, row, token).float())
            parts = select.parts(student, batch, outputs, evidence, "votes" in needs, True)
            scores = arm_scores(arm, evidence, parts if reads_student(arm) else (), of_real)
            if scored is not None:  # of an arm that reads no logits
                scored.take_all(student.evidence(batch, outputs, "observation", True), batch.real[row])
        self._close()
        return scores

    def _close(self) -> None:
        """Close the batch under way of an observation that is made of the positions scored (collective)."""
        if self.select.unit == "position":
            self.select.close_observation()
