"""Weighing rules applied to a step, and what all rules of a step decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.knowledge.weighing import Weighing
from kdlab.methods.marks import marks_of
from kdlab.modules.objective import Objective, TeacherAnswer, WeightedTerm
from kdlab.modules.teacher_queries import TeacherQueries, gather_rows_of_all, own_rows
from kdlab.runtime import distributed
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Outputs


class TermWeights:
    """Applies weighing rules to `terms`, and keeps what was decided.

    `layers`: how many each teacher has. `decided`: what the last step's rules decided, means over all ranks' rows.
    """

    def __init__(
        self, terms: Mapping[str, WeightedTerm], hearing: TeacherQueries, objective: Objective, layers: Sequence[int]
    ) -> None:
        self.terms, self.hearing, self.objective, self.layers = terms, hearing, objective, layers
        self.decided: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    @property
    def teachers(self) -> Sequence[Teacher]:
        return self.hearing.teachers

    def scales(
        self,
        rule: Weighing | None,
        batch: Batch,
        shown: Outputs,
        heard: Sequence[TeacherAnswer],
        heed: Tensor,
        progress: float,
        rng: torch.Generator,
        alone: bool,
    ) -> dict[str, Tensor]:
        """The factor (k,) of each term for this rank's rows by a weighing rule (collective); empty without one.

        UserError for a rule that gives anything but (M,) or (k, M) of the global batch's rows.
        """
        self._weights = {}
        if rule is None:
            return {}
        seen = self.hearing.situation(marks_of(rule).needs, batch, shown, heard, heed, alone)
        seen.progress, seen.rng = progress, rng
        names = tuple(self.terms)
        found = rule(seen, names).to(device=batch.rows.device, dtype=torch.float32).detach()
        real = gather_rows_of_all(batch.real, alone)
        rows = int(real.sum())
        if found.shape not in ((len(names),), (rows, len(names))):
            raise UserError(
                f"the weighing rule gave weights of shape {tuple(found.shape)}, expected {(len(names),)} or {(rows, len(names))}"
            )
        whole = found.new_ones(len(real), len(names))
        whole[real] = found
        self._weights = {f"weight_{name}": one for name, one in zip(names, whole[real].mean(0), strict=True)}
        return dict(zip(names, own_rows(whole, len(batch), alone).unbind(1), strict=True))

    def columns(self, kinds: Iterable[str]) -> list[str]:
        """The names that `decided` may hold, where rules of these kinds ("adopt", "weigh") are at work."""
        names = [f"weight_{name}" for name in self.terms] if "weigh" in kinds else []
        names += [f"asked_{teacher.name}" for teacher in self.teachers] if len(self.teachers) > 1 else []
        for name, w in self.terms.items():
            if marks_of(w.term).layer_mask is not None:
                for teacher, layers in zip(self.teachers, self.layers, strict=True):
                    names += _layer_names(name, teacher, layers)
        return names

    def note(
        self,
        terms: Mapping[str, WeightedTerm],
        heed: Tensor,
        batch: Batch,
        shown: Outputs,
        heard: Sequence[TeacherAnswer],
    ) -> None:
        """Keep what this step's rules decided (collective): weights of terms, the share of rows that heed each teacher
        (where there are several), the share that each layer of theirs is chosen in."""
        sums = [torch.stack([(h * batch.real).sum() for h in (heed > 0).T.float()])] if len(self.teachers) > 1 else []
        names = [f"asked_{teacher.name}" for teacher in self.teachers] if sums else []
        rows = [batch.real.sum().expand(len(names))]
        said = {one.place: one for one in heard}
        for name, w in terms.items():
            chooses = marks_of(w.term).layer_mask
            for i, teacher in enumerate(self.teachers if chooses else ()):
                chosen = torch.zeros(0, self.layers[i])
                if i in said and chooses is not None:
                    chosen = chooses(self.objective.to(shown, said[i]), said[i].answer)[said[i].asked.real]
                names += _layer_names(name, teacher, self.layers[i])
                sums.append(chosen.float().sum(0).to(heed.device))
                rows.append(torch.tensor(len(chosen), device=heed.device).expand(self.layers[i]))
        self.decided = dict(self._weights)
        if names:
            found = distributed.all_sum(torch.stack([torch.cat(sums).double(), torch.cat(rows).double()]))
            self.decided |= dict(zip(names, (found[0] / found[1].clamp_min(1)).unbind(), strict=True))


def _layer_names(term: str, teacher: Teacher, layers: int) -> list[str]:
    return [f"layer_{term}_{teacher.name}_{n + 1}" for n in range(layers)]
