"""Evidence that comes from other models than the student: the teacher's logits, the loss of a reference model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdlab.methods.selection import strategies
from kdlab.models.encoder import Encoder
from kdlab.modules.evidence.outputs import evidence_of, unit_evidence
from kdlab.modules.flop_accounting import FlopCounter
from kdlab.modules.objective import units_of
from kdlab.modules.views import StudentView
from kdlab.teachers.cache.cache import CacheLookup
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Evidence, moved

TEACHER_FIELDS = frozenset({"teacher", "reference_loss"})  # of Evidence: those that this module gives


@dataclass(frozen=True)
class TeacherRows:
    """A `teacher`'s answer about the rows of `batch`; its logits are expanded for some of the rows at a time.

    `per_row`: it is a classifier. `chunk`: units of text with logits at a time.
    """

    teacher: Teacher
    lookup: CacheLookup
    batch: Batch
    per_row: bool
    chunk: int

    def unit_logits(self, part: slice) -> Tensor:
        """Logits (n, C) of the positions in `part`, of all positions with a label in order."""
        row, token = units_of(self.batch, "labelled")
        of = self.teacher.logits(self.lookup.outputs, self.lookup.logits, row[part], token[part])
        return of(slice(None))

    def logits(self, part: slice) -> Tensor:
        """Logits (n, C) of the rows in `part`, or (n, P, C) at the masked positions of all rows, 0 where none exists."""
        rows = torch.arange(len(self.batch))[part]
        if self.per_row:
            of = self.teacher.logits(self.lookup.outputs, self.lookup.logits, rows, torch.zeros_like(rows))
            return of(slice(None))
        places, exists = (each[part] for each in self.batch.host.label_places())
        row = rows.unsqueeze(1).expand_as(places)[exists]
        of = self.teacher.logits(self.lookup.outputs, self.lookup.logits, row, places[exists])
        found = torch.cat([of(slice(i, i + self.chunk)) for i in range(0, max(1, len(row)), self.chunk)])
        units = moved(exists.flatten().nonzero().squeeze(1), found.device)
        return found.new_zeros(exists.numel(), found.shape[-1]).index_copy(0, units, found).unflatten(0, places.shape)


class TeacherEvidence:
    """Completes the student's evidence by what strategies read of other models.

    "teacher": the logits of the largest teacher, from its cache if it has one. "reference_loss": the cross-entropy of the
    labels under `reference`, a frozen model that runs for each batch (None: under the teacher).
    """

    def __init__(self, reference: Encoder | None = None) -> None:
        self.reference = None if reference is None else reference.eval().requires_grad_(False)
        self._counter = None if reference is None else FlopCounter(reference, (), False)

    def reads_teacher(self, needs: frozenset[str]) -> bool:
        """True where the fields `needs` take the teacher's answers."""
        return "teacher" in needs or ("reference_loss" in needs and self.reference is None)

    def complete(
        self,
        student: StudentView,
        batch: Batch,
        parts: Iterable[Evidence],
        needs: frozenset[str],
        units: bool = False,
    ) -> Iterator[Evidence]:
        """The `parts` of the evidence of `batch`, in order, with those of `TEACHER_FIELDS` that are in `needs`. `units`: each
        is of positions, not of rows."""
        if not needs & TEACHER_FIELDS:
            yield from parts
            return
        rows = student.teacher_rows(batch) if self.reads_teacher(needs) else None
        wants_loss = "reference_loss" in needs
        references = self._references(student, batch, units) if wants_loss and self.reference is not None else iter(())
        start = 0
        for part in parts:
            end = start + len(part)
            logits = None if rows is None else (rows.unit_logits if units else rows.logits)(slice(start, end))
            if wants_loss:
                judged = replace(part, logits=logits) if self.reference is None else next(references)
                part = replace(part, reference_loss=strategies.loss(judged))
            yield replace(part, teacher=logits) if "teacher" in needs else part
            start = end

    def skip(self, student: StudentView, needs: frozenset[str]) -> None:
        """Join the queries of other ranks to a shared teacher, on a rank that has no row to complete (collective)."""
        if self.reads_teacher(needs):
            student.teacher_rows(None)

    def _references(self, student: StudentView, batch: Batch, units: bool) -> Iterator[Evidence]:
        """Evidence with the reference's logits, in the same parts as the student's."""
        assert self.reference is not None and self._counter is not None
        counter = self._counter
        outputs = self.reference.to(student.device).encode(batch)
        student.count_flops("scoring", counter.student_layers(batch))

        def count(units: int) -> None:
            student.count_flops("scoring", counter.student_head(units))

        of = unit_evidence if units else evidence_of
        yield from of(self.reference, batch, outputs, student.chunk, count)
