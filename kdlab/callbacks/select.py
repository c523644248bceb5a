"""`Select`: which rows of a batch query the teacher?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from kdlab.callbacks.decision import DecisionCallback
from kdlab.callbacks.scoring.ahead import OutputsAhead, runs_together
from kdlab.callbacks.scoring.importance import importance, own_part, whole_units
from kdlab.callbacks.scoring.observed import ScoredLoss
from kdlab.callbacks.scoring.positions import PositionSelection
from kdlab.callbacks.scoring.rows import own_rows, scored_rows, share_out
from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.callbacks.scoring.stale import VisitRecord
from kdlab.callbacks.selectable import OwnModule, missing_methods
from kdlab.errors import UserError
from kdlab.methods.marks import marks_of, members_of
from kdlab.methods.selection.candidates import candidates, reads_student
from kdlab.methods.selection.keeping import classed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.scores import arm_scores
from kdlab.methods.selection.strategies import Strategy
from kdlab.methods.selection.top_k import selection_size
from kdlab.models.sharding.trained import is_sharded
from kdlab.modules.evidence.teacher_answers import TeacherEvidence
from kdlab.modules.evidence.votes import Votes
from kdlab.modules.objective import units_of
from kdlab.modules.views import StudentView
from kdlab.runtime import distributed
from kdlab.runtime.seeding import generator
from kdlab.types import IGNORE, Batch, Evidence, Outputs, moved

Forward = Callable[[StudentView, Batch, frozenset[str]], Outputs]  # student, rows, needed outputs -> its outputs


def full_forward(student: StudentView, batch: Batch, needed: frozenset[str] = frozenset()) -> Outputs:
    """The outputs of all layers of the student (`Forward`), for scoring."""
    return student.encode(batch, "scoring", needed)


class Select(DecisionCallback):
    """Keeps the share of each batch that `selector` selects (`kdlab.Selector` makes one by its name).

    The module is a `StudentModule`, or any other that offers `kdlab.SelectableModule`: its training step then gets the
    rows kept, each rank's best of its own rows, and the arguments below do not apply. `scope` "global": the best rows
    of the whole global batch, then shared out evenly, so any number of ranks keeps the same rows; "local": the best of
    each rank's own. At ratio 1 it does nothing, and the run is plain distillation bit for bit. `forward`: the student's
    outputs for scoring (`full_forward`, or `kdlab.modules.early_exit.EarlyExit`). With a `memory` only rows without a
    recent score, or recent evidence, run (`kdlab.callbacks.scoring.stale`). Of `selector.look` below 1 a random share of the rows runs, the same
    on any number of ranks with `scope` "global"; a strategy that reads no output of the student has all rows to choose from.
    `others`: evidence of other models than the student (None: that of the module's teacher). `scored`: the observation
    that is made of the rows scored; where an arm scores none, a forward of as many rows is run for it.
    `unit` "position": of all rows the selector's share of the positions with a label is kept (`PositionSelection`, with
    `per_row`); "both": rows first, then the share `positions` of theirs.
    """

    def __init__(
        self,
        selector: RowSelector,
        scope: str = "global",
        forward: Forward = full_forward,
        memory: ScoreMemory | None = None,
        votes: Votes | None = None,
        others: TeacherEvidence | None = None,
        scored: ScoredLoss | None = None,
        unit: str = "row",
        positions: float = 1.0,
        per_row: bool = True,
    ) -> None:
        super().__init__(selector)
        self.unit, self.positions, self.per_row = unit, positions, per_row
        self.row_selector, self.ratio, self.look = selector, selector.ratio, selector.look
        self.others, self.scored = others or TeacherEvidence(), scored
        self._consulted: Tensor | None = None  # ids of this rank's rows whose teacher's answers were read for scoring
        self.all_ranks = scope == "global"
        self.forward, self.memory, self.votes = forward, memory, votes or Votes()
        self.weights: Tensor | None = None  # importance weights (k,) of the rows that `chosen` returned last
        self.ahead = OutputsAhead()
        self._own: OwnModule | None = None  # for a module that is no StudentView

    @property
    def state_key(self) -> str:
        return "Select"

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state |= {} if self.memory is None else {"memory": self.memory.state_dict()}
        return state if self.scored is None else {**state, "scored": self.scored.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.memory is not None:
            self.memory.load_state_dict(state_dict["memory"])
        if self.scored is not None:
            self.scored.load_state_dict(state_dict["scored"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.ratio < 1:
            self.row_selector.require_observe()
        if hasattr(pl_module, "labels_on_all"):
            return
        if missing := missing_methods(pl_module):
            raise UserError(
                f"Select needs a kdlab.StudentModule, or a module that offers kdlab.SelectableModule: "
                f"{type(pl_module).__name__} has no {' and no '.join(missing)} (docs/python.md)"
            )
        if self.unit != "row":
            raise UserError(
                f"select.unit={self.unit}: {type(pl_module).__name__} computes its own loss, of all positions of its rows; a "
                "kdlab.StudentModule selects positions"
            )
        if self.row_selector.keeping.importance:
            raise UserError(
                f"importance=true: {type(pl_module).__name__} computes its own loss, which these weights do not reach; take the "
                "rows in your own loop (kdlab.Selector, whose `weights` are those of its rows), or importance=false"
            )
        self._own = OwnModule()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._own is not None and self.ratio < 1:
            self._own.begin(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._own is not None:
            self._own.end(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.ratio < 1 and self._own is not None:
            self._own.select(self.row_selector, trainer, pl_module, batch, batch_idx)
        elif self.ratio < 1:
            if self.scored is not None:
                self.scored.begin(self.row_selector.steps_left(trainer.global_step), trainer.accumulate_grad_batches)
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    # ---- the rows

    def answer(self, student: StudentView, batch: Batch, batch_idx: int) -> None:
        assert batch.plan is not None
        if self.unit != "row":
            share = self.row_selector.share if self.unit == "position" else self.positions
            batch.plan.positions = PositionSelection(self, student, batch_idx, share, self.per_row)
        if self.unit == "position":
            return
        if (
            student.labels_on_all
            and self.forward is full_forward
            and self.memory is None
            and reads_student(self.selector.rule)
        ):
            batch.plan.select = StepSelection(self, student, batch_idx)
            return
        gather = self.all_ranks and distributed.world() > 1
        if batch.following:
            self._run_ahead(student, batch, batch_idx, gather)
        chosen = self.chosen(student, batch, batch_idx)
        units = whole_units(batch) if self.row_selector.keeping.importance else {}
        part: Tensor | None = None
        if gather and student.labels_on_all:  # every rank keeps its rows, for their labels
            batch.plan.rows = own_rows(batch, chosen)
            part = own_part(batch.plan.rows)
        elif gather:
            part = share_out(batch, chosen)
        else:
            batch.plan.rows = chosen
        batch.plan.importance = importance(self.weights, part, units)

    def chosen(self, student: StudentView, batch: Batch, batch_idx: int, outputs: Outputs | None = None) -> Tensor:
        """The selected rows (k,), ascending, of the global batch, or of this rank's with `scope` "local", on the host
        (collective).

        `outputs`: the student's for `batch`, to be scored (None: those of `forward`).
        """
        gather = self.all_ranks and distributed.world() > 1
        real, drawn = self._candidates(batch, batch_idx, gather)
        if len(real) == 0:
            if self.row_selector.facts is not None:
                self.row_selector.facts.scored(None)
            self.close_observation()
            self.weights = None
            return torch.zeros(1, dtype=torch.long)  # an idle rank keeps its one unreal row
        rank = () if self.all_ranks else (distributed.rank(),)  # the same draw on any number of ranks
        rows, keep, places = len(real), selection_size(len(real), self.row_selector.share), real
        every, whole, ahead = real, batch, self.ahead.take(batch_idx, batch)
        if drawn is not None:
            real = real[drawn]
            batch, outputs = scored_rows(batch, outputs, own_rows(batch, real) if gather else real)
            places = (distributed.gather_rows(batch.host.real) if gather else batch.host.real).nonzero().flatten()
        rng = generator(self.selector.seed, "select", batch_idx, *rank)
        scores = self._scores(student, batch, gather, places, rng, keep, outputs or ahead)
        if self.scored is not None and self.scored.taking and not reads_student(self.selector.rule):
            few = real[candidates(rows, self.look, keep, generator(self.selector.seed, "look", batch_idx, *rank))]
            self._observe(student, scored_rows(batch, None, own_rows(batch, few) if gather else few)[0])
        self.close_observation()
        found = self.row_selector.kept(scores, rows, drawn, (batch_idx, *rank))
        self.weights, kept = found.weights, every[found.rows]
        if gather and self.others.reads_teacher(self._needs()):
            student.share_queried_rows()  # kept rows may move to a rank that has not scored them
        if student.ledger is not None and self.others.reads_teacher(self._needs()):
            own = own_rows(whole, kept) if gather else kept
            unkept = 0 if self._consulted is None else int((~torch.isin(self._consulted, whole.host.rows[own])).sum())
            student.ledger.count_unkept(student.teacher_names[-1], unkept)
        return kept

    def _candidates(self, batch: Batch, batch_idx: int, gather: bool) -> tuple[Tensor, Tensor | None]:
        """The real rows (N,) of the global batch (or of this rank's), on the host, and the places among them of the share
        that is scored (None: all, or none is); collective with `gather`."""
        real = (distributed.gather_rows(batch.host.real) if gather else batch.host.real).nonzero().flatten()
        if len(real) == 0 or self.look == 1 or not reads_student(self.selector.rule):
            return real, None
        rank = () if self.all_ranks else (distributed.rank(),)
        keep = selection_size(len(real), self.row_selector.share)
        rng = generator(self.selector.seed, "look", batch_idx, *rank)
        return real, candidates(len(real), self.look, keep, rng)

    def _run_ahead(self, student: StudentView, batch: Batch, batch_idx: int, gather: bool) -> None:
        """Run the student for scoring on the micro-batches of the optimizer step that `batch` begins (collective).

        Not where one forward may not (`runs_together`), where a memory has few of the rows run, or where the strategy reads
        no output."""
        if self.memory is not None or not reads_student(self.selector.rule):
            return
        if not runs_together(student.student.execution, is_sharded(student.student)):
            return
        parts: list[Batch | None] = []
        batches = (batch, *batch.following)
        for number, each in enumerate(batches, batch_idx):
            real, drawn = self._candidates(each, number, gather)
            if drawn is not None:
                rows = real[drawn]
                each = scored_rows(each, None, own_rows(each, rows) if gather else rows)[0]
            parts.append(each if len(real) else None)
        needed = needed_outputs(self.selector.rule, student.per_row, self.votes)
        with student.timed("scoring"), student.inference_mode():
            self.ahead.run(batch_idx, batches, parts, lambda rows: self.forward(student, rows, needed))

    def close_observation(self) -> None:
        """Close the batch under way of the observation that is made of the rows scored (collective)."""
        if self.scored is not None:
            self.scored.close()

    def _needs(self) -> frozenset[str]:
        """Fields of `Evidence` that the current arm reads; with a memory, which serves all arms, those of all."""
        every = self.memory is not None and reads_student(self.selector.rule)
        arms = self.row_selector.arms.values() if every else [self.selector.rule]
        return frozenset().union(*(marks_of(member).needs for arm in arms for member in members_of(arm).values()))

    def _scores(
        self,
        student: StudentView,
        batch: Batch,
        gather: bool,
        real: Tensor,
        rng: torch.Generator,
        keep: int,
        outputs: Outputs | None,
    ) -> Tensor:
        """Scores (N,) by the current arm of the real rows, at `real` (N,), on the host, of the global batch (or of this
        rank's), of which `keep` will be kept."""
        arm: Strategy = self.selector.rule
        members = members_of(arm)

        def of_real(rows: Tensor, pad: float | None = None) -> Tensor:
            return (distributed.gather_rows(rows, pad) if gather else rows)[moved(real, rows.device)]

        source = batch if reads_student(arm) else batch.host  # a score that no model has a part in is made on the host
        evidence = Evidence(rows=of_real(source.rows), keep=keep, progress=student.progress, rng=rng)
        needs = {name: marks_of(member).needs for name, member in members.items()}
        if any("labels" in fields for fields in needs.values()):
            labels, mask = _labels(source)
            evidence.labels = of_real(labels, IGNORE)
            evidence.mask = None if mask is None else of_real(mask, 0)
        if not reads_student(arm):
            return arm_scores(arm, evidence, ())
        if self.memory is None:
            return self._fresh_scores(student, batch, arm, evidence, of_real, outputs)
        arms = self.row_selector.arms
        record = VisitRecord.of({name: classed(arms[name], self.row_selector.keeping.balance) for name in arms})
        voted = _reads_votes(record.scored)
        needed = self.votes.needed if voted else frozenset()
        due = record.due(self.memory, batch)
        self._consulted = batch.host.rows[due]
        if len(due) == 0:
            self.others.skip(student, self._needs())
        record.update(
            self.memory, student, batch, due, self.forward, needed,
            lambda rows, got: self.parts(student, rows, got, evidence, voted),
        )  # fmt: skip
        return record.scores(self.memory, str(self.selector.arm), arm, evidence)

    def _fresh_scores(
        self,
        student: StudentView,
        batch: Batch,
        arm: Strategy,
        evidence: Evidence,
        of_real: Callable[..., Tensor],
        outputs: Outputs | None,
    ) -> Tensor:
        """Scores (N,) by `arm` from `outputs`, or from a forward now. Rowwise strategies score a few rows at a time,
        before the logits of the batch are gathered; `evidence` gets the rest. `of_real` gathers rows of all ranks and
        takes the real ones."""
        features = any("features" in marks_of(member).needs for member in members_of(arm).values())
        self._consulted = batch.host.rows[batch.host.real]
        with student.timed("scoring"), student.inference_mode():
            outputs = outputs or self.forward(student, batch, needed_outputs(arm, student.per_row, self.votes))
            if features:
                evidence.features = of_real(student.features(outputs))
            parts = self.parts(student, batch, outputs, evidence, _reads_votes(members_of(arm)))
            scores = arm_scores(arm, evidence, parts, of_real)
            if self.scored is not None:  # of an arm that reads no logits
                self.scored.take_all(student.evidence(batch, outputs, "observation"), batch.real)
            return scores

    def _observe(self, student: StudentView, batch: Batch) -> None:
        """Run the rows of `batch` for the observation, where the arm in force scores none."""
        assert self.scored is not None
        with student.timed("observation"), student.inference_mode():
            outputs = student.encode(batch, "observation", frozenset())
            self.scored.take_all(student.evidence(batch, outputs, "observation"), batch.real)

    def parts(
        self, student: StudentView, batch: Batch, outputs: Outputs, whole: Evidence, voted: bool, units: bool = False
    ) -> Iterator[Evidence]:
        """Evidence of a few rows of `batch` at a time, or with `units` of a few positions, with the facts of the `whole`
        selection; `voted`: with the votes of a committee."""
        real = batch.real
        if units:
            real = real[moved(units_of(batch, "labelled")[0], real.device)]
        first, facts = 0, self.row_selector.facts
        scored = None if units and self.unit == "both" else self.scored  # whose rows were chosen by their scores
        others = self.votes(student, batch, outputs, whole.rng) if voted else []
        committee = [student.evidence(batch, each, "scoring", units) for each in (outputs, *others)]
        own = self.others.complete(student, batch, committee[0], self._needs(), units)
        for part, *more in zip(own, *committee[1:], strict=True):
            exists = _existing(part, real[first : first + len(part)])
            first += len(part)
            if facts is not None and part.logits is not None:
                facts.predicted(part.logits, exists)
            if scored is not None:
                scored.take(part, exists)
            votes = torch.stack([member.logits for member in (part, *more)]) if voted else None  # pyright: ignore
            yield replace(part, votes=votes, keep=whole.keep, progress=whole.progress, rng=whole.rng)


class StepSelection:
    """Selects rows from the outputs of the training forward, which runs on all rows (`kdlab.types.RowRule`).

    As in Dynamic KD's public code, with one difference: its scores are of the training logits; these are of the
    training forward's states, with dropout, and of the head without dropout, as adoption and weighing rules read them.
    """

    def __init__(self, select: Select, student: StudentView, batch_idx: int) -> None:
        self.select, self.student, self.batch_idx = select, student, batch_idx
        self.needed = needed_outputs(select.selector.rule, student.per_row, select.votes)

    def __call__(self, batch: Batch, outputs: Outputs) -> Tensor:
        chosen, part = self.select.chosen(self.student, batch, self.batch_idx, outputs), None
        if self.select.all_ranks and distributed.world() > 1:
            chosen = own_rows(batch, chosen)
            part = own_part(chosen)
        if self.select.row_selector.keeping.importance and batch.plan is not None:
            batch.plan.importance = importance(self.select.weights, part, whole_units(batch))
        return chosen


def _existing(part: Evidence, real: Tensor) -> Tensor:
    """The predictions of `part` that exist, (n,) or (n, P) bool; `real` (n,): the rows that do."""
    return real if part.mask is None else part.mask.bool() & real.to(part.mask.device).unsqueeze(1)


def needed_outputs(arm: Strategy, per_row: bool, votes: Votes) -> frozenset[str]:
    """Outputs of the student that the evidence of `arm` is made of, besides those at predictions."""
    needs = frozenset().union(*(marks_of(member).needs for member in members_of(arm).values()))
    whole = frozenset({"hidden"} if "features" in needs and not per_row else ())
    return whole | (votes.needed if "votes" in needs else frozenset())


def _reads_votes(strategies: Mapping[str, Strategy]) -> bool:
    return any("votes" in marks_of(strategy).needs for strategy in strategies.values())


def _labels(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Labels of `batch` for strategies: (B,), or in masked-LM (B, P) with the mask (B, P) of those that exist."""
    if batch.labels.ndim == 1:
        return batch.labels, None
    places, exists = batch.label_places()
    return batch.labels.gather(1, places), exists
