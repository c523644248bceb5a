"""The objective: knowledge terms, weighted and summed over units, rows and teachers, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kdlab.methods.knowledge.base import (
    Term,
    fields_beyond_logits,
    is_joint,
    on_logits,
    queries_teacher,
    temperature_of,
    term_marks,
)
from kdlab.methods.knowledge.mixture import PartialLogits, mixture
from kdlab.models.encoder import Encoder
from kdlab.models.sharding.trained import is_sharded
from kdlab.modules.chunked_loss import chunked_loss
from kdlab.runtime import distributed
from kdlab.teachers.cache.codec import UnitLogits
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Importance, Outputs, moved


@dataclass(frozen=True)
class WeightedTerm:
    """A knowledge term, its fixed `weight` and the units it is a mean over.

    `at` "labelled": units with a label (masked positions; rows of known class); "all": every unit (each real token;
    each row); "tokens": each row counts as many units as it has real tokens. The term counts from `since` to before
    `until`, shares of the optimizer steps in [0, 1]. `teacher` "adopted": it reads the teachers that adoption gives a
    row; "largest": the largest teacher, for every row. `head_only`: a term on logits trains the head alone, without a
    gradient into the layers below.
    """

    term: Term
    weight: float
    at: str = "labelled"
    since: float = 0.0
    until: float = 1.0
    teacher: str = "adopted"
    head_only: bool = False

    @property
    def reads_largest(self) -> bool:
        """True where the term reads the largest teacher for every row, whatever the adoption rule."""
        return self.teacher == "largest"


def needed_outputs(terms: Iterable[WeightedTerm], per_row: bool) -> frozenset[str]:
    """Outputs that terms read besides logits at a batch's predictions, as `Encoder.encode` takes them.

    "hidden" is among them where terms read logits of other tokens. `per_row`: the model is a classifier.
    """
    terms = list(terms)
    elsewhere = not per_row and any(on_logits(w.term) and w.at != "labelled" for w in terms)
    return frozenset({"hidden"} if elsewhere else ()).union(*(fields_beyond_logits(w.term) for w in terms))


def logit_groups(terms: Iterable[WeightedTerm]) -> list[tuple[str, bool]]:
    """The runs of the head that terms on logits share, each a kind of unit and `head_only`; kinds in order of the terms."""
    terms = list(terms)
    groups = {group for w in terms if (group := _logit_group(w)) is not None}
    order = list(dict.fromkeys(w.at for w in terms))
    return sorted(groups, key=lambda group: (order.index(group[0]), group[1]))


def _logit_group(w: WeightedTerm) -> tuple[str, bool] | None:
    return (w.at, w.head_only) if on_logits(w.term) else None


@dataclass(frozen=True)
class TeacherAnswer:
    """The answer of a teacher, number `number` of all, about the rows `index` (n,) of a batch (None: all of them).

    `index` is on the host. `outputs`: its hidden states of them; `queried`: these rows as they were passed to it; `weight`
    (n,): its adoption weight for each (None: 1). `cached_logits`: the logits, of an answer from a cache (None: they follow from
    `outputs`); `forwards`: the batches that a forward ran for.
    """

    number: int
    teacher: Teacher
    outputs: Outputs
    queried: Batch
    index: Tensor | None = None
    weight: Tensor | None = None
    cached_logits: UnitLogits | None = None
    forwards: Sequence[Batch] = ()


def units_of(batch: Batch, at: str) -> tuple[Tensor, Tensor]:
    """Row and token (U,) of each unit `at` (as in `WeightedTerm`), on the host; a classifier's unit is at the row's first
    token."""
    host = batch.host
    if host.labels.ndim == 1 and at != "tokens":
        rows = torch.arange(len(host))
        rows = rows[host.labelled()] if at == "labelled" else rows
        return rows, torch.zeros_like(rows)
    row, token = (host.labelled() if at == "labelled" else host.attention_mask.bool()).nonzero(as_tuple=True)
    return row, token


class Objective:
    """Sums weighted terms to one number.

    `bridges`: learnt projections to each teacher's width, by its number ("states", "embeddings"), owned by the module.
    `by_rows`: the mean over rows of row means; else the mean over the units of all rows. Either over all ranks' rows.
    At most `chunk` units have logits at a time, and terms read at most `piece` of them at once.
    """

    def __init__(self, student: Encoder, bridges: nn.ModuleDict, by_rows: bool, chunk: int, piece: int) -> None:
        self.student, self.bridges = student, bridges
        self.by_rows, self.chunk, self.piece = by_rows, chunk, piece

    def __call__(
        self,
        terms: Mapping[str, WeightedTerm],
        batch: Batch,
        outputs: Outputs,
        answers: Sequence[TeacherAnswer] = (),
        factors: Mapping[str, Tensor] | None = None,
        mixed: bool = False,
        local: bool = False,
        importance: Importance | None = None,
        temperatures: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, a scalar with gradient, and each term's own mean, detached, with factors but without fixed weight.

        `outputs`: the student's; `answers`: of several teachers, the largest last; `factors`: a factor for each row (k,)
        of a term, or for each position (k, L); `temperatures` (k, L): by which the logits of student and teacher are divided
        where they are compared; `mixed`: the teachers' answers are one `mixture` for terms on logits. The mean over ranks of the result
        is the mean over the global batch; `local`: it is the mean over this rank's rows, and no collective runs. With
        `importance` (k,) weights of the rows, or (k, L) of their positions, it is an estimate of the mean over the batch that they were sampled from.
        """
        assert outputs.hidden is not None
        zero = outputs.hidden.new_zeros((), dtype=torch.float32)
        units, share, per_row = self._shares(terms, batch, local, importance)
        losses = {name: zero.clone() for name in terms}
        total = zero
        for at, head_only in logit_groups(terms.values()):
            logit_terms = {name: w for name, w in terms.items() if _logit_group(w) == (at, head_only)}
            row, token = (moved(place, zero.device) for place in units[at])
            each = share[at][row]
            if importance is not None and importance.weights.ndim == 2:
                each = each * moved(importance.weights, each.device).to(each)[row, token]
            group = _LogitTerms(self, logit_terms, batch, answers, units[at], each, factors or {}, mixed, temperatures)
            total = total + group.loss(outputs, losses, head_only)
        others = {name: w for name, w in terms.items() if not on_logits(w.term)}
        projected = [self.projected(outputs, answer) for answer in answers] if others else []
        for name, w in others.items():
            each = self._row_values(w, batch, outputs, answers, projected)
            if factors and name in factors:
                each = each * factors[name]
            value = (each * share[w.at] * per_row[w.at]).sum()
            losses[name] = value.detach()
            total = total + w.weight * value
        return total, {"loss": total.detach(), **losses}

    @torch.no_grad()
    def unit_summary(
        self,
        measure: Callable[[Tensor, Tensor], Tensor],
        terms: Mapping[str, WeightedTerm],
        batch: Batch,
        outputs: Outputs,
        answers: Sequence[TeacherAnswer],
    ) -> Tensor:
        """Numbers (U, D) that `measure` makes of the logits of the student, its head without dropout, and of the one teacher of
        `terms`, at the units with a label; `chunk` of them at a time."""
        row, token = units_of(batch, "labelled")
        found, training = [], self.student.training
        group = _LogitTerms(self, terms, batch, answers, (row, token), row.float(), {}, False, measured=True)
        self.student.eval()
        try:
            vectors = self.student.vectors(outputs, row, token).detach()
            for start in range(0, max(1, len(row)), self.chunk):
                part = slice(start, min(start + self.chunk, len(row)))
                own = self.student.project(vectors[part])
                theirs = [one.of(part).logits for one in group.teacher_logits if len(own)]
                found.append(measure(own, theirs[-1] if theirs else own))
        finally:
            self.student.train(training)
        return torch.cat(found)

    def _shares(
        self, terms: Mapping[str, WeightedTerm], batch: Batch, local: bool, importance: Importance | None = None
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
        """By kind of unit: rows and tokens (U,) as of `units_of`, the share (k,) of one unit of a row in the mean, units (k,)
        per row."""
        real = batch.real.to(torch.float32)
        units = {w.at: units_of(batch, w.at) for w in terms.values()}  # a dict: all ranks in the same order
        counts = {at: torch.bincount(u[0], minlength=len(batch)) for at, u in units.items()}
        per_row = {at: moved(n, real.device) * real for at, n in counts.items()}
        # rows that have such a unit: the labels of augmented rows are unknown
        counted = {at: (n > 0).sum() for at, n in per_row.items()}
        sums = torch.stack([real.sum(), *(n.sum() for n in per_row.values()), *(n.to(real) for n in counted.values())])
        if not local:
            # DDP takes the mean over ranks
            sums = distributed.all_sum(sums.double()).to(sums) / distributed.world()
        if importance is not None:  # of the whole batch, whose rows are not here
            whole = [*(importance.units[at][0] for at in per_row), *(importance.units[at][1] for at in per_row)]
            sums[1:] = moved(torch.tensor(whole) / distributed.world(), sums.device)
            if importance.weights.ndim == 1:
                real = real * moved(importance.weights, real.device).to(real)
            elif batch.predicted is not None:  # a row's mean is over all positions that it had
                per_row = {at: batch.predicted.sum(1) * real for at in per_row}
        sizes = dict(zip(per_row, sums[1 : 1 + len(per_row)], strict=True))
        rows = dict(zip(per_row, sums[1 + len(per_row) :], strict=True))
        # rows that only keep an idle rank in step have no share
        share = {
            at: real / (rows[at].clamp_min(1e-9) * n.clamp_min(1)) if self.by_rows else real / sizes[at].clamp_min(1e-9)
            for at, n in per_row.items()
        }
        return units, share, per_row

    def _row_values(
        self,
        weighted: WeightedTerm,
        batch: Batch,
        outputs: Outputs,
        answers: Sequence[TeacherAnswer],
        projected: Sequence[Outputs],
    ) -> Tensor:
        """A term's value (k,) of each row, summed over teachers by their weights; `projected`: as of `projected`."""
        term = weighted.term
        if is_joint(term):
            return term(outputs, [answer.outputs for answer in answers])
        if weighted.reads_largest:
            return term(projected[-1], answers[-1].outputs)
        total = batch.real.new_zeros(len(batch), dtype=torch.float32)
        for answer, student in zip(answers, projected, strict=True):
            each = term(student, answer.outputs)
            each = each if answer.weight is None else each * answer.weight
            if answer.index is not None:
                index = moved(answer.index, each.device)
                each = torch.zeros_like(total).index_add(0, index, each)
            total = total + each
        return total

    def projected(self, outputs: Outputs, answer: TeacherAnswer) -> Outputs:
        """The student's outputs for the rows of an answer, projected to that teacher's width."""
        if answer.index is not None:
            assert answer.outputs.mask is not None
            outputs = outputs.take(answer.index, answer.outputs.mask.shape[1])
        if str(answer.number) not in self.bridges:
            return outputs
        bridge = self.bridges[str(answer.number)]
        states = outputs.states
        if states is not None:
            states = (bridge["embeddings"](states[0]), *(bridge["states"](state) for state in states[1:]))  # pyright: ignore
        return replace(outputs, hidden=bridge["states"](outputs.hidden), states=states)  # pyright: ignore


@dataclass(frozen=True)
class _TeacherLogits:
    """A teacher's `logits` of a slice of the units `which` (n,), ascending, on the host (None: all), and its weight for each
    (n,).

    The function returns logits (n, C) and None, or those of a stored answer (n, k) and their tokens.
    """

    teacher: Teacher
    logits: Callable[[slice], tuple[Tensor, Tensor | None]]
    which: Tensor | None
    weight: Tensor | None

    def of(self, chunk: slice) -> PartialLogits:
        """Its logits of the units in `chunk`; their positions are those in the chunk."""
        if self.which is None:
            weight = None if self.weight is None else self.weight[chunk]
            logits, tokens = self.logits(chunk)
            return PartialLogits(logits, self.teacher.classes, None, weight, tokens)
        low, high = torch.searchsorted(self.which, torch.tensor([chunk.start, chunk.stop])).tolist()
        weight = None if self.weight is None else self.weight[low:high]
        logits, tokens = self.logits(slice(low, high))
        units = moved(self.which[low:high] - chunk.start, logits.device)
        return PartialLogits(logits, self.teacher.classes, units, weight, tokens)


class _LogitTerms:
    """The terms on logits of one kind of unit, evaluated in chunks.

    `units`: their rows and tokens, as of `units_of`; `measured`: the teachers' logits are read by a function that is no term, so a stored answer is spread over all classes.
    """

    def __init__(
        self,
        objective: Objective,
        terms: Mapping[str, WeightedTerm],
        batch: Batch,
        answers: Sequence[TeacherAnswer],
        units: tuple[Tensor, Tensor],
        share: Tensor,
        factors: Mapping[str, Tensor],
        mixed: bool,
        temperatures: Tensor | None = None,
        measured: bool = False,
    ) -> None:
        self.student, self.sizes = objective.student, (objective.chunk, objective.piece)
        self.terms, self.units, self.mixed = terms, units, mixed
        row, token = (moved(place, batch.rows.device) for place in units)
        self.labels = batch.labels[row] if self.student.per_row else batch.labels[row, token]
        self.share = share
        self.factors = {
            name: factors[name][row] if factors[name].ndim == 1 else factors[name][row, token]
            for name in terms
            if name in factors
        }
        self.divisors = None if temperatures is None else temperatures[row, token].unsqueeze(1)
        taught = [w.term for w in terms.values() if queries_teacher(w.term)]
        sparse = not (mixed or measured) and all(term_marks(term).sparse for term in taught)
        found = [self._teacher_logits(answer, len(batch), sparse) for answer in answers] if taught else []
        self.teacher_logits = found

    def _teacher_logits(self, answer: TeacherAnswer, rows: int, sparse: bool) -> _TeacherLogits:
        """An answer's logits of the units; `sparse`: a cached one's as they are stored."""
        (row, token), which = self.units, None
        if answer.index is not None:
            position = row.new_full((rows,), -1)
            position[answer.index] = torch.arange(len(answer.index))
            which = (position[row] >= 0).nonzero().flatten()
            row, token = position[row[which]], token[which]
        weight = None
        if answer.weight is not None:
            weight = answer.weight[moved(row, answer.weight.device)]
        if sparse and answer.cached_logits is not None:
            stored = answer.teacher.stored_logits(answer.cached_logits, row, token)
            return _TeacherLogits(answer.teacher, stored, which, weight)
        whole = answer.teacher.logits(answer.outputs, answer.cached_logits, row, token)
        return _TeacherLogits(answer.teacher, lambda part: (whole(part), None), which, weight)

    def loss(self, outputs: Outputs, losses: dict[str, Tensor], head_only: bool) -> Tensor:
        """The weighted sum over all units, a scalar; each term's own mean is added to `losses`."""

        def loss_of(logits: Tensor, chunk: slice) -> Tensor:
            student = Outputs(logits=logits, labels=self.labels[chunk], progress=outputs.progress)
            parts = [one.of(chunk) for one in self.teacher_logits]
            compared = student
            if self.divisors is not None:
                divisor = self.divisors[chunk]
                compared = replace(student, logits=logits / divisor)
                parts = [
                    part._replace(logits=part.logits / (divisor if part.units is None else divisor[part.units]))
                    for part in parts
                ]
            loss = logits.new_zeros((), dtype=torch.float32)
            for name, w in self.terms.items():
                each = self._unit_values(name, w, compared if queries_teacher(w.term) else student, parts)
                if name in self.factors:
                    each = each * self.factors[name][chunk]
                value = (each * self.share[chunk]).sum()
                losses[name] += value.detach()
                loss = loss + w.weight * value
            return loss

        vectors = self.student.vectors(outputs, *self.units)
        vectors = vectors.detach() if head_only else vectors
        always = is_sharded(self.student)  # all ranks reduce the gradients of the same parameters, whatever their units
        return chunked_loss(self.student.project, loss_of, vectors, self.student.head_parameters(), *self.sizes, always)

    def _unit_values(
        self, name: str, weighted: WeightedTerm, student: Outputs, parts: Sequence[PartialLogits]
    ) -> Tensor:
        """A term's value (n,) of each unit, summed over teachers by their weights."""
        term, logits = weighted.term, student.logits
        if not queries_teacher(term):
            return term(student, None)
        assert logits is not None
        if is_joint(term):
            return term(student, [Outputs(logits=part.logits, classes=part.classes) for part in parts])
        if weighted.reads_largest:
            parts = [PartialLogits(parts[-1].logits, parts[-1].classes, tokens=parts[-1].tokens)]
        elif self.mixed:
            units, classes = logits.shape
            mean, weight = mixture(parts, units, classes, temperature_of(term) or 1.0)
            parts = [PartialLogits(mean, weight=weight)]
        total = logits.new_zeros(len(logits), dtype=torch.float32)
        for theirs, classes, which, weight, tokens in parts:
            own = logits if which is None else logits[which]
            own = own if classes is None else own[:, classes]
            each = term(Outputs(logits=own, progress=student.progress), Outputs(logits=theirs, tokens=tokens))
            each = each if weight is None else each * weight
            total = total + (each if which is None else torch.zeros_like(total).index_add(0, which, each))
        return total
