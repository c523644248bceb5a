"""Cost of choosing the rows of a batch: forwards for scoring, and answers of the teacher that strategies read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from kdlab.callbacks.scoring.ahead import passes, runs_together
from kdlab.callbacks.select import needed_outputs
from kdlab.config.groups.select import SelectConfig
from kdlab.methods.marks import FORWARD, marks_of, members_of
from kdlab.methods.selection.candidates import reads_student
from kdlab.methods.selection.keeping import classed
from kdlab.methods.selection.scores import PARTS
from kdlab.models import flops
from kdlab.models.batch_counts import counts_of
from kdlab.modules.evidence.votes import Votes
from kdlab.modules.flop_accounting import FlopCounter
from kdlab.modules.student import StudentModule
from kdlab.stages import components
from kdlab.stages.base import Stage
from kdlab.stages.costs.step_cost import StepCost
from kdlab.stages.teachers import teacher_reading
from kdlab.types import Batch


class ScoringCosts:
    """The costs of scoring rows of a training of `module` with the settings `select`."""

    def __init__(self, stage: Stage, module: StudentModule, select: SelectConfig) -> None:
        self.stage, self.module, self.select = stage, module, select
        self.counter: FlopCounter = module.distillation.flops

    @cached_property
    def arms(self) -> list[Any]:
        """The strategies of the run; none where every row is kept."""
        arms = [] if self.select.ratio == 1 else list(self.stage.selection().arms.values())
        return [classed(arm, self.select.balance) for arm in arms]

    @cached_property
    def votes(self) -> Votes:
        """The committee of the run's strategies."""
        return Votes(self.select.votes)

    @cached_property
    def reads_teacher(self) -> bool:
        """True where the largest teacher's answers to all rows are read before a step, so that training finds them cached."""
        return teacher_reading.reads_teacher(self.select, self.stage.selection())

    def answers(self, batch: Batch) -> StepCost:
        """FLOPs of the largest teacher's answers to all rows of a batch, where a strategy reads them."""
        if not self.reads_teacher:
            return StepCost()
        loss = self.module.distillation
        needed = loss.needed(loss.terms)  # a cache stores them for the training step
        flops = self.counter.teacher([], batch, len(self.module.teachers) - 1, needed, uncertain=True)
        return StepCost(0, {"teacher_forward": flops})

    def scored_share(self, drawn: float) -> float:
        """Share of the rows of a batch that are scored after the first visits, if the share `drawn` of them is drawn.

        A stale score lasts `refresh` epochs, and then until its row is drawn again: (1 - drawn) / drawn more on average.
        """
        return 1 / (self.select.refresh + (1 - drawn) / drawn) if self.select.scoring == "stale" else drawn

    @cached_property
    def _reference(self) -> FlopCounter | None:
        return teacher_reading.reference_counter(self.stage)

    def scoring(self, arm: Any, batch: Batch) -> float:
        """FLOPs of scoring all rows of `batch` by an arm."""
        return self._scoring(arm, batch, self.select.unit == "position")

    def layers(self, arm: Any, batch: Batch) -> float:
        """FLOPs of the layers of the student in a forward that scores `batch` by an arm; 0 where no such forward runs."""
        return self._plain_scoring(arm, batch, 0) if reads_student(arm) and self.select.unit != "position" else 0.0

    def layers_together(self, arm: Any, batches: Sequence[Batch]) -> float:
        """The same for the micro-batches of an optimizer step. Packed together they have less padding, and longer rows."""
        together = runs_together(self.module.student.execution, self.stage.config.trainer.shard_student)
        if self.select.scoring == "stale" or not together:
            return sum(self.layers(arm, batch) for batch in batches)
        most = max(counts_of(batch).tokens for batch in batches)
        return sum(self.layers(arm, Batch.joined(batches[some])) for some in passes(len(batches), most))

    def positions(self, arm: Any, rows: Batch) -> float:
        """FLOPs of scoring the positions of the `rows` that are kept; 0 where rows alone or positions alone are chosen."""
        return self._scoring(arm, rows, True) if self.select.unit == "both" else 0.0

    def _scoring(self, arm: Any, batch: Batch, in_training: bool) -> float:
        """FLOPs of scoring `batch` by an arm; `in_training`: from the training forward, whose layers count there."""
        needs = frozenset().union(*(marks_of(member).needs for member in members_of(arm).values()))
        if not needs & FORWARD:
            return 0.0
        units = len(batch) if self.module.per_row else int(batch.labelled().sum())
        head = self.counter.student_head(units) if needs & PARTS else 0
        if "reference_loss" in needs and self._reference is not None:
            head += self._reference.student_layers(batch) + self._reference.student_head(units)
        source, votes = self.votes.source, 0.0
        if "votes" in needs and isinstance(source, int):
            votes = float(source * (self.counter.student_layers(batch) + head))
        elif "votes" in needs:
            votes = float((self.module.shape.layers - 1) * head)
        return votes + (head if in_training else self._plain_scoring(arm, batch, head))

    def _plain_scoring(self, arm: Any, batch: Batch, head: float) -> float:
        """FLOPs of the student's own forward on a global batch for an arm, `head` of them in its head."""
        if self.module.labels_on_all and self.select.scoring == "fresh":  # scored from the training forward
            return head
        needed, shape = needed_outputs(arm, self.module.per_row, self.votes), self.module.shape
        if self.select.scoring == "early_exit":
            shape = replace(shape, layers=components.exit_layer(self.select, shape.layers))
            return flops.encoder(shape, *self.module.student.executed(batch, needed)) + head
        return self.counter.student_layers(batch, needed) + head
