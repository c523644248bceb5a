"""FLOPs of a training step: encoders by the tokens they run on, heads by the units that have logits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from kdlab.methods.knowledge.base import on_logits, queries_teacher
from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.modules.objective import TeacherAnswer, WeightedTerm, needed_outputs, units_of
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch


class FlopCounter:
    """Counts the FLOPs of a student and its teachers. `query_all`: plain distillation queries all teachers, not the last.

    `needed`, in all methods, are the outputs read besides logits, as `Encoder.encode` takes them: they decide how much of
    the last layer runs. `shape`, `teacher_shapes`: the models, as FLOPs depend on them.
    """

    def __init__(self, student: Encoder, teachers: Sequence[Teacher], query_all: bool) -> None:
        self.student, self.teachers, self.query_all = student, teachers, query_all
        self.shape = shape_of(student)
        self.teacher_shapes = [shape_of(teacher.encoder) for teacher in teachers]

    def record_step(
        self,
        ledger: Ledger,
        terms: Mapping[str, WeightedTerm],
        batch: Batch,
        answers: Sequence[TeacherAnswer],
        needed: frozenset[str],
    ) -> None:
        """Enter a step on `batch` into the ledger: forward and backward, and the teachers' forwards for `answers`."""
        student = _forward(self.student, self.shape, batch, _logit_units(terms.values()), needed)
        ledger.flops("student_forward", student)
        ledger.flops("student_backward", 2 * student)
        ledger.flops("teacher_forward", self.teacher_forwards(terms.values(), answers, needed))

    def record_uncertainty(
        self, ledger: Ledger, queried: Batch, at: str, student: bool, answers: Sequence[TeacherAnswer], samples: int = 0
    ) -> None:
        """Enter the heads that ran for uncertainties at units `at`: the `student`'s, and those behind `answers`, or the
        `samples` whole forwards with dropout of each of their teachers."""
        if student:
            ledger.flops("student_forward", _head(self.student, self.shape, queried, [at]))
        if samples:
            for a in answers:
                forward = _forward(a.teacher.encoder, self.teacher_shapes[a.number], queried, [at], frozenset())
                ledger.flops("teacher_forward", samples * forward)
            return
        for a in (a for a in answers if a.cached_logits is None):
            ledger.flops("teacher_forward", _head(a.teacher.encoder, self.teacher_shapes[a.number], queried, [at]))

    def teacher_forwards(
        self, terms: Iterable[WeightedTerm], answers: Sequence[TeacherAnswer], needed: frozenset[str]
    ) -> int:
        """FLOPs of the forwards behind `answers`, with the logits that `terms` read, or all that a cache stores."""
        units = {w.at for w in terms if on_logits(w.term) and queries_teacher(w.term)}
        total = 0
        for a in answers:
            spec = a.teacher.cache.spec if a.cached_logits is not None and a.teacher.cache is not None else None
            at, reads = (units, needed) if spec is None or spec.logits is None else ({spec.logits}, spec.reads)
            total += sum(_forward(a.teacher.encoder, self.teacher_shapes[a.number], b, at, reads) for b in a.forwards)
        return total

    def plain_forward(self, terms: Collection[WeightedTerm], batch: Batch) -> tuple[int, int]:
        """FLOPs of one forward of plain distillation on `batch`: the student's and the teachers'."""
        needed = needed_outputs(terms, self.student.per_row)
        student = _forward(self.student, self.shape, batch, _logit_units(terms), needed)
        if not any(queries_teacher(w.term) for w in terms):
            return student, 0
        queried = list(zip(self.teachers, self.teacher_shapes, strict=True))[0 if self.query_all else -1 :]
        units = {w.at for w in terms if on_logits(w.term) and queries_teacher(w.term)}
        return student, sum(_forward(teacher.encoder, shape, batch, units, needed) for teacher, shape in queried)

    def student_layers(self, batch: Batch, needed: frozenset[str] = frozenset()) -> int:
        """FLOPs of the student's layers on `batch`, without its head (`student_head`)."""
        return flops.encoder(self.shape, *self.student.executed(batch, needed))

    def student_head(self, units: int) -> int:
        """FLOPs of the student's head on so many units: rows of a classifier, positions of text."""
        if self.student.per_row:
            return flops.classifier_head(self.shape, units, self.shape.outputs or 1)
        return flops.masked_lm_head(self.shape, units)


def shape_of(encoder: Encoder) -> flops.EncoderShape:
    """The sizes that an encoder's FLOPs depend on, its classifier included if it has one."""
    return flops.shape_of(encoder.model.config, encoder.model.config.num_labels if encoder.per_row else None)


def _logit_units(terms: Iterable[WeightedTerm]) -> set[str]:
    return {w.at for w in terms if on_logits(w.term)}


def _forward(
    encoder: Encoder, shape: flops.EncoderShape, batch: Batch, at: Collection[str], needed: frozenset[str]
) -> int:
    return flops.encoder(shape, *encoder.executed(batch, needed)) + _head(encoder, shape, batch, at)


def _head(encoder: Encoder, shape: flops.EncoderShape, batch: Batch, at: Iterable[str]) -> int:
    if encoder.per_row:
        return flops.classifier_head(shape, len(batch), shape.outputs or 1)
    return flops.masked_lm_head(shape, sum(int(units_of(batch, a)[0].numel()) for a in at))
