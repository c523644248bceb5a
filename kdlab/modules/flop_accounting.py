"""FLOPs of what a distiller has run: encoders by the tokens that were executed, heads by the units that have logits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from kdlab.methods.knowledge.base import on_logits, queries_teacher
from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.modules.objective import TeacherAnswer, WeightedTerm, units_of, wanted_by
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch


class FlopCounter:
    """Counts what a student and its teachers run. `together`: plain distillation asks all teachers, not the last alone.

    `wanted` is what else than logits is read, as `Encoder.encode` takes it; it decides how much of the last layer runs.
    """

    def __init__(self, student: Encoder, teachers: Sequence[Teacher], together: bool) -> None:
        self.student, self.teachers, self.together = student, teachers, together
        self.shape = shape_of(student)
        self.teacher_shapes = [shape_of(teacher.encoder) for teacher in teachers]

    def step(
        self,
        meter: Ledger,
        terms: Mapping[str, WeightedTerm],
        batch: Batch,
        heard: Sequence[TeacherAnswer],
        wanted: frozenset[str],
    ) -> None:
        """Enter a step on `batch`, forward and backward, and what the teachers of `heard` ran for it."""
        student = _forward(self.student, self.shape, batch, _logits_at(terms.values()), wanted)
        meter.flops("student_forward", student)
        meter.flops("student_backward", 2 * student)
        meter.flops("teacher_forward", self.heard(heard, _told_at(terms.values()), wanted))

    def doubts(self, meter: Ledger, query: Batch, at: str, seen: bool, heard: Sequence[TeacherAnswer]) -> None:
        """Enter the heads that ran for uncertainties at `at`: the student's, if `seen`, and those of `heard` models."""
        if seen:
            meter.flops("student_forward", _head(self.student, self.shape, query, [at]))
        for h in (h for h in heard if h.units is None):
            meter.flops("teacher_forward", _head(h.teacher.encoder, self.teacher_shapes[h.place], query, [at]))

    def heard(self, heard: Sequence[TeacherAnswer], told: Collection[str], wanted: frozenset[str]) -> int:
        """Of the forwards behind what was heard, with logits of the units of `told`, or all that a cache keeps."""
        spent = 0
        for h in heard:
            kept = h.teacher.cache.keeps if h.units is not None and h.teacher.cache is not None else None
            at, reads = (told, wanted) if kept is None or kept.logits is None else ({kept.logits}, kept.reads)
            spent += sum(_forward(h.teacher.encoder, self.teacher_shapes[h.place], b, at, reads) for b in h.ran)
        return spent

    def answers(self, terms: Iterable[WeightedTerm], heard: Sequence[TeacherAnswer], wanted: frozenset[str]) -> int:
        """Of the teachers' forwards behind `heard`, with the logits that `terms` read of them."""
        return self.heard(heard, _told_at(terms), wanted)

    def plain(self, terms: Collection[WeightedTerm], batch: Batch) -> tuple[int, int]:
        """Of one forward of plain distillation on `batch`, the student's and the teachers'."""
        wanted = wanted_by(terms, self.student.per_row)
        student = _forward(self.student, self.shape, batch, _logits_at(terms), wanted)
        if not any(queries_teacher(w.term) for w in terms):
            return student, 0
        asked = list(zip(self.teachers, self.teacher_shapes, strict=True))[0 if self.together else -1 :]
        told = _told_at(terms)
        return student, sum(_forward(teacher.encoder, shape, batch, told, wanted) for teacher, shape in asked)

    def layers(self, batch: Batch, wanted: frozenset[str] = frozenset()) -> int:
        """Of the student's layers on `batch`; the head runs when it is asked (`head`)."""
        return flops.encoder(self.shape, *self.student.executed(batch, wanted))

    def head(self, units: int) -> int:
        """Of the student's head on so many units: rows of a classifier, positions of text."""
        if self.student.per_row:
            return flops.classifier_head(self.shape, units, self.shape.outputs or 1)
        return flops.masked_lm_head(self.shape, units)


def shape_of(encoder: Encoder) -> flops.EncoderShape:
    """What the FLOPs of an encoder depend on, its classifier included where it has one."""
    return flops.shape_of(encoder.model.config, encoder.model.config.num_labels if encoder.per_row else None)


def _logits_at(terms: Iterable[WeightedTerm]) -> set[str]:
    return {w.at for w in terms if on_logits(w.term)}


def _told_at(terms: Iterable[WeightedTerm]) -> set[str]:
    return {w.at for w in terms if on_logits(w.term) and queries_teacher(w.term)}


def _forward(
    encoder: Encoder, shape: flops.EncoderShape, batch: Batch, at: Collection[str], wanted: frozenset[str]
) -> int:
    return flops.encoder(shape, *encoder.executed(batch, wanted)) + _head(encoder, shape, batch, at)


def _head(encoder: Encoder, shape: flops.EncoderShape, batch: Batch, at: Iterable[str]) -> int:
    if encoder.per_row:
        return flops.classifier_head(shape, len(batch), shape.outputs or 1)
    return flops.masked_lm_head(shape, sum(int(units_of(batch, a)[0].numel()) for a in at))
