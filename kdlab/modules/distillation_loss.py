"""The distillation loss of a batch: one student forward, the teachers' answers, the weighted sum of the terms."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import fields_beyond_logits, is_joint, on_logits, queries_teacher
from kdlab.methods.marks import marks_of
from kdlab.models import flops
from kdlab.models.attention import capture
from kdlab.models.batch_counts import counts_of
from kdlab.models.encoder import Encoder
from kdlab.modules.flop_accounting import FlopCounter
from kdlab.modules.objective import Objective, TeacherAnswer, WeightedTerm, needed_outputs
from kdlab.modules.teacher_queries import TeacherQueries
from kdlab.modules.term_weights import TermWeights
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import generator, reseed
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Importance, Outputs, Plan, moved


class DistillationLoss:
    """The weighted sum of knowledge `terms` on a batch, as the batch's plan says. Without terms on teachers: a label loss.

    `teachers` are ordered from small to large; without an adoption rule each row queries the last one, or all of them
    where they are specialists for some classes each. `reduce` "tokens": a term is the mean over the units of all rows
    (as in the published scripts); "rows": the mean over rows of row means. Both are over the rows of all ranks.
    Where student and teacher differ in width, learnt projections `bridges` map the student's states (TinyBERT Eq. 8, 9).
    At most `chunk` units have logits over a vocabulary at a time. `mc_dropout`: forwards with dropout behind each
    teacher's uncertainty, for adoption rules that read it (0: that of its one answer). UserError for terms on teachers
    without teachers, and for a teacher that predicts another number of classes, or another vocabulary, than the student.
    """

    def __init__(
        self,
        student: Encoder,
        terms: Mapping[str, WeightedTerm],
        teachers: Sequence[Teacher] = (),
        reduce: str = "tokens",
        seed: int = 0,
        chunk: int = 256,
        mc_dropout: int = 0,
    ) -> None:
        self.student, self.terms, self.seed = student, dict(terms), seed
        self.teachers = tuple(teachers)
        self.needs_teacher = any(queries_teacher(w.term) for w in self.terms.values())
        if self.needs_teacher and not teachers:
            raise UserError("these knowledge terms read a teacher's answer, and there is no teacher")
        joint = any(is_joint(w.term) for w in self.terms.values())
        query_all = joint or any(teacher.classes is not None for teacher in teachers)
        self.flops = FlopCounter(student, self.teachers, query_all)
        self._check_outputs()
        self.queries = TeacherQueries(student, self.teachers, query_all, joint, chunk, mc_dropout, seed)
        self.bridges = nn.ModuleDict()
        if self.needs_teacher:
            self.bridges = build_projections(student, self.terms, self.teachers, seed)
            self.flops.projected = frozenset(int(name) for name in self.bridges if name.isdigit())
        # units whose logits the terms read at once: few of a vocabulary, many of some classes
        piece = max(32, 2**20 // (self.flops.shape.outputs or self.flops.shape.vocab))
        self.objective = Objective(student, self.bridges, reduce == "rows", chunk, piece)
        layers = [shape.layers for shape in self.flops.teacher_shapes]
        self.term_weights = TermWeights(self.terms, self.queries, self.objective, layers)

    def _check_outputs(self) -> None:
        """UserError for a teacher whose logits a term cannot compare with the student's: another number of outputs."""
        if not any(on_logits(w.term) and queries_teacher(w.term) for w in self.terms.values()):
            return
        ours = self.flops.shape.outputs or self.flops.shape.vocab
        for teacher, shape in zip(self.teachers, self.flops.teacher_shapes, strict=True):
            theirs = shape.outputs or shape.vocab
            if teacher.classes is None and theirs != ours:
                raise UserError(
                    f"the teacher {teacher.name} predicts {theirs} {'classes' if shape.outputs else 'tokens'}, and the student {ours}: a term "
                    "on logits compares the same ones"
                )

    @property
    def has_idle_parameters(self) -> bool:
        """True where some parameters may have no gradient in some steps."""
        logits = [w for w in self.terms.values() if on_logits(w.term)]
        return bool(self.bridges) or not any((w.since, w.until) == (0.0, 1.0) for w in logits)

    def active_terms(self, progress: float) -> dict[str, WeightedTerm]:
        """The terms that count at `progress`, the share of the steps done."""
        if all((w.since, w.until) == (0.0, 1.0) for w in self.terms.values()):
            return self.terms
        return {name: w for name, w in self.terms.items() if w.since <= progress < w.until}

    def needed(self, terms: Mapping[str, WeightedTerm]) -> frozenset[str]:
        """The outputs that `terms` read besides logits, as `Encoder.encode` takes them."""
        return needed_outputs(terms.values(), self.student.per_row)

    def __call__(
        self,
        batch: Batch,
        plan: Plan | None = None,
        queried: Tensor | None = None,
        *,
        progress: float = 0.0,
        step: int = 0,
        ledger: Ledger | None = None,
        local: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on every row of `batch`, a scalar with gradient, and "loss" and each term's mean, detached.

        The mean over ranks is the mean over the global batch; `local`: over this rank's rows, without a collective and
        without caches (probes). `plan`: the rules of adoption and weighing; `queried`: the rows (k,), on the host, that the
        teachers are queried for, while labels are learnt on all rows (None: all, or those that the plan's rule selects from this
        forward). `progress`: share of the steps done; `step`: the micro-step, of random weighing; `ledger`: of the costs.
        """
        plan = plan or Plan()
        terms = self.active_terms(progress)
        taught = {name: w for name, w in terms.items() if queries_teacher(w.term)}
        needed, own = self.needed(terms), plan.needed
        answers: list[TeacherAnswer] = []
        with timed(ledger, "student_forward"):
            outputs = self.student.encode(batch, needed | own)
            outputs.progress = progress
            queried = plan.select(batch, outputs) if plan.select else queried
            index, query, queried_outputs = self._queried(batch, outputs, queried)
            query, importance = _narrowed(plan, query, queried_outputs)
        with timed(ledger, self.queries.ledger_part):
            teacher_weights = query.rows.new_zeros(len(query), 0, dtype=torch.float32)
            if taught:
                count, largest = ledger is not None, any(w.reads_largest for w in taught.values())
                answers, teacher_weights = self.queries.query(
                    plan.adopt, query, queried_outputs, needed, count, local, not local, largest, step
                )
        passes = [(terms, query)] if index is None else [(_without(terms, taught), batch), (taught, query)]
        with timed(ledger, "student_forward"):
            rng = generator(self.seed, "weigh", step)
            factors, divisors = self.term_weights.factors(
                plan.weigh, query, queried_outputs, answers, teacher_weights, progress, rng, local
            )
            mixed = plan.adopt is not None and marks_of(plan.adopt).mixes == "answers"
            more = (answers, factors, mixed, local, importance, divisors)
            if index is None:
                total, losses = self.objective(terms, query, outputs, *more)
            else:
                of_rows = {name: f for name, f in factors.items() if f.ndim == 1}
                place = moved(index, batch.rows.device)
                spread = {name: f.new_ones(len(batch)).index_copy(0, place, f) for name, f in of_rows.items()}
                label_loss, label_losses = self.objective(*passes[0], outputs, (), spread, local=local)
                soft_loss, soft_losses = self.objective(taught, query, queried_outputs, *more)
                total = label_loss + soft_loss
                losses = {**label_losses, **soft_losses, "loss": total.detach()}
        if not local:
            self.term_weights.record(terms, teacher_weights, query, queried_outputs, answers)
        if ledger is not None:
            self.flops.record_step(ledger, passes, batch, answers, needed, own)
            self._record_query(ledger, plan, query, queried_outputs, answers)
        return total, losses

    def _record_query(
        self, ledger: Ledger, plan: Plan, query: Batch, outputs: Outputs, answers: Sequence[TeacherAnswer]
    ) -> None:
        """Enter the positions of the query, and the heads that ran for uncertainties of student and teachers, into the ledger."""
        record_positions(ledger, query, answers)
        asked_first = plan.adopt is not None and "teachers" in marks_of(plan.adopt).needs
        own, at = outputs.uncertainty is not None, self.queries.uncertainty_units
        self.flops.record_uncertainty(ledger, query, at, own, answers if asked_first else (), self.queries.mc_dropout)
        if plan.weigh is not None and marks_of(plan.weigh).summary is not None:  # both heads ran once more
            self.flops.record_uncertainty(ledger, query, "labelled", True, answers)

    def finite_answers(self) -> dict[str, Tensor]:
        """() bool by teacher, True if what it answered since the last call was finite; on its device, not awaited."""
        return {teacher.name: teacher.take_finite() for teacher in self.teachers}

    @staticmethod
    def _queried(batch: Batch, outputs: Outputs, queried: Tensor | None) -> tuple[Tensor | None, Batch, Outputs]:
        """The rows `queried` (k,) as an index (None: all rows), as a batch, and the student's outputs for them."""
        if queried is None:
            return None, batch, outputs
        index = queried if len(queried) else torch.zeros(1, dtype=torch.long)  # no row: one that does not count
        query = batch.take(index)
        if not len(queried):
            query.real = torch.zeros_like(query.real)
        return index, query, outputs.take(index, query.input_ids.shape[1])


def _narrowed(plan: Plan, batch: Batch, outputs: Outputs) -> tuple[Batch, Importance | None]:
    """The batch with the labels of the positions that the plan selects alone, and their weights."""
    if plan.positions is None:
        return batch, plan.importance
    chosen, importance = plan.positions(batch, outputs, plan.importance)
    return batch.narrowed(chosen), importance


def record_positions(ledger: Ledger, batch: Batch | None, answers: Sequence[TeacherAnswer]) -> None:
    """Enter the positions with a label of the real rows of `batch`, which are trained on, and those of the teachers'
    forwards behind `answers`; nothing of tasks."""
    if batch is not None and batch.labels.ndim == 2:
        ledger.count_kept_positions(counts_of(batch).positions)
    for answer in answers:
        if answer.queried.labels.ndim == 2:
            ledger.count_positions(answer.teacher.name, sum(counts_of(one).positions for one in answer.forwards))


def _without(terms: Mapping[str, WeightedTerm], others: Mapping[str, WeightedTerm]) -> dict[str, WeightedTerm]:
    return {name: w for name, w in terms.items() if name not in others}


def build_projections(
    student: Encoder, terms: Mapping[str, WeightedTerm], teachers: Sequence[Teacher], seed: int
) -> nn.ModuleDict:
    """Make student and teachers comparable for terms that read more than logits; the learnt parts of that.

    By teacher number, projections of the student's states to a teacher's other width ("states", "embeddings"); joint
    terms, which have parameters of their own, as "term NAME". Models whose attention is read are prepared for that.
    """
    built = nn.ModuleDict()
    taught = [w.term for w in terms.values() if queries_teacher(w.term)]
    fields = frozenset().union(*(fields_beyond_logits(term) for term in taught))
    if fields & {"scores", "values"}:
        for encoder in (student, *(teacher.encoder for teacher in teachers)):
            capture.prepare(encoder.model)
    hidden = flops.shape_of(student.model.config).hidden
    widths = [flops.shape_of(teacher.encoder.model.config).hidden for teacher in teachers]
    for name, w in terms.items():
        if is_joint(w.term) and isinstance(w.term, nn.Module):
            w.term.build(hidden, widths, seed)  # pyright: ignore[reportCallIssue]
            built[f"term {name}"] = w.term
    bridged = [w for w in terms.values() if not (on_logits(w.term) or is_joint(w.term))]
    if not bridged:
        return built
    first = len(widths) - 1 if all(w.reads_largest for w in bridged) else 0  # states of no other teacher are read
    for i, width in enumerate(widths):
        if width != hidden and i >= first:
            reseed(seed, "projections", *((i,) if i else ()))
            bridge = nn.ModuleDict({"states": nn.Linear(hidden, width)})
            if "states" in fields:
                bridge["embeddings"] = nn.Linear(hidden, width)
            built[str(i)] = bridge
    return built


def timed(ledger: Ledger | None, part: str) -> contextlib.AbstractContextManager[None]:
    """Add the seconds of the block to `part` of the ledger, if there is one."""
    return contextlib.nullcontext() if ledger is None else ledger.time(part)
