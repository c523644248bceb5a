"""Asking the teachers as a plan says, and what rules get to see on the way."""

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
from kdlab.teachers.cache.cache import AnswerCache, CacheLookup
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Outputs, WeighingContext


@torch.no_grad()
def row_uncertainty(project: Callable[[Tensor], Tensor], vectors: Tensor, row: Tensor, rows: int, chunk: int) -> Tensor:
    """A model's uncertainty (rows,) of each row: entropy / log C in [0, 1], the mean over the row's units (0: it has none).

    `project` turns the vectors (U, H) of the units, which belong to the rows `row` (U,), into logits, `chunk` at a time.
    """
    total = torch.zeros(rows, device=row.device)
    for start in range(0, len(row), chunk):
        logits = project(vectors[start : start + chunk]).float()
        if logits.shape[-1] < 2:
            raise UserError(
                "a model of one output is never uncertain: adopt and weigh without uncertainty in regression"
            )
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1) / math.log(logits.shape[-1])
        total.index_add_(0, row[start : start + chunk], entropy)
    return (total / torch.bincount(row, minlength=rows).clamp_min(1)).clamp(0, 1)


def gather_rows_of_all(tensor: Tensor, alone: bool) -> Tensor:
    """The rows of all ranks (collective), or this rank's."""
    return tensor.detach() if alone else distributed.gather_rows(tensor)


def own_rows(tensor: Tensor, rows: int, alone: bool) -> Tensor:
    """This rank's `rows` rows of what `gather_rows_of_all` gave (collective)."""
    heights = [rows] if alone else distributed.gather_rows(torch.tensor([rows])).tolist()
    first = 0 if alone else sum(heights[: distributed.rank()])
    return tensor[first : first + rows]


class TeacherQueries:
    """Asks `teachers`, from small to large, for the rows that heed them.

    Without a rule each row heeds the last one alone, or, where `together`, all of them (specialists for some classes
    each; terms that read all teachers at once). `joint`: there are such terms, so that all are asked about every row.
    """

    def __init__(self, student: Encoder, teachers: Sequence[Teacher], together: bool, joint: bool, chunk: int) -> None:
        self.student, self.teachers, self.chunk = student, teachers, chunk
        self.together, self.joint = together, joint

    @property
    def caches(self) -> list[AnswerCache]:
        return [teacher.cache for teacher in self.teachers if teacher.cache and teacher.cache.usable]

    @property
    def spends(self) -> str:
        """What the time of asking is called: where caches answer, a forward's is told apart."""
        return "teacher_cache" if self.caches else "teacher_forward"

    def agree(self) -> None:
        """Call the run by one name on all ranks (collective)."""
        run = distributed.broadcast_object(
            self.caches[0].run if self.caches else None
        )  # also where a rank has no cache
        for cache in self.caches:
            cache.run = cache.run if run is None else run

    def begins(self, step: int) -> None:
        """What is asked from here on belongs to micro-step `step`."""
        for cache in self.caches:
            cache.step = step

    def catch_up(self) -> None:
        """Take part in what other ranks hear, having no batch to hear about (collective)."""
        for teacher in self.teachers:
            teacher.catch_up()

    def heed(self, rule: Rule | None, batch: Batch, shown: Outputs, alone: bool) -> Tensor:
        """The weights (k, T) of the teachers for this rank's rows, by a rule that needs no teacher's answer (collective)."""
        reads = frozenset() if rule is None else marks_of(rule).needs
        own = (
            self.uncertainty(batch, shown) if "student" in reads else torch.zeros(len(batch), device=batch.rows.device)
        )
        return self._decide(rule, own, None, batch, alone)

    def hear(
        self,
        rule: Rule | None,
        batch: Batch,
        shown: Outputs,
        wants: frozenset[str] = frozenset(),
        count: bool = True,
        alone: bool = False,
        remembered: bool = True,
    ) -> tuple[list[TeacherAnswer], Tensor]:
        """What the teachers say about the rows that heed them, and the weights (k, T) (collective).

        `shown`: what the student showed of the batch. `count`: as queries of the ledger. `remembered`: caches may answer.
        """
        if rule is not None and "teachers" in marks_of(rule).needs:
            answers = [teacher.answer(batch, count, wants, remembered) for teacher in self.teachers]
            theirs = torch.stack(
                [self._their_uncertainty(*pair, batch) for pair in zip(self.teachers, answers, strict=True)], 1
            )
            own = (
                self.uncertainty(batch, shown) if "student" in marks_of(rule).needs else torch.zeros_like(theirs[:, 0])
            )
            weights = self._decide(rule, own, theirs, batch, alone)
            every = zip(self.teachers, answers, weights.T, strict=True)
            heard = [
                TeacherAnswer(i, teacher, said.shown, batch, None, weight, said.units, said.ran)
                for i, (teacher, said, weight) in enumerate(every)
            ]
            return heard, weights
        weights = self.heed(rule, batch, shown, alone)
        heard = []
        for i, (teacher, weight) in enumerate(zip(self.teachers, weights.T, strict=True)):
            index = ((weight > 0) | self.joint).nonzero().flatten()
            if len(index) == 0:
                teacher.catch_up()
                continue
            whole = len(index) == len(batch)
            asked = batch if whole else batch.take(index)
            some = weight if whole else weight[index]
            said = teacher.answer(asked, count, wants, remembered)
            heard.append(
                TeacherAnswer(
                    i,
                    teacher,
                    said.shown,
                    asked,
                    None if whole else index,
                    None if bool((some == 1).all()) else some,
                    said.units,
                    said.ran,
                )
            )
        return heard, weights

    def _decide(self, rule: Rule | None, own: Tensor, theirs: Tensor | None, batch: Batch, alone: bool) -> Tensor:
        count = len(self.teachers)
        weights = own.new_zeros(len(batch), count)
        if rule is None:
            weights[:, 0 if self.together else -1 :] = 1
            return weights
        real = gather_rows_of_all(batch.real, alone)
        where = real.nonzero().flatten()
        own, theirs = (
            gather_rows_of_all(own, alone)[where],
            None if theirs is None else gather_rows_of_all(theirs, alone)[where],
        )
        found = rule(own, theirs, count).to(weights)
        if found.shape != (len(where), count) or not bool((found >= 0).all()):
            raise UserError(
                f"the adoption rule gave weights of shape {tuple(found.shape)}, expected {(len(where), count)}, none below 0"
            )
        whole = weights.new_zeros(len(real), count)
        whole[where] = found
        weights = own_rows(whole, len(batch), alone)
        if not bool(batch.real.any()):  # a row that only keeps an idle rank in step: all parameters must take part
            weights = weights.clone()
            weights[:, 0 if self.together else -1 :] = 1
        return weights

    def uncertainty(self, batch: Batch, shown: Outputs) -> Tensor:
        """The student's uncertainty (k,) of each row, by the forward that is there, its head without dropout; kept in
        `shown`."""
        if shown.uncertainty is None:
            row, place = units_of(batch, self.doubted)
            training = self.student.training
            self.student.eval()
            try:
                with torch.no_grad():
                    vectors = self.student.vectors(shown, row, place).detach()
                shown.uncertainty = row_uncertainty(self.student.project, vectors, row, len(batch), self.chunk)
            finally:
                self.student.train(training)
        return shown.uncertainty

    @property
    def doubted(self) -> str:
        """The units that uncertainty is a mean over: a row's own, or its masked positions."""
        return "all" if self.student.per_row else "labelled"

    def _their_uncertainty(self, teacher: Teacher, said: CacheLookup, batch: Batch) -> Tensor:
        row, place = units_of(batch, self.doubted)
        if said.units is not None:
            return row_uncertainty(said.units.of, said.units.index(row, place), row, len(batch), self.chunk)
        return row_uncertainty(
            teacher.project, teacher.encoder.vectors(said.shown, row, place), row, len(batch), self.chunk
        )

    def situation(
        self,
        looks: frozenset[str],
        batch: Batch,
        shown: Outputs,
        heard: Sequence[TeacherAnswer],
        heed: Tensor,
        alone: bool,
    ) -> WeighingContext:
        """What a weighing rule that looks at "uncertainty" or "features" is shown: all ranks' real rows (collective)."""
        assert shown.hidden is not None
        real = gather_rows_of_all(batch.real, alone)
        seen = WeighingContext(teacher_weights=gather_rows_of_all(heed, alone)[real], epoch=batch.epoch)
        if "uncertainty" in looks:
            seen.uncertainty = gather_rows_of_all(self.uncertainty(batch, shown), alone)[real]
        if "features" in looks:
            seen.student = gather_rows_of_all(shown.hidden[:, 0].float(), alone)[real]
            found = {one.place: self._first_states(one, len(batch)) for one in heard}
            nobody = [shown.hidden.new_zeros(len(batch), t.encoder.model.config.hidden_size) for t in self.teachers]
            seen.teachers = tuple(
                gather_rows_of_all(found.get(i, nobody[i]).float(), alone)[real] for i in range(len(self.teachers))
            )
        return seen

    @staticmethod
    def _first_states(one: TeacherAnswer, rows: int) -> Tensor:
        assert one.answer.hidden is not None
        states = one.answer.hidden[:, 0]
        return (
            states if one.index is None else states.new_zeros(rows, states.shape[-1]).index_copy(0, one.index, states)
        )
