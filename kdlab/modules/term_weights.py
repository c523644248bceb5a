"""Apply weighing rules to the knowledge terms of a step, and record the decisions of all its rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import queries_teacher
from kdlab.methods.knowledge.weighing import UnitWeights, Weighing
from kdlab.methods.marks import marks_of
from kdlab.modules.objective import Objective, TeacherAnswer, WeightedTerm, units_of
from kdlab.modules.teacher_queries import TeacherQueries
from kdlab.runtime import distributed
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Outputs, WeighingContext, moved


class TermWeights:
    """Applies weighing rules to `terms`, and records the decisions of a step.

    `layers`: the number of layers of each teacher. `decisions`: means of the last step's over all ranks' real rows, by
    column of knowledge.csv, each () on the device.
    """

    def __init__(
        self, terms: Mapping[str, WeightedTerm], queries: TeacherQueries, objective: Objective, layers: Sequence[int]
    ) -> None:
        self.terms, self.queries, self.objective, self.layers = terms, queries, objective, layers
        self.decisions: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    @property
    def teachers(self) -> Sequence[Teacher]:
        """The teachers that are queried, from small to large."""
        return self.queries.teachers

    def factors(
        self,
        rule: Weighing | None,
        batch: Batch,
        outputs: Outputs,
        answers: Sequence[TeacherAnswer],
        teacher_weights: Tensor,
        progress: float,
        rng: torch.Generator,
        local: bool,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The factor (k,) of each term for this rank's rows by a weighing rule (collective); empty without one. By a rule of
        single units the factors (k, L) of the terms that compare logits, and temperatures (k, L) (else None).

        UserError for a rule that returns another shape than (M,) or (k, M) of the global batch's real rows.
        """
        self._weights = {}
        if rule is None:
            return {}, None
        if (measure := marks_of(rule).summary) is not None:
            context = WeighingContext(progress=progress, epoch=batch.epoch, rng=rng)
            return self._of_units(rule, measure, context, batch, outputs, answers, local)
        context = self.queries.weighing_context(marks_of(rule).needs, batch, outputs, answers, teacher_weights, local)
        context.progress, context.rng = progress, rng
        names = tuple(self.terms)
        ruled = rule(context, names)
        assert isinstance(ruled, Tensor)
        ruled = moved(ruled, batch.rows.device).to(torch.float32).detach()
        every = distributed.gather_unless_local(batch.host.real, local)
        real = every.nonzero().flatten()
        rows = len(real)
        real = moved(real, ruled.device)
        if ruled.shape not in ((len(names),), (rows, len(names))):
            raise UserError(
                f"the weighing rule gave weights of shape {tuple(ruled.shape)}, expected {(len(names),)} or {(rows, len(names))}"
            )
        whole = ruled.new_ones(len(every), len(names))
        whole[real] = ruled
        self._weights = {f"weight_{name}": mean for name, mean in zip(names, whole[real].mean(0), strict=True)}
        return dict(zip(names, distributed.rows_of_this_rank(whole, len(batch), local).unbind(1), strict=True)), None

    def _of_units(
        self,
        rule: Weighing,
        measure: Callable[[Tensor, Tensor], Tensor],
        context: WeighingContext,
        batch: Batch,
        outputs: Outputs,
        answers: Sequence[TeacherAnswer],
        local: bool,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Factors and temperatures (k, L) of this rank's rows by a rule of single units (collective), 1 where there is no
        unit. UserError for a rule that returns no `UnitWeights` of all units."""
        taught = {name: w for name, w in self.terms.items() if queries_teacher(w.term)}
        row, token = units_of(batch, "labelled")
        found = self.objective.unit_summary(measure, taught, batch, outputs, answers)
        every = distributed.gather_unless_local(batch.host.real[row], local)
        real = moved(every.nonzero().flatten(), found.device)
        context.units = distributed.gather_unless_local(found, local)[real]
        ruled = rule(context, tuple(self.terms)) if len(context.units) else UnitWeights(context.units.new_zeros(0))
        units = len(context.units)
        if not isinstance(ruled, UnitWeights) or any(one is not None and one.shape != (units,) for one in ruled):
            raise UserError(f"the weighing rule weighs units, and gave no UnitWeights of the {units} there are")

        def placed(values: Tensor) -> Tensor:
            """(k, L) the values (U,) of all real units, at the positions of this rank's."""
            whole = torch.ones(len(every), device=batch.rows.device)
            whole[real] = values.detach().to(whole)
            grid = torch.ones(batch.labels.shape, device=batch.rows.device)
            place = [moved(x, grid.device) for x in (row, token)]
            grid[place[0], place[1]] = distributed.rows_of_this_rank(whole, len(row), local)
            return grid

        mean = ruled.factors.mean() if units else torch.ones((), device=batch.rows.device)
        self._weights = {f"weight_{name}": mean if name in taught else torch.ones_like(mean) for name in self.terms}
        factors = dict.fromkeys(taught, placed(ruled.factors))
        return factors, None if ruled.temperatures is None else placed(ruled.temperatures)

    def columns(self, kinds: Iterable[str]) -> list[str]:
        """The keys that `decisions` may have under rules of these kinds ("adopt", "weigh")."""
        names = [f"weight_{name}" for name in self.terms] if "weigh" in kinds else []
        names += [f"asked_{teacher.name}" for teacher in self.teachers] if len(self.teachers) > 1 else []
        for name, w in self.terms.items():
            for i in self._chosen_from(w):
                names += _layer_names(name, self.teachers[i], self.layers[i])
        return names

    def _chosen_from(self, weighted: WeightedTerm) -> Sequence[int]:
        """The numbers of the teachers among whose layers a term chooses."""
        if marks_of(weighted.term).layer_mask is None:
            return ()
        every = range(len(self.teachers))
        return every[-1:] if weighted.reads_largest else every

    def record(
        self,
        terms: Mapping[str, WeightedTerm],
        teacher_weights: Tensor,
        batch: Batch,
        outputs: Outputs,
        answers: Sequence[TeacherAnswer],
    ) -> None:
        """Record this step's decisions (collective): weights of terms; with several teachers the share of rows that
        query each; the share of a term's rows that learn from each teacher layer. `teacher_weights` (k, T)."""
        sums, names = [], []
        if len(self.teachers) > 1:
            sums = [torch.stack([(queries * batch.real).sum() for queries in (teacher_weights > 0).T.float()])]
            names = [f"asked_{teacher.name}" for teacher in self.teachers]
        rows = [batch.real.sum().expand(len(names))]
        by_teacher = {answer.number: answer for answer in answers}
        for name, w in terms.items():
            layer_mask = marks_of(w.term).layer_mask
            for i in self._chosen_from(w):
                chosen, learning = teacher_weights.new_zeros(self.layers[i]), batch.rows.new_zeros(())
                if i in by_teacher and layer_mask is not None:
                    answer = by_teacher[i]
                    learns = answer.queried.real
                    if answer.weight is not None and not w.reads_largest:
                        learns = learns & (answer.weight > 0)
                    mask = layer_mask(self.objective.projected(outputs, answer), answer.outputs)
                    chosen, learning = (mask.bool() & learns.unsqueeze(1)).float().sum(0), learns.sum()
                names += _layer_names(name, self.teachers[i], self.layers[i])
                sums.append(chosen)
                rows.append(learning.expand(self.layers[i]))
        self.decisions = dict(self._weights)
        if names:
            totals = distributed.all_sum(torch.stack([torch.cat(sums).double(), torch.cat(rows).double()]))
            means = (totals[0] / totals[1].clamp_min(1)).unbind()
            self.decisions |= dict(zip(names, means, strict=True))


def _layer_names(term: str, teacher: Teacher, layers: int) -> list[str]:
    return [f"layer_{term}_{teacher.name}_{n + 1}" for n in range(layers)]
