"""The objective: knowledge terms, weighed and added over units, rows and teachers, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.methods.knowledge.base import Term, fields_beyond_logits, is_joint, on_logits, queries_teacher
from kdlab.models.encoder import Encoder
from kdlab.modules.chunked_loss import chunked_loss
from kdlab.runtime import distributed
from kdlab.teachers.cache.codec import UnitLogits
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Outputs

NOTHING = -1e4  # a logit of a class that no answering teacher knows: finite, so that 0 * log 0 is 0


@dataclass(frozen=True)
class WeightedTerm:
    """A knowledge term, its fixed weight, the units it looks at, and the share of the training in which it counts.

    `at` "labelled": where a label stands (masked positions; rows whose class is known); "all": every unit (each real
    token; each row); "tokens": each row weighs as many as its real tokens. From `since` to before `until`, shares of
    the steps.
    """

    term: Term
    weight: float
    at: str = "labelled"
    since: float = 0.0
    until: float = 1.0


def wanted_by(terms: Iterable[WeightedTerm], per_row: bool) -> frozenset[str]:
    """What terms read besides logits at a batch's predictions, as `Encoder.encode` takes it: "hidden" too where they read
    logits of other tokens."""
    terms = list(terms)
    elsewhere = not per_row and any(on_logits(w.term) and w.at != "labelled" for w in terms)
    return frozenset({"hidden"} if elsewhere else ()).union(*(fields_beyond_logits(w.term) for w in terms))


@dataclass(frozen=True)
class TeacherAnswer:
    """What a teacher, number `place` of all, said about the rows `index` (n,) of a batch (None: all of them).

    `asked`: these rows as it was asked them; `weight` (n,): how much each heeds it (None: 1). `units`: the logits, of
    an answer that was remembered; `ran`: the batches that a forward was run for.
    """

    place: int
    teacher: Teacher
    answer: Outputs
    asked: Batch
    index: Tensor | None = None
    weight: Tensor | None = None
    units: UnitLogits | None = None
    ran: Sequence[Batch] = ()


def units_of(batch: Batch, at: str) -> tuple[Tensor, Tensor]:
    """Row and token (U,) of each unit; a row's own unit stands at its first token."""
    if batch.labels.ndim == 1 and at != "tokens":
        rows = torch.arange(len(batch), device=batch.rows.device)
        rows = rows[batch.labelled()] if at == "labelled" else rows
        return rows, torch.zeros_like(rows)
    row, place = (batch.labelled() if at == "labelled" else batch.attention_mask.bool()).nonzero(as_tuple=True)
    return row, place


class Objective:
    """Adds weighted terms up to one number.

    `bridges`: learnt projections to each teacher's width, by its place ("states", "embeddings"), owned by the distiller.
    `by_rows`: the mean over rows of row means, else the mean over the units of all rows; either way over all ranks'.
    `mixed`: the teachers' probabilities, weighed, are one answer for terms on logits.
    """

    def __init__(self, student: Encoder, bridges: nn.ModuleDict, by_rows: bool, chunk: int, piece: int) -> None:
        self.student, self.bridges = student, bridges
        self.by_rows, self.chunk, self.piece = by_rows, chunk, piece

    def __call__(
        self,
        terms: Mapping[str, WeightedTerm],
        batch: Batch,
        shown: Outputs,
        heard: Sequence[TeacherAnswer] = (),
        scales: Mapping[str, Tensor] | None = None,
        mixed: bool = False,
        alone: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, a scalar with gradient, and each term's own mean, detached, as scaled but without its fixed weight.

        `scales`: a factor for each row (k,) of a term. Scaled so that the mean over ranks is the mean over the global
        batch; `alone`: of this rank's rows only, with no word to other ranks.
        """
        assert shown.hidden is not None
        zero = shown.hidden.new_zeros((), dtype=torch.float32)
        units, share, per_row = self._shares(terms, batch, alone)
        report = {name: zero.clone() for name in terms}
        total = zero
        for at, (row, place) in units.items():
            logit_terms = {name: w for name, w in terms.items() if w.at == at and on_logits(w.term)}
            if logit_terms:
                one = _OnLogits(self, logit_terms, batch, heard, row, place, share[at], scales or {}, mixed)
                total = total + one.loss(shown, report)
        others = {name: w for name, w in terms.items() if not on_logits(w.term)}
        said = [self.to(shown, one) for one in heard] if others else []
        for name, w in others.items():
            each = self._each_row(w.term, batch, shown, heard, said)
            if scales and name in scales:
                each = each * scales[name]
            value = (each * share[w.at] * per_row[w.at]).sum()
            report[name] = value.detach()
            total = total + w.weight * value
        return total, {"loss": total.detach(), **report}

    def _shares(
        self, terms: Mapping[str, WeightedTerm], batch: Batch, alone: bool
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
        """By kind of unit: their places, the share (k,) of one unit of a row in the mean, how many units (k,) a row has."""
        real = batch.real.to(torch.float32)
        units = {w.at: units_of(batch, w.at) for w in terms.values()}  # a dict: all ranks in the same order
        per_row = {at: torch.bincount(u[0], minlength=len(batch)) * real for at, u in units.items()}
        # rows that have such a unit at all: the labels of augmented rows are unknown
        counted = {at: (n > 0).sum() for at, n in per_row.items()}
        sums = torch.stack([real.sum(), *(n.sum() for n in per_row.values()), *(n.to(real) for n in counted.values())])
        if not alone:
            sums = (
                distributed.all_sum(sums.double()).to(sums) / distributed.world()
            )  # DDP will take the mean over ranks
        sizes = dict(zip(per_row, sums[1 : 1 + len(per_row)], strict=True))
        rows = dict(zip(per_row, sums[1 + len(per_row) :], strict=True))
        # rows that only keep an idle rank in step have no share
        share = {
            at: real / (rows[at].clamp_min(1e-9) * n.clamp_min(1)) if self.by_rows else real / sizes[at].clamp_min(1e-9)
            for at, n in per_row.items()
        }
        return units, share, per_row

    def _each_row(
        self, term: Term, batch: Batch, shown: Outputs, heard: Sequence[TeacherAnswer], said: Sequence[Outputs]
    ) -> Tensor:
        """A term's value (k,) of each row: of all teachers, by weight."""
        if is_joint(term):
            return term(shown, [one.answer for one in heard])
        total = batch.real.new_zeros(len(batch), dtype=torch.float32)
        for one, student in zip(heard, said, strict=True):
            each = term(student, one.answer)
            each = each if one.weight is None else each * one.weight
            total = total + (each if one.index is None else torch.zeros_like(total).index_add(0, one.index, each))
        return total

    def to(self, shown: Outputs, one: TeacherAnswer) -> Outputs:
        """What the student shows of the rows a teacher heard, in that teacher's width."""
        if one.index is not None:
            assert one.answer.mask is not None
            shown = shown.take(one.index, one.answer.mask.shape[1])
        if str(one.place) not in self.bridges:
            return shown
        bridge = self.bridges[str(one.place)]
        states = shown.states
        if states is not None:
            states = (bridge["embeddings"](states[0]), *(bridge["states"](state) for state in states[1:]))  # pyright: ignore
        return replace(shown, hidden=bridge["states"](shown.hidden), states=states)  # pyright: ignore


@dataclass(frozen=True)
class _TeacherLogits:
    """A teacher's `logits` of a slice of the units `which` (n,), ascending (None: all), and its weight."""

    teacher: Teacher
    logits: Callable[[slice], Tensor]
    which: Tensor | None
    weight: Tensor | None

    def of(self, chunk: slice) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Its logits of the units in `chunk`, their places in it (None: all of it), their weights."""
        if self.which is None:
            weight = None if self.weight is None else self.weight[chunk]
            return self.logits(chunk), None, weight
        bounds = torch.tensor([chunk.start, chunk.stop], device=self.which.device)
        low, high = torch.searchsorted(self.which, bounds).tolist()
        weight = None if self.weight is None else self.weight[low:high]
        return self.logits(slice(low, high)), self.which[low:high] - chunk.start, weight


class _OnLogits:
    """The terms on logits of one kind of unit."""

    def __init__(
        self,
        objective: Objective,
        terms: Mapping[str, WeightedTerm],
        batch: Batch,
        heard: Sequence[TeacherAnswer],
        row: Tensor,
        place: Tensor,
        share: Tensor,
        scales: Mapping[str, Tensor],
        mixed: bool,
    ) -> None:
        self.student, self.sizes = objective.student, (objective.chunk, objective.piece)
        self.terms, self.row, self.place, self.mixed = terms, row, place, mixed
        self.labels = batch.labels[row] if self.student.per_row else batch.labels[row, place]
        self.share = share[row]
        self.scales = {name: scales[name][row] for name in terms if name in scales}
        asked = any(queries_teacher(w.term) for w in terms.values())
        self.told = [self._told(one, len(batch)) for one in heard] if asked else []

    def _told(self, one: TeacherAnswer, rows: int) -> _TeacherLogits:
        row, place, which = self.row, self.place, None
        if one.index is not None:
            where = row.new_full((rows,), -1)
            where[one.index] = torch.arange(len(one.index), device=row.device)
            which = (where[row] >= 0).nonzero().flatten()
            row, place = where[row[which]], place[which]
        logits = one.teacher.logits(one.answer, one.units, row, place)
        return _TeacherLogits(one.teacher, logits, which, None if one.weight is None else one.weight[row])

    def loss(self, shown: Outputs, report: dict[str, Tensor]) -> Tensor:
        """The weighted sum over all units; each term's own goes to `report`."""

        def loss_of(logits: Tensor, chunk: slice) -> Tensor:
            student = Outputs(logits=logits, labels=self.labels[chunk])
            pairs = list(self._pairs(logits, chunk))
            loss = logits.new_zeros((), dtype=torch.float32)
            for name, w in self.terms.items():
                each = self._value(w.term, student, pairs)
                if name in self.scales:
                    each = each * self.scales[name][chunk]
                value = (each * self.share[chunk]).sum()
                report[name] += value.detach()
                loss = loss + w.weight * value
            return loss

        vectors = self.student.vectors(shown, self.row, self.place)
        return chunked_loss(self.student.project, loss_of, vectors, self.student.head_parameters(), *self.sizes)

    def _pairs(self, logits: Tensor, chunk: slice) -> Iterator[tuple[Outputs, Outputs, Tensor | None, Tensor | None]]:
        """Student and teacher as terms compare them, the units of the chunk they are about, and their weights."""
        answers = [(told.teacher.classes, *told.of(chunk)) for told in self.told]
        if self.mixed and answers:
            yield Outputs(logits=logits), Outputs(logits=mixture(answers, *logits.shape)), None, None
            return
        for classes, theirs, which, weight in answers:
            mine = logits if which is None else logits[which]
            yield Outputs(logits=mine if classes is None else mine[:, classes]), Outputs(logits=theirs), which, weight

    @staticmethod
    def _value(
        term: Term, student: Outputs, pairs: Sequence[tuple[Outputs, Outputs, Tensor | None, Tensor | None]]
    ) -> Tensor:
        if not queries_teacher(term):
            return term(student, None)
        assert student.logits is not None
        total = student.logits.new_zeros(len(student.logits), dtype=torch.float32)
        for mine, theirs, which, weight in pairs:
            each = term(mine, theirs)
            each = each if weight is None else each * weight
            total = total + (each if which is None else torch.zeros_like(total).index_add(0, which, each))
        return total


def mixture(
    answers: Sequence[tuple[Sequence[int] | None, Tensor, Tensor | None, Tensor | None]], units: int, classes: int
) -> Tensor:
    """One answer (units, classes) of several: the log of the weighted sum of their probabilities, each over the classes it knows.

    An answer: the classes it is about (None: all), its logits, the units it is about (None: all), a weight for each
    (None: 1). Of regression's one output the weighted sum itself. A softened answer softens the mixture.
    """
    total = answers[0][1].new_zeros(units, classes, dtype=torch.float32)
    for known, logits, which, weight in answers:
        each = logits.float() if classes == 1 else F.softmax(logits.float(), -1)
        each = each if weight is None else each * weight.unsqueeze(1)
        if known is not None:
            each = each.new_zeros(len(each), classes).index_copy(1, torch.tensor(known, device=each.device), each)
        total = total + (each if which is None else torch.zeros_like(total).index_add(0, which, each))
    return total if classes == 1 else torch.where(total > 0, total.clamp_min(1e-38).log(), NOTHING)
