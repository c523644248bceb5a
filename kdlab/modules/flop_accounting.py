"""FLOPs of a training step: encoders by the tokens they run on, heads by the units that have logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdlab.methods.knowledge.base import on_logits, queries_teacher
from kdlab.models import flops, lora
from kdlab.models.batch_counts import counts_of
from kdlab.models.encoder import Encoder
from kdlab.models.student import recomputable, recomputes
from kdlab.modules.objective import TeacherAnswer, WeightedTerm, logit_groups, needed_outputs
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch

CHOSEN = ("scoring", "student_forward", "student_backward")  # parts of the ledger that an arm's choice has a share in


@dataclass(frozen=True)
class _Reads:
    """Outputs and units that a set of terms reads: the outputs `needed` besides logits; the kinds of units for each of which the student's head
    runs, `heads`, and the teachers', `taught_heads`; whether any term is `taught` by a teacher, all are `on_logits`, any has
    a gradient `through` the layers."""

    needed: frozenset[str]
    heads: tuple[str, ...]
    taught_heads: tuple[str, ...]
    taught: bool
    on_logits: bool
    through: bool

    @classmethod
    def of(cls, terms: Sequence[WeightedTerm], per_row: bool) -> _Reads:
        taught = [w for w in terms if queries_teacher(w.term)]
        return cls(
            needed_outputs(terms, per_row),
            tuple(at for at, _ in logit_groups(terms)),
            tuple(at for at, _ in logit_groups(taught)),
            bool(taught),
            all(on_logits(w.term) for w in terms),
            any(not w.head_only for w in terms),
        )


class FlopCounter:
    """Counts the FLOPs of a student and its teachers. `query_all`: plain distillation queries all teachers, not the last.

    `needed`, in all methods, are the outputs read besides logits, as `Encoder.encode` takes them: they decide how much of
    the last layer runs. `shape`, `teacher_shapes`: the models, as FLOPs depend on them. `projected`: the numbers of the
    teachers to whose widths the student's states are projected.

    Only the products of models and of these projections count, not those inside knowledge terms and rules
    (docs/ledger.md).
    """

    def __init__(self, student: Encoder, teachers: Sequence[Teacher], query_all: bool) -> None:
        self.student, self.teachers, self.query_all = student, teachers, query_all
        self.shape = shape_of(student)
        self.teacher_shapes = [shape_of(teacher.encoder) for teacher in teachers]
        self.projected: frozenset[int] = frozenset()
        self._recomputable = recomputable(student.model)
        self._known: dict[tuple[int, ...], tuple[Sequence[WeightedTerm], _Reads]] = {}

    def _reads(self, terms: Iterable[WeightedTerm]) -> _Reads:
        """Outputs and units that `terms` read, worked out once for the same ones, which are kept: their ids are not given to others."""
        given = tuple(terms)
        key = tuple(map(id, given))
        if key not in self._known:
            self._known[key] = given, _Reads.of(given, self.student.per_row)
        return self._known[key][1]

    def record_step(
        self,
        ledger: Ledger,
        passes: Sequence[tuple[Mapping[str, WeightedTerm], Batch]],
        batch: Batch,
        answers: Sequence[TeacherAnswer],
        needed: frozenset[str],
        own: frozenset[str] = frozenset(),
    ) -> None:
        """Enter a step on `batch` into the ledger: forward and backward, and the teachers' forwards for `answers`.

        `passes`: the terms that the objective has summed up, with their rows; the head runs in each of them. `own`:
        outputs that the student's forward has given beside those `needed`.
        """
        queried = [(a.number, a.queried) for a in answers]
        forward, backward = self.student_step(passes, batch, queried, needed, own)
        ledger.flops("student_forward", forward)
        ledger.flops("student_backward", backward)
        heads = sum(self.teacher_heads(terms.values(), answers) for terms, _ in passes)
        ledger.flops("teacher_forward", self.teacher_forwards(answers, needed) + heads)

    def student_step(
        self,
        passes: Sequence[tuple[Mapping[str, WeightedTerm], Batch]],
        batch: Batch,
        queried: Sequence[tuple[int, Batch]],
        needed: frozenset[str],
        own: frozenset[str] = frozenset(),
    ) -> tuple[int, int]:
        """FLOPs of the student's forward and backward in a step on `batch`; `queried` as of `objective`, the rest as of
        `record_step`.

        The backward has two products for each of the forward; where a matrix is frozen beside adapters, it has no
        gradient, so one. Layers that run anew in the backward count there once more.
        """
        layers = self.student_layers(batch, needed | own)
        after = sum(self.objective(terms.values(), rows, queried, needed) for terms, rows in passes)
        through = layers if any(self._reads(terms.values()).through for terms, _ in passes) else 0
        backward = 2 * (through + after) + through * recomputes(self._recomputable)
        if self.shape.adapters:
            tokens, _, *chosen = self.student.executed(batch, needed | own, asks=False)
            frozen = flops.encoder(replace(self.shape, adapters=0), tokens, 0, *chosen[:1]) if through else 0
            heads = sum(self._logits(terms.values(), rows) for terms, rows in passes)
            backward -= frozen + (0 if self.student.per_row else heads)
        return layers + after, backward

    def _logits(self, terms: Iterable[WeightedTerm], rows: Batch) -> int:
        """FLOPs of the student's head, once for each kind of unit that terms on logits read."""
        return _heads(self.student, self.shape, rows, self._reads(terms).heads)

    def record_uncertainty(
        self, ledger: Ledger, queried: Batch, at: str, student: bool, answers: Sequence[TeacherAnswer], samples: int = 0
    ) -> None:
        """Enter the heads that ran for uncertainties at units `at`: the `student`'s, and those behind `answers`, or the
        `samples` whole forwards with dropout of each of their teachers."""
        if student:
            ledger.flops("student_forward", _heads(self.student, self.shape, queried, [at]))
        if samples:
            for a in answers:
                encoder, shape = a.teacher.encoder, self.teacher_shapes[a.number]
                forward = _layers(encoder, shape, queried, frozenset()) + _heads(encoder, shape, queried, [at])
                ledger.flops("teacher_forward", samples * forward)
            return
        for a in (a for a in answers if a.cached_logits is None):
            ledger.flops("teacher_forward", _heads(a.teacher.encoder, self.teacher_shapes[a.number], queried, [at]))

    def objective(
        self,
        terms: Iterable[WeightedTerm],
        rows: Batch,
        queried: Sequence[tuple[int, Batch]],
        needed: frozenset[str],
    ) -> int:
        """FLOPs of the student after its layers, for the loss of `terms` on `rows`: its head once for each kind of unit
        that terms on logits read, and the projections of its states to the widths of the teachers `queried`, each given
        by its number and its rows."""
        terms = list(terms)
        heads = self._logits(terms, rows)
        if self._reads(terms).on_logits:
            return heads
        times = 1 + (self.shape.layers + 1 if "states" in needed else 0)  # the last hidden state, and all states
        return heads + sum(
            times * 2 * batch.input_ids.numel() * self.shape.hidden * self.teacher_shapes[number].hidden
            for number, batch in queried
            if number in self.projected
        )

    def teacher_forwards(self, answers: Sequence[TeacherAnswer], needed: frozenset[str]) -> int:
        """FLOPs of the forwards behind `answers`: layers, and where a cache stores logits, the heads that gave them."""
        total = 0
        for a in answers:
            spec = a.teacher.cache.spec if a.cached_logits is not None and a.teacher.cache is not None else None
            at, reads = ((), needed) if spec is None or spec.logits is None else ((spec.logits,), spec.reads)
            encoder, shape = a.teacher.encoder, self.teacher_shapes[a.number]
            total += sum(_layers(encoder, shape, b, reads) for b in a.forwards)
            total += sum(_heads(encoder, shape, b, at) for b in a.forwards)
        return total

    def teacher_heads(self, terms: Iterable[WeightedTerm], answers: Sequence[TeacherAnswer]) -> int:
        """FLOPs of the teachers' heads on the hidden states of `answers`, for the loss of `terms`; cached logits take
        none."""
        at = self._reads(terms).taught_heads
        return sum(
            _heads(a.teacher.encoder, self.teacher_shapes[a.number], a.queried, at)
            for a in answers
            if a.cached_logits is None
        )

    def plain_step(self, terms: Mapping[str, WeightedTerm], batch: Batch) -> tuple[int, int]:
        """FLOPs of a step of plain distillation on `batch`: the student's forward and backward, and the teachers' forward."""
        reads = self._reads(terms.values())
        needed = reads.needed
        first = 0 if self.query_all else max(len(self.teachers) - 1, 0)
        queried = [(number, batch) for number in range(first, len(self.teachers))] if reads.taught else []
        student = sum(self.student_step([(terms, batch)], batch, queried, needed))
        at, total = reads.taught_heads, 0
        for number, _ in queried:
            encoder, shape = self.teachers[number].encoder, self.teacher_shapes[number]
            total += _layers(encoder, shape, batch, needed) + _heads(encoder, shape, batch, at)
        return student, total

    def teacher(
        self,
        terms: Iterable[WeightedTerm],
        batch: Batch,
        number: int,
        needed: frozenset[str],
        uncertain: bool = False,
        samples: int = 0,
    ) -> int:
        """FLOPs of a query of the teacher `number` for `batch`: its layers, and its heads for `terms`; where it is
        `uncertain`, the head behind its uncertainty, or the `samples` whole forwards with dropout."""
        encoder, shape, own = self.teachers[number].encoder, self.teacher_shapes[number], frozenset[str]()
        total = _layers(encoder, shape, batch, needed) + _heads(encoder, shape, batch, self._reads(terms).taught_heads)
        head = _heads(encoder, shape, batch, ["all" if self.student.per_row else "labelled"]) if uncertain else 0
        return total + (samples * (_layers(encoder, shape, batch, own) + head) if samples else head)

    def student_layers(self, batch: Batch, needed: frozenset[str] = frozenset()) -> int:
        """FLOPs of the student's layers on `batch`, without its head (`student_head`)."""
        return _layers(self.student, self.shape, batch, needed)

    def student_head(self, units: int) -> int:
        """FLOPs of the student's head on so many units: rows of a classifier, positions of text."""
        if self.student.per_row:
            return flops.classifier_head(self.shape, units, self.shape.outputs or 1)
        return flops.masked_lm_head(self.shape, units)


class Spending:
    """FLOPs and teacher queries of a student's training so far, without observations, evaluations and probes.

    Each answer of a teacher counts as a query and as a forward of a row of mean length, from a cache or not: what a cache
    holds depends on earlier runs, and a reward that went by it would not be repeatable.
    """

    def __init__(self, ledger: Ledger, counter: FlopCounter, mean_length: float) -> None:
        self.ledger = ledger
        length = max(1, round(mean_length))
        teachers = zip(counter.teachers, counter.teacher_shapes, strict=True)
        self.prices = {teacher.name: flops.forward(shape, 1, length) for teacher, shape in teachers}

    def __call__(self) -> tuple[float, int]:
        """FLOPs and queries of all ranks (collective)."""
        spent, answers = self.ledger.answered(CHOSEN)
        queried = {name: count for name, count in answers.items() if name in self.prices}
        return spent + sum(self.prices[name] * count for name, count in queried.items()), sum(queried.values())


def shape_of(encoder: Encoder) -> flops.EncoderShape:
    """The sizes that an encoder's FLOPs depend on, its classifier included if it has one."""
    shape = flops.shape_of(encoder.model.config, encoder.model.config.num_labels if encoder.per_row else None)
    return replace(shape, adapters=lora.weights_per_layer(encoder.model))


def _layers(encoder: Encoder, shape: flops.EncoderShape, batch: Batch, needed: frozenset[str]) -> int:
    """FLOPs of the layers; where attention is read, its scores are computed a second time."""
    executed = encoder.executed(batch, needed, asks=False)
    recorded = (
        2 * executed[1] * (shape.attention or shape.hidden) * shape.layers if needed & {"scores", "values"} else 0
    )
    return flops.encoder(shape, *executed) + recorded


def _heads(encoder: Encoder, shape: flops.EncoderShape, batch: Batch, at: Iterable[str]) -> int:
    """FLOPs of a head that runs once for each kind of unit `at`: rows of a classifier, positions of text."""
    counts = counts_of(batch)
    units = sum(counts.units(kind) for kind in at)
    if encoder.per_row:
        return flops.classifier_head(shape, units, shape.outputs or 1)
    return flops.masked_lm_head(shape, units)
