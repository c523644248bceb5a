"""Costs of the steps of a training before its first step: teacher queries and model FLOPs, expected and at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch

from kdlab.callbacks.select import needed_outputs
from kdlab.config.groups.select import SelectConfig
from kdlab.methods import adoption
from kdlab.methods.knowledge.base import queries_teacher
from kdlab.methods.marks import function_of, marks_of
from kdlab.methods.selection.candidates import candidate_count
from kdlab.methods.selection.rewards.base import reads
from kdlab.methods.selection.row_selector import warmup_steps
from kdlab.methods.selection.top_k import selection_size
from kdlab.modules.flop_accounting import FlopCounter
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.probes.paired_probe import PART
from kdlab.modules.student import StudentModule
from kdlab.stages import ksm_training, observation
from kdlab.stages.base import Stage
from kdlab.stages.costs.batches import largest_rows, some_positions, typical_rows
from kdlab.stages.costs.scoring import ScoringCosts
from kdlab.stages.costs.step_cost import StepCost
from kdlab.types import Batch

OBSERVATION = "observation"  # part of the ledger
SAMPLED = 64  # global batches that the mean FLOPs are taken over
ONE_EACH = (adoption.hard, adoption.alone, adoption.by_column)  # rules by which each row queries one teacher


class StepCosts:
    """The costs of a training of `module` on `data` by `world` processes, from the models' sizes and the rows' lengths.

    Queries are exact where the number of rows that query each teacher is known; FLOPs are expected ones: a strategy keeps
    rows of the mean length of their batch, a policy takes each arm as often, a cache answers nothing. `most` is never
    exceeded by a step.
    """

    def __init__(self, stage: Stage, module: StudentModule, data: Any, world: int) -> None:
        self.stage, self.module, self.data, self.world = stage, module, data, world
        self.config, self.select = stage.config, stage.config.select
        self.accumulate = stage.config.trainer.accumulate
        self.order = data.sampler(0, world)
        self.rows, self.collate = data.training_rows()
        self.counter: FlopCounter = module.distillation.flops
        self.terms = module.distillation.terms
        self.scoring = ScoringCosts(stage, module, self.select)
        rules = stage.adoption() if module.teachers else None
        self.rules = list(rules.arms.values()) if rules else []
        weighing = ksm_training.needed_fields(stage)
        needs = frozenset().union(*(marks_of(rule).needs for rule in self.rules))
        self.own_uncertainty = "student" in needs or "uncertainty" in weighing
        self.asked_first = "teachers" in needs
        self.weighs_units = ksm_training.weighs_units(stage)
        bound = min(10_000, -(-len(self.order) // self.accumulate))
        per_step = self.config.data.batch_size * world * self.accumulate
        planned = observation.planned(self.select, stage.selection(), per_step, bound)
        self.observe(observation.resolved(self.select, planned))
        self._per_row: dict[tuple[tuple[str, ...], float], StepCost] = {}
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
        self._of_longest: Any = ()  # the batch that `_longest` made last

    def observe(self, select: SelectConfig) -> None:
        """Take the interval and the rows of observations from `select`."""
        self.select = select
        self._observed = (
            list(self.data.observed_batches(select.evaluation_rows, select.observe == "held_out"))
            if self._adaptive or (select.probe_every is not None and select.ratio < 1)
            else []
        )

    # ---- totals

    def total(self, steps: int) -> StepCost:
        """The expected cost of a training of so many steps."""
        whole = self._observations(steps) + self._probes(steps)
        for start, end, terms in self._phases(steps):
            first, last = start * self.accumulate, end * self.accumulate
            rows, kept = (self._seen(last, count) - self._seen(first, count) for count in (int, self._kept))
            whole += self._flops_per_row(tuple(terms)) * rows + StepCost(kept * self._queries_per_row(terms))
            if start >= self._warm(steps):
                whole += StepCost(
                    self._read_first(self._seen(last, self._candidates) - self._seen(first, self._candidates))
                )
            else:  # random rows are not scored
                whole += StepCost(kept * self._shares(terms)[-1] if self.scoring.reads_teacher else 0.0)
                whole += StepCost(0, {"scoring": -self._flops_per_row(tuple(terms)).parts.get("scoring", 0.0) * rows})
        return whole

    def most(self, step: int, steps: int) -> StepCost:
        """A cost that the optimizer step number `step` of `steps` does not exceed, from the rows of its batches."""
        terms = next(terms for start, end, terms in self._phases(steps) if start <= step < end)
        cost, since = StepCost(), step - self._warm(steps)
        if self._adaptive and not self._from_scored and since >= 0 and since % self.select.interval == 0:
            cost = self._observation(terms, since == 0)
        for micro in range(step * self.accumulate, min((step + 1) * self.accumulate, len(self.order))):
            cost += self._most_of(self._global_batch(micro), terms)
        if self.accumulate > 1 and self.scoring.arms:
            looked = [largest_rows(batch, self._candidates(len(batch))) for batch in self._micro_batches(step)]
            more = [
                self.scoring.layers_together(arm, looked) - sum(self.scoring.layers(arm, batch) for batch in looked)
                for arm in self.scoring.arms
            ]
            cost += StepCost(0, {"scoring": max(0.0, *more)})
        measured, rewarded = (step in due for due in self._probed(steps))
        once = measured and self._compared == "all"  # what is measured is the reward too
        return cost + self._probe(terms, step) * (measured + (rewarded and not once))

    def _phases(self, steps: int) -> list[tuple[int, int, dict[str, WeightedTerm]]]:
        """First step, end and terms of each stretch of a training in which the same terms count, the warm-up apart."""
        shares = sorted({0.0, 1.0, *(s for w in self.terms.values() for s in (w.since, w.until))})
        begins = sorted({self._warm(steps), *(int(np.ceil(share * steps - 1e-9)) for share in shares)})
        found = []
        for start, end in zip(begins, begins[1:], strict=False):
            if start < end:
                found.append((start, end, {n: w for n, w in self.terms.items() if w.since <= start / steps < w.until}))
        return found

    def _warm(self, steps: int) -> int:
        """The steps of the warm-up of a training of so many."""
        return warmup_steps(self.select.warmup, steps) if self.select.ratio < 1 else 0

    def _seen(self, micro_batches: int, count: Callable[[int], int]) -> int:
        """The sum of `count` (of the number of rows) over the first so many global batches."""
        epochs, rest = divmod(micro_batches, self.order.per_epoch)
        full = self.order.batch_size * self.world
        last = self.order.count - full * (self.order.per_epoch - 1)
        begun = sum(count(len(batch)) for batch in islice(self.order.epoch_batches(epochs), rest)) if rest else 0
        return epochs * ((self.order.per_epoch - 1) * count(full) + count(last)) + begun

    def _kept(self, rows: int, most: bool = False) -> int:
        """Rows of a global batch that query the teachers: of the mean ratio, or with `most` of the largest."""
        ratio = self.select.ratio_choices()[-1] if most else self.select.ratio
        if self.select.ratio == 1 or self.select.unit == "position":
            return rows
        if self.select.scope == "global":
            return selection_size(rows, ratio)
        shares = [len(part) for part in np.array_split(np.arange(rows), self.world)]
        return sum(selection_size(n, ratio) for n in shares if n)

    def _candidates(self, rows: int) -> int:
        """Rows of a global batch that are scored by a strategy that reads outputs of the student."""
        look, ratio = self.select.look, self.select.ratio
        parts = [rows] if self.select.scope == "global" else map(len, np.array_split(np.arange(rows), self.world))
        return sum(candidate_count(n, look, selection_size(n, ratio)) for n in parts if n)

    # ---- queries

    def _shares(self, terms: Mapping[str, WeightedTerm]) -> list[float]:
        """The expected share of the kept rows that query each teacher."""
        count = len(self.module.teachers)
        taught = [w for w in terms.values() if queries_teacher(w.term)]
        if not taught:
            return [0.0] * count
        if self.module.distillation.queries.joint or self.asked_first:
            return [1.0] * count
        if not self.rules:
            return [1.0 if self.counter.query_all or i == count - 1 else 0.0 for i in range(count)]
        probe = torch.linspace(0, 1, 2 * count + 1)[1::2].repeat_interleave(16)  # uncertainties, none of them 0 or 1
        shares = torch.stack([self._shares_by(rule, probe, count) for rule in self.rules]).mean(0).tolist()
        if any(w.reads_largest for w in taught):
            shares[-1] = 1.0
        return shares

    def _shares_by(self, rule: Any, probe: torch.Tensor, count: int) -> torch.Tensor:
        """The share (T,) of rows of the uncertainties `probe`, or of all rows where a rule goes by them, that query each teacher."""
        if "rows" not in marks_of(rule).needs:
            return (rule(probe, None, count) > 0).double().mean(0)
        rows = torch.arange(len(self.data.train))
        return (rule(torch.zeros(len(rows)), None, count, rows=rows) > 0).double().mean(0)

    def _queries_per_row(self, terms: Mapping[str, WeightedTerm], most: bool = False) -> float:
        shares = self._shares(terms)
        each = sum(shares[:-1] if self.scoring.reads_teacher and not most else shares)
        if most and each and self.rules and not all(function_of(rule) in ONE_EACH for rule in self.rules):
            each = float(len(shares))
        return each + (self.config.adopt.mc_dropout * len(shares) if each and self.asked_first else 0)

    def _read_first(self, rows: float) -> float:
        """Queries to choose among `rows` rows: one each."""
        return rows if self.scoring.reads_teacher else 0.0

    # ---- FLOPs

    def _flops_per_row(self, names: tuple[str, ...], replay: float | None = None) -> StepCost:
        """Expected FLOPs a row of the global batches, by the names of the terms that count. `replay`: rows trained on again
        for each row kept (None: as the training has them)."""
        again = self._replayed if replay is None else replay
        if (names, again) not in self._per_row:
            terms = {name: self.terms[name] for name in names}
            costs = sum((self._expected(rows, terms, again) for rows in self._sample), StepCost())
            self._per_row[names, again] = costs * (1 / sum(len(rows) for rows in self._sample))
        return self._per_row[names, again]

    @cached_property
    def _sample(self) -> list[np.ndarray]:
        batches = self.order.epoch_batches(0)
        return [batches[i] for i in sorted({*np.linspace(0, len(batches) - 1, SAMPLED).round().astype(int).tolist()})]

    @cached_property
    def _together(self) -> list[float]:
        """For each arm, FLOPs of layers that score the micro-batches of a step together, over those of each alone."""
        if self.accumulate == 1:
            return [1.0] * len(self.scoring.arms)
        last = max(0, min(self.order.per_epoch, len(self.order)) // self.accumulate - 1)
        steps = [self._micro_batches(step) for step in sorted({*np.linspace(0, last, 8).round().astype(int).tolist()})]
        found = []
        for arm in self.scoring.arms:
            alone = sum(self.scoring.layers(arm, batch) for batches in steps for batch in batches)
            together = sum(self.scoring.layers_together(arm, batches) for batches in steps)
            found.append(together / alone if alone else 1.0)
        return found

    def _micro_batches(self, step: int) -> list[Batch]:
        """The global batches of the optimizer step number `step`."""
        end = min((step + 1) * self.accumulate, len(self.order))
        return [self._batch(*self._global_batch(micro)) for micro in range(step * self.accumulate, end)]

    def _expected(self, rows: np.ndarray, terms: Mapping[str, WeightedTerm], replay: float) -> StepCost:
        """Expected FLOPs of a global batch of these rows, with `replay` rows trained on again for each row kept."""
        batch = self._batch(rows, 0)
        scored = [
            self.scoring.scoring(arm, batch) + self.scoring.layers(arm, batch) * (together - 1)
            for arm, together in zip(self.scoring.arms, self._together, strict=True)
        ] or [0.0]
        chosen = typical_rows(batch, self._kept(len(rows)))
        training = self._training(batch, chosen, terms, self._shares(terms), replay=replay)
        again = [self.scoring.positions(arm, chosen) for arm in self.scoring.arms] or [0.0]
        training += StepCost(0, {"scoring": sum(again) / len(again)})
        if not self.module.labels_on_all:  # by the mean length of the batch, from which a few rows differ
            tokens = [float(each.attention_mask.sum()) / len(each) for each in (batch, chosen)]
            training *= tokens[0] / tokens[1]
        share = self.scoring.scored_share(self._candidates(len(rows)) / len(rows))
        return training + (self.scoring.answers(batch) + StepCost(0, {"scoring": sum(scored) / len(scored)})) * share

    def _most_of(self, rows: tuple[np.ndarray, int], terms: Mapping[str, WeightedTerm]) -> StepCost:
        """The cost of a global batch (rows, epoch) if the largest rows are selected and query all teachers."""
        batch = self._batch(*rows)
        kept = self._kept(len(rows[0]), most=True)
        queries = kept * self._queries_per_row(terms, most=True)
        shares = [float(share > 0 or bool(self.rules and queries)) for share in self._shares(terms)]
        looked, largest = largest_rows(batch, self._candidates(len(rows[0]))), largest_rows(batch, kept)
        scored = max((self.scoring.scoring(arm, looked) for arm in self.scoring.arms), default=0.0)
        scored += max((self.scoring.positions(arm, largest) for arm in self.scoring.arms), default=0.0)
        cost = self._training(batch, largest, terms, shares, most=True) + StepCost(queries, {"scoring": scored})
        if self.select.replay:  # the longest rows of all: those that come again are of any batch
            longest = self._longest(max(1, int(self.select.replay * kept + 0.5)))
            again = self._training(longest, longest, terms, shares, most=True)
            cost += StepCost(0, {part: n for part, n in again.parts.items() if part != "teacher_forward"})
        if (
            self._from_scored
        ):  # by an arm that runs no head, or that scores nothing: a forward as an arm that scores has
            units = len(looked) if self.module.per_row else int(looked.labelled().sum())
            layers = self.counter.student_layers(looked) if self.module.labels_on_all else 0
            amount = layers + self.counter.student_head(units)
            cost += StepCost(0, {OBSERVATION: amount})
        # rows kept at random may not have been scored, so that none of their answers is cached
        return (
            cost
            + self.scoring.answers(looked)
            + self.scoring.answers(largest)
            + StepCost(self._read_first(len(looked)))
        )

    def _training(
        self,
        whole: Batch,
        chosen: Batch,
        terms: Mapping[str, WeightedTerm],
        shares: Sequence[float],
        most: bool = False,
        replay: float = 0.0,
    ) -> StepCost:
        """FLOPs of a step without scoring: the rows `chosen` query the teachers, each teacher the share `shares` of them;
        the student trains on them and on `replay` others for each, or with labels on all rows on the `whole` batch. `most`:
        with most positions."""
        taught = {name: w for name, w in terms.items() if queries_teacher(w.term)}
        others = {name: w for name, w in terms.items() if name not in taught}
        needed, counter = self.module.distillation.needed(terms), self.counter
        rows, chosen = chosen, some_positions(chosen, self.select.position_share(most), self.select.per_row)
        queried = [(i, chosen) for i, each in enumerate(shares) if each]
        own = frozenset[str]()
        if self.module.labels_on_all or self.select.unit != "row":  # scored from this forward
            own = own.union(
                *(needed_outputs(arm, self.module.per_row, self.scoring.votes) for arm in self.scoring.arms)
            )
        if self.module.labels_on_all:
            forward, backward = counter.student_step([(others, whole), (taught, chosen)], whole, queried, needed, own)
        else:
            forward, backward = counter.student_step([(terms, chosen)], rows, queried, needed, own)
        units = len(chosen) if self.module.per_row else int(chosen.labelled().sum())
        forward += counter.student_head(units) * (self.own_uncertainty + self.weighs_units) if taught else 0
        samples = self.config.adopt.mc_dropout
        cached = [len(shares) - 1] if self.scoring.reads_teacher else []
        teachers = sum(
            (number not in cached)
            * each
            * counter.teacher(taught.values(), chosen, number, needed, self.asked_first or self.weighs_units, samples)
            for number, each in enumerate(shares)
        )
        forward, backward = forward * (1 + replay), backward * (1 + replay)
        return StepCost(0, {"student_forward": forward, "student_backward": backward, "teacher_forward": teachers})

    # ---- selection

    @cached_property
    def _replayed(self) -> float:
        """Rows trained on again for each row kept, on average: the batch number n has those of n others behind it."""
        share, batches = self.select.replay, len(self.order)
        begun = min(batches, math.ceil(share))
        return (sum(min(share, n) for n in range(begun)) + share * (batches - begun)) / batches if share else 0.0

    @cached_property
    def _adaptive(self) -> bool:
        return self.select.ratio < 1 and self.stage.selection().reward is not None

    @cached_property
    def _from_scored(self) -> bool:
        return self._adaptive and observation.from_scored(self.select, self.stage.selection())

    def _observations(self, steps: int) -> StepCost:
        """The cost of all observations of an adaptive policy."""
        if not self._adaptive:
            return StepCost()
        terms, count = self._phases(steps)[0][2], -(-(steps - self._warm(steps)) // self.select.interval)
        if self._from_scored:  # none at the first step, before which nothing was scored
            apart = observation.apart(self.select, self.stage.selection())
            return self._observation(terms, False) * (apart * (count - (self._warm(steps) == 0)))
        return self._observation(terms, True) + self._observation(terms, False) * (count - 1)

    def _observation(self, terms: Mapping[str, WeightedTerm], first: bool) -> StepCost:
        """The cost of an observation; with `observe=kd` the `first` queries the teachers."""
        counter, kd, cost = self.counter, self.select.observe == "kd", StepCost()
        needed = self.module.distillation.needed(self.terms if kd else {})
        for batch in self._observed:
            units = len(batch) if self.module.per_row else int(batch.labelled().sum())
            if not kd:
                cost += StepCost(0, {OBSERVATION: counter.student_layers(batch) + counter.student_head(units)})
                continue
            count = len(self.module.teachers)
            numbers = range(0 if counter.query_all else count - 1, count)
            amount = counter.student_layers(batch, needed)
            amount += counter.objective(terms.values(), batch, [(i, batch) for i in numbers], needed)
            taught = [w for w in terms.values() if queries_teacher(w.term)]
            amount += sum(
                counter.teacher(taught, batch, i, needed) - counter.teacher([], batch, i, needed) for i in numbers
            )
            if first:
                asked = sum(counter.teacher([], batch, i, needed) for i in numbers)
                cost += StepCost(len(batch) * len(numbers), {"teacher_forward": asked})
            cost += StepCost(0, {OBSERVATION: amount})
        return cost

    @cached_property
    def _compared(self) -> Any:
        """The arms that a probe for a reward compares, "all" or a number; None where no reward takes a probe."""
        reward = self.stage.selection().reward if self.select.ratio < 1 else None
        return reward.compare if "probe" in reads(reward) else None  # pyright: ignore[reportOptionalMemberAccess]

    def _probed(self, steps: int) -> tuple[range, range]:
        """The steps of a training of so many at which all arms are probed, and those with a probe for a reward; none in
        the warm-up."""
        warm, every = self._warm(steps), self.select.probe_every if self.select.ratio < 1 else None
        measured = range(-(-warm // every) * every, steps, every) if every else range(0)
        return measured, range(warm, steps, self.select.interval) if self._compared else range(0)

    def _probes(self, steps: int) -> StepCost:
        """The expected cost of all paired probes."""
        measured, rewarded = self._probed(steps)
        if not measured and not rewarded:
            return StepCost()
        terms, count, arms = self._phases(steps)[0][2], len(measured), len(self.scoring.arms)
        rows = self._seen(self.select.probe_steps * self.accumulate, int)
        kept = self._seen(self.select.probe_steps * self.accumulate, self._kept)
        one = _in_one_part(
            self._flops_per_row(tuple(terms), 0.0) * rows + StepCost(kept * self._queries_per_row(terms))
        )
        whole = (one * arms + self._probe_observations(terms, arms)) * count
        own = [step for step in rewarded if self._compared != "all" or step not in measured]
        arms = arms if self._compared == "all" else min(arms, self._compared or 0)
        return whole + (one * arms + self._probe_observations(terms, arms)) * len(own)

    def _probe(self, terms: Mapping[str, WeightedTerm], step: int) -> StepCost:
        """A cost that a paired probe at `step` does not exceed."""
        cost = StepCost()
        for micro in range(step * self.accumulate, (step + self.select.probe_steps) * self.accumulate):
            cost += self._most_of(self._global_batch(micro), terms)
        arms = len(self.scoring.arms)
        return _in_one_part(cost) * arms + self._probe_observations(terms, arms)

    def _probe_observations(self, terms: Mapping[str, WeightedTerm], arms: int) -> StepCost:
        """The cost of observing before a probe and after each of its arms."""
        return _in_one_part(self._observation(terms, False)) * (1 + arms)

    # ---- batches

    def _longest(self, count: int) -> Batch:
        """A batch of the `count` longest training rows."""
        if len(self._of_longest) != count:
            lengths = np.asarray(self.data.lengths)
            self._of_longest = self._batch(np.argsort(-lengths, kind="stable")[:count], 0)
        return self._of_longest

    def _global_batch(self, micro: int) -> tuple[np.ndarray, int]:
        epoch, place = divmod(micro, self.order.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self.order.epoch_batches(epoch))
        return self._epoch[1][place], epoch

    def _batch(self, rows: np.ndarray, epoch: int) -> Batch:
        return self.collate([self.rows[epoch, int(row)] for row in rows])


def _in_one_part(cost: StepCost) -> StepCost:
    """A cost whose FLOPs are those of a paired probe."""
    return StepCost(cost.queries, {PART: cost.flops})
