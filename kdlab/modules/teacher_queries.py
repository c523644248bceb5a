"""Query teachers for the rows the plan assigns to them; build the inputs of adoption and weighing rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.adoption import Rule
from kdlab.methods.marks import marks_of
from kdlab.models.encoder import Encoder
from kdlab.modules.objective import TeacherAnswer, units_of
from kdlab.runtime import distributed
from kdlab.runtime.seeding import stable
from kdlab.teachers.cache.cache import AnswerCache, CacheLookup
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Outputs, WeighingContext, moved


@torch.no_grad()
def row_uncertainty(
    project: Callable[[Tensor], Tensor], vectors: Sequence[Tensor], row: Tensor, batch: Batch, chunk: int
) -> Tensor:
    """Uncertainty (k,) of a model about each row of `batch`: entropy / log C in [0, 1], the mean over the row's units.

    `project` turns vectors (U, H) of the units, which belong to the rows `row` (U,), on the host, into logits, `chunk` at a
    time.
    Several `vectors`, of forwards with dropout, are of one answer: the mean of their probabilities (Monte Carlo dropout).
    A row without units has 0. UserError for a model of one output.
    """
    rows, device = len(batch), batch.rows.device
    total = torch.zeros(rows, device=device)
    for start in range(0, len(row), chunk):
        mean = torch.zeros((), device=device)
        for each in vectors:
            logits = project(each[start : start + chunk]).float()
            if logits.shape[-1] < 2:
                raise UserError(
                    "a model of one output is never uncertain: adopt and weigh without uncertainty in regression"
                )
            mean = mean + logits.softmax(-1) / len(vectors)
        entropy = torch.special.entr(mean).sum(-1) / math.log(mean.shape[-1])
        total.index_add_(0, moved(row[start : start + chunk], device), entropy)
    units = torch.bincount(row, minlength=rows).clamp_min(1)
    return (total / moved(units, device)).clamp(0, 1)


class TeacherQueries:
    """Queries `teachers`, ordered from small to large, each for the rows whose weight for it is above 0.

    Without an adoption rule each row queries the last one; with `query_all` all of them (specialists for some classes
    each; terms that read all teachers at once). `joint`: there are such terms, so each teacher is queried for every row.
    `chunk`: units with logits at a time. `mc_dropout`: forwards with dropout behind a teacher's uncertainty (0: it is
    that of its answer); `seed` of this dropout.
    """

    def __init__(
        self,
        student: Encoder,
        teachers: Sequence[Teacher],
        query_all: bool,
        joint: bool,
        chunk: int,
        mc_dropout: int = 0,
        seed: int = 0,
    ) -> None:
        self.student, self.teachers, self.chunk = student, teachers, chunk
        self.query_all, self.joint = query_all, joint
        self.mc_dropout, self.seed = mc_dropout, seed

    @property
    def caches(self) -> list[AnswerCache]:
        """The answer caches in use."""
        return [teacher.cache for teacher in self.teachers if teacher.cache and teacher.cache.usable]

    @property
    def ledger_part(self) -> str:
        """Ledger entry for teacher time: `teacher_cache` with a cache (which times its forwards itself), else
        `teacher_forward`."""
        return "teacher_cache" if self.caches else "teacher_forward"

    def share_run_id(self) -> None:
        """Give the caches of all ranks rank 0's identity of the run (collective)."""
        run = distributed.broadcast_object(self.caches[0].run if self.caches else None)  # ranks without a cache too
        for cache in self.caches:
            cache.run = cache.run if run is None else run

    def begin_step(self, step: int) -> None:
        """Assign all queries from here on to micro-step `step`."""
        for cache in self.caches:
            cache.step = step

    def catch_up(self) -> None:
        """Join the queries of other ranks to shared teachers, on a rank without a batch (collective)."""
        for teacher in self.teachers:
            teacher.catch_up()

    def weights(self, rule: Rule | None, batch: Batch, outputs: Outputs, local: bool) -> Tensor:
        """Adoption weights (k, T) of this rank's rows by a rule that reads no teacher's answer (collective)."""
        needs = frozenset() if rule is None else marks_of(rule).needs
        own = (
            self.uncertainty(batch, outputs)
            if "student" in needs
            else batch.rows.new_zeros(len(batch), dtype=torch.float32)
        )
        return self._apply(rule, own, None, batch, local)

    def query(
        self,
        rule: Rule | None,
        batch: Batch,
        outputs: Outputs,
        needed: frozenset[str] = frozenset(),
        count: bool = True,
        local: bool = False,
        cached: bool = True,
        largest: bool = False,
        step: int = 0,
    ) -> tuple[list[TeacherAnswer], Tensor]:
        """Query teachers for the rows that an adoption rule assigns to each; the answers, and weights (k, T) (collective).

        `outputs`: the student's of the batch; `needed`: outputs of the teachers that are read; `count`: enter queries
        into the ledger; `local`: the rule sees this rank's rows only; `cached`: caches may answer; `largest`: query the
        largest teacher for every row (its weight is still the rule's); `step`: the micro-step, of Monte Carlo dropout.
        """
        if rule is not None and "teachers" in marks_of(rule).needs:
            return self._query_first(rule, batch, outputs, needed, count, local, cached, step)
        weights = self.weights(rule, batch, outputs, local)
        ruled = self._plain_weights(batch.host) if rule is None else weights.cpu()
        answers = []
        for number, (teacher, weight) in enumerate(zip(self.teachers, ruled.T, strict=True)):
            every = self.joint or (largest and number == len(self.teachers) - 1)
            asked = (weight > 0) | every
            if (
                batch.predicted is not None and not self.joint
            ):  # of rows without a position that is kept nothing is read
                asked = asked & batch.host.labelled().any(1)
            index = asked.nonzero().flatten()
            if len(index) == 0:
                teacher.catch_up()
                continue
            whole = len(index) == len(batch)
            queried = batch if whole else batch.take(index)
            weight = weight if whole else weight[index]
            lookup = teacher.answer(queried, count, needed, cached)
            answers.append(
                TeacherAnswer(
                    number,
                    teacher,
                    lookup.outputs,
                    queried,
                    None if whole else index,
                    None if bool((weight == 1).all()) else moved(weight, weights.device),
                    lookup.logits,
                    lookup.forwards,
                )
            )
        return answers, weights

    def _plain_weights(self, batch: Batch) -> Tensor:
        """Weights (k, T) without a rule: each row has the last teacher, or all of them."""
        weights = batch.rows.new_zeros(len(batch), len(self.teachers), dtype=torch.float32)
        weights[:, 0 if self.query_all else -1 :] = 1
        return weights

    def _query_first(
        self,
        rule: Rule,
        batch: Batch,
        outputs: Outputs,
        needed: frozenset[str],
        count: bool,
        local: bool,
        cached: bool,
        step: int,
    ) -> tuple[list[TeacherAnswer], Tensor]:
        """`query` for a rule that reads the teachers' uncertainty: each is queried for every row, before it decides."""
        lookups = [teacher.answer(batch, count, needed, cached) for teacher in self.teachers]
        if self.mc_dropout:
            each = [self._uncertainty_under_dropout(teacher, batch, count, step) for teacher in self.teachers]
        else:
            each = [self._teacher_uncertainty(*pair, batch) for pair in zip(self.teachers, lookups, strict=True)]
        theirs = torch.stack(each, 1)
        own = self.uncertainty(batch, outputs) if "student" in marks_of(rule).needs else torch.zeros_like(theirs[:, 0])
        weights = self._apply(rule, own, theirs, batch, local)
        answers = [
            TeacherAnswer(i, teacher, lookup.outputs, batch, None, weight, lookup.logits, lookup.forwards)
            for i, (teacher, lookup, weight) in enumerate(zip(self.teachers, lookups, weights.T, strict=True))
        ]
        return answers, weights

    def _apply(self, rule: Rule | None, own: Tensor, theirs: Tensor | None, batch: Batch, local: bool) -> Tensor:
        """Weights (k, T) of this rank's rows by a rule on the real rows of the global batch; `own` (k,), `theirs` (k, T)
        are uncertainties. UserError for weights of another shape or below 0."""
        if rule is None:
            return self._plain_weights(batch)
        count = len(self.teachers)
        real = distributed.gather_unless_local(batch.host.real, local)
        where = moved(real.nonzero().flatten(), own.device)
        own = distributed.gather_unless_local(own, local)[where]
        theirs = None if theirs is None else distributed.gather_unless_local(theirs, local)[where]
        if theirs is not None and not bool(theirs.isfinite().all()):
            bad = [teacher.name for teacher, own in zip(self.teachers, theirs.T, strict=True) if own.isnan().any()]
            raise UserError(f"the answers of the teacher {', '.join(bad)} are not finite: take another teacher")
        more = (
            {"rows": distributed.gather_unless_local(batch.rows, local)[where]}
            if "rows" in marks_of(rule).needs
            else {}
        )
        ruled = rule(own, theirs, count, **more).to(own)
        if ruled.shape != (len(where), count) or not bool((ruled >= 0).all()):
            raise UserError(
                f"the adoption rule gave weights of shape {tuple(ruled.shape)}, expected {(len(where), count)}, none below 0"
            )
        whole = own.new_zeros(len(real), count)
        whole[where] = ruled
        weights = distributed.rows_of_this_rank(whole, len(batch), local)
        if not bool(batch.host.real.any()):  # a row that only keeps an idle rank in step: all parameters must take part
            weights = weights.clone()
            weights[:, 0 if self.query_all else -1 :] = 1
        return weights

    def uncertainty(self, batch: Batch, outputs: Outputs) -> Tensor:
        """The student's uncertainty (k,) of each row, from its hidden states in `outputs`, its head without dropout.

        Computed once and stored in `outputs`.
        """
        if outputs.uncertainty is None:
            row, token = units_of(batch, self.uncertainty_units)
            training = self.student.training
            self.student.eval()
            try:
                with torch.no_grad():
                    vectors = self.student.vectors(outputs, row, token).detach()
                outputs.uncertainty = row_uncertainty(self.student.project, [vectors], row, batch, self.chunk)
            finally:
                self.student.train(training)
        return outputs.uncertainty

    @property
    def uncertainty_units(self) -> str:
        """Units that uncertainty is a mean over (`WeightedTerm.at`): a classifier's row itself, else masked positions."""
        return "all" if self.student.per_row else "labelled"

    def _teacher_uncertainty(self, teacher: Teacher, lookup: CacheLookup, batch: Batch) -> Tensor:
        row, token = units_of(batch, self.uncertainty_units)
        if lookup.logits is not None:
            index = lookup.logits.index(row, token)
            return row_uncertainty(lookup.logits.of, [index], row, batch, self.chunk)
        vectors = teacher.encoder.vectors(lookup.outputs, row, token)
        return row_uncertainty(teacher.project, [vectors], row, batch, self.chunk)

    def _uncertainty_under_dropout(self, teacher: Teacher, batch: Batch, count: bool, step: int) -> Tensor:
        """Uncertainty (k,) of the mean of `mc_dropout` answers with dropout (MUKI); each forward is a query."""
        row, token = units_of(batch, self.uncertainty_units)
        with teacher.dropout(stable(self.seed, "mc_dropout", teacher.name, step, distributed.rank())):
            outputs = [teacher.query(batch, count) for _ in range(self.mc_dropout)]
            vectors = [teacher.encoder.vectors(each, row, token) for each in outputs]
            return row_uncertainty(teacher.project, vectors, row, batch, self.chunk)

    def weighing_context(
        self,
        fields: frozenset[str],
        batch: Batch,
        outputs: Outputs,
        answers: Sequence[TeacherAnswer],
        weights: Tensor,
        local: bool,
    ) -> WeighingContext:
        """The input of a weighing rule that reads `fields` ("uncertainty", "features"): all ranks' real rows (collective).

        `outputs`: the student's; `weights` (k, T): the adoption weights.
        """
        assert outputs.hidden is not None
        real = distributed.gather_unless_local(batch.host.real, local).nonzero().flatten()
        real = moved(real, weights.device)
        context = WeighingContext(
            teacher_weights=distributed.gather_unless_local(weights, local)[real], epoch=batch.epoch
        )
        if "uncertainty" in fields:
            context.uncertainty = distributed.gather_unless_local(self.uncertainty(batch, outputs), local)[real]
        if "features" in fields:
            context.student = distributed.gather_unless_local(outputs.hidden[:, 0].float(), local)[real]
            states = {answer.number: _first_states(answer, len(batch)) for answer in answers}
            zeros = [outputs.hidden.new_zeros(len(batch), t.encoder.model.config.hidden_size) for t in self.teachers]
            context.teachers = tuple(
                distributed.gather_unless_local(states.get(i, zeros[i]).float(), local)[real]
                for i in range(len(self.teachers))
            )
        return context


def _first_states(answer: TeacherAnswer, rows: int) -> Tensor:
    """Last state (rows, H) of each row's first token, zeros for rows that the answer is not about."""
    assert answer.outputs.hidden is not None
    states = answer.outputs.hidden[:, 0]
    if answer.index is None:
        return states
    index = moved(answer.index, states.device)
    return states.new_zeros(rows, states.shape[-1]).index_copy(0, index, states)
