"""The forecast of one run: queries and FLOPs from the analytic model, seconds and memory from a few steps, disk from sizes."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlab.callbacks.checkpoint_schedule import GAP_FACTOR, MIN_GAP, RATE
from kdlab.data.tasks import dataset
from kdlab.errors import UserError
from kdlab.methods.selection.row_selector import warmup_steps
from kdlab.modules.student import StudentModule
from kdlab.runs import budget
from kdlab.runs.callbacks import steps_between
from kdlab.runs.closing.costs import RunCost
from kdlab.runs.forecast import preparation, stand_ins
from kdlab.runs.forecast.missing import FoundPreparation, NotPrepared, TemporaryRows, only_some_rows
from kdlab.runs.forecast.preparation import StageCost
from kdlab.runs.forecast.timing import TIMED, WARM, Timing, resolved_for, time_steps
from kdlab.runs.prepare import most_batches, quiet_libraries, threads_of
from kdlab.runtime.devices import first_device, peak_memory
from kdlab.runtime.ledger import Ledger
from kdlab.stages import cache_plan
from kdlab.stages.base import Stage
from kdlab.stages.costs.step_costs import StepCosts
from kdlab.stages.decision_callbacks import BEST
from kdlab.storage.files import user_errors

RANDOM = {"_target_": "kdlab.methods.selection.strategies.random", "_partial_": True}
FIXED = {"_target_": "kdlab.methods.selection.policies.Fixed"}
UNBOUNDED = 1 << 40  # steps of a baseline that its FLOPs alone end
KEPT = 2  # checkpoints


@dataclass(frozen=True)
class TrainingCost:
    """The cost of a training of `steps` optimizer steps: teacher queries, model FLOPs, seconds of the training itself, and a
    price (None: there are no rates)."""

    steps: int
    queries: float
    flops: float
    seconds: float
    price: float | None = None


@dataclass(frozen=True)
class Forecast:
    """The expected cost of a run.

    `run`: its training; `flops`: of each part; `evaluation`, `probes`: seconds beside the training; `memory`: bytes at the
    peak on each device; `disk`: bytes of the run folder in the end; `preparation`; `baselines`: "all data, as many steps",
    and "random" and "all data" for the same FLOPs; `rows`: a note where only some rows were read; `timed`: the steps that
    were timed and the number of devices.
    """

    run: TrainingCost
    flops: dict[str, float]
    evaluation: float
    probes: float
    memory: int
    disk: int
    preparation: list[StageCost]
    baselines: dict[str, TrainingCost]
    timed: dict[str, int]
    rows: str = ""

    @property
    def whole(self) -> float:
        """Seconds of the training with evaluations and probes, and of what must be prepared."""
        return self.run.seconds + self.evaluation + self.probes + sum(one.seconds for one in self.preparation)

    def as_json(self) -> dict[str, Any]:
        """Plain containers, as plan.json has them."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Forecast:
        """The forecast that `as_json` gave."""
        run = TrainingCost(**found["run"])
        baselines = {name: TrainingCost(**one) for name, one in found["baselines"].items()}
        stages = [StageCost(**one) for one in found["preparation"]]
        return cls(**{**found, "run": run, "baselines": baselines, "preparation": stages})


def forecast(stage: Stage, world: int) -> Forecast:
    """Forecast the run of a checked `stage` on `world` devices; writes nothing but a temporary folder, which it removes.

    UserError where the models do not fit into the memory of the GPU, and as the run itself would raise it.
    """
    trainer = stage.config.trainer
    quiet_libraries()
    torch.set_num_threads(threads_of(trainer.threads, world // trainer.num_nodes))
    with tempfile.TemporaryDirectory(prefix="kdlab-plan-") as folder, user_errors("planning", Path(folder)):
        try:
            return _Planner(stage, world, Path(folder)).forecast()
        except torch.OutOfMemoryError as error:
            raise UserError(
                "the models and a batch do not fit into the memory of this GPU: a smaller data.batch_size with a larger "
                "trainer.accumulate, or trainer.shard_teacher=true; the plan measures one process with whole models"
            ) from error


def on_other_ranks(student: nn.Module, world: int) -> int:
    """Bytes of the float32 weights, gradients and moments of a student sharded over `world` devices that the others store."""
    whole = sum(p.numel() * 4 * (4 if p.requires_grad else 1) for p in student.parameters())
    return whole - math.ceil(whole / world)


class _Planner:
    """The parts of one forecast, which share rows and models."""

    def __init__(self, stage: Stage, world: int, folder: Path) -> None:
        self.stage, self.world, self.config = stage, world, stage.config
        inputs = stage.inputs
        inputs.notify = lambda line: None
        self.store = inputs.store = TemporaryRows(
            inputs.store.root, inputs.notify, inputs.store.canonical, temporary=folder
        )
        inputs.prerequisites = FoundPreparation(inputs.store, inputs.about)
        self.notes: list[str] = []
        self.times = only_some_rows(inputs)
        self._without_augmented_rows()
        data = inputs.data_module(1, None)  # now the rows are there
        self.more = self.times() * self._copies
        if self.times() > 1:
            self.notes.append(
                f"costs by the first {len(data.train):,} rows of about {self.times() * len(data.train):,.0f}"
            )
        self.batches = self._batches(data)
        self.data = inputs.data_module(self.batches, None)
        self.ledger = Ledger(len(data.train), inputs.fixed_inputs)
        self.teachers = stand_ins.teachers_of(stage, self.ledger)
        self.student = stand_ins.student_of(stage)

    def _without_augmented_rows(self) -> None:
        """Plan with the original rows where the augmented ones are not made yet: making them takes a model."""
        augment, self._copies = self.config.data.augment, 1.0
        if augment is None:
            return
        try:
            _ = self.stage.inputs.train_folder  # pyright: ignore[reportAttributeAccessIssue]
        except NotPrepared:
            self.config.data.augment, self._copies = None, 1.0 + augment.copies
            self.notes.append(f"augmented rows are not made yet: {augment.copies} copies of each row, at most")

    def _batches(self, data: Any) -> int:
        """Micro-batches of the whole training, by trainer.max_steps and max_epochs."""
        steps, epochs = most_batches(self.config), self.config.trainer.max_epochs
        per_epoch = math.ceil(self.more * data.sampler(0, self.world).per_epoch)
        limits = [steps, None if epochs is None else epochs * per_epoch]
        return min(limit for limit in limits if limit is not None)

    def module(self, steps: int) -> StudentModule:
        """A module that trains the student; the same weights in all of them."""
        return self.stage.student_module(self.student, self.teachers, self.ledger, steps)

    def forecast(self) -> Forecast:
        """All parts together."""
        config, accumulate = self.config, self.config.trainer.accumulate
        costs = StepCosts(self.stage, self.module(1), self.data, self.world)
        steps, timing = -(-self.batches // accumulate), None
        if config.budget.given:
            per_step = None
            if config.budget.is_timed:
                timing, select = self.timed(self.stage, min(steps, 10_000))
                per_step = timing.step + timing.observation / select.interval
            limits = budget.limits_of(self.stage, budget.asked(config.budget))
            steps = budget.planned(self.stage, costs, limits, per_step).steps
        found, select = self.timed(self.stage, steps)
        costs.observe(select)
        total = costs.total(steps)
        observed = -(-(steps - warmup_steps(select.warmup, steps)) // select.interval) if found.observation else 0
        seconds = steps * found.step + observed * found.observation + found.first
        run = TrainingCost(steps, total.queries, total.flops, seconds, self.price(total.queries, seconds))
        whole, baselines = self.baselines(run)
        every = steps_between(config.trainer.evaluate_every, steps)
        evaluation = found.row * (-(-steps // every) * self.heldout(False) + self.heldout(True))
        probed = config.trainer.probes if self.stage.inputs.queries_teacher else 0
        made = preparation.stages(
            self.stage, steps * accumulate, self.world, RunCost(run.queries, run.flops, run.seconds)
        )
        memory = peak_memory(first_device(config.trainer.accelerator))  # of the preparation too: one process does both
        if config.trainer.shard_student:  # the whole of it was measured
            memory -= on_other_ranks(self.student.model, self.world)
        return Forecast(
            run,
            dict(total.parts),
            evaluation,
            min(probed, steps) * whole.step,
            memory,
            self.disk(run),
            made,
            baselines,
            {"steps": found.steps, "devices": self.world},
            "; ".join(self.notes),
        )

    def timed(self, stage: Stage, steps: int, heldout: bool = True) -> tuple[Timing, Any]:
        """The seconds of a step of `stage`, and its selection for so many steps."""
        select = resolved_for(stage, self.world, steps)
        module = self.module(WARM + TIMED)
        return time_steps(stage, module, self.data, select, self.world, self.ledger, heldout), select

    def baselines(self, run: TrainingCost) -> tuple[Timing, dict[str, TrainingCost]]:
        """The seconds of a step on all data, and the costs of the baselines."""
        select = self.config.select
        settings = {
            "name": "random",
            "arms": {"random": RANDOM},
            "policy": FIXED,
            "reward": None,
            "scoring": "fresh",
            **BEST,
        }
        every = {} if select.ratios is None else settings
        all_rows = self._with(replace(select, **{**every, "ratio": 1.0, "replay": 0.0}))
        whole, _ = self.timed(all_rows, run.steps, heldout=False)
        found = {}
        if select.ratio < 1:
            found["all data, as many steps"] = self.cost(all_rows, whole, run.steps)
            found["all data, same FLOPs"] = self.cost(all_rows, whole, None, run.flops)
            if select.replay or list(self.stage.selection().arms) != ["random"]:
                at_random = self._with(replace(select, **settings))
                timing, _ = self.timed(at_random, run.steps, heldout=False)
                found["random, same FLOPs"] = self.cost(at_random, timing, None, run.flops)
        return whole, found

    def cost(self, stage: Stage, timing: Timing, steps: int | None, flops: float = 0.0) -> TrainingCost:
        """The cost of a training of so many steps, or of as many as `flops` allow."""
        costs = StepCosts(stage, self.module(1), self.data, self.world)

        def fits(count: int) -> bool:
            return costs.total(count).flops <= flops

        count = budget.most_steps(fits, UNBOUNDED) if steps is None else steps
        total, seconds = costs.total(count), count * timing.step
        return TrainingCost(count, total.queries, total.flops, seconds, self.price(total.queries, seconds))

    def _with(self, select: Any) -> Stage:
        """The stage with another selection."""
        other = copy.copy(self.stage)
        other.config = replace(self.config, select=select)
        return other

    def price(self, queries: float, seconds: float) -> float | None:
        """The price by the rates of the budget; None without rates."""
        rates = self.config.budget
        if not rates.price_per_query and not rates.price_per_hour:
            return None
        return budget.price(rates, queries, seconds * self.world)

    def heldout(self, final: bool) -> int:
        """Rows that an evaluation reads, of all splits."""
        limit, folder = self.config.data.heldout_rows, self.data.folder
        if not self.stage.inputs.head.per_row:
            return int(self.data.heldout_rows)
        sizes = [len(rows) for rows in dataset.scored_splits(folder, "dev").values()]
        return sum(size if final or limit is None else min(limit, size) for size in sizes)

    def disk(self, run: TrainingCost) -> int:
        """Bytes of the run folder in the end: the student, and what `keep` leaves of the checkpoints."""
        keep = self.config.keep
        parameters = list(self.student.model.parameters())
        student = sum(p.numel() * 4 for p in parameters)
        state = sum(p.numel() * 4 * (3 if p.requires_grad else 1) for p in parameters)
        every = self.config.trainer.checkpoint_every
        if every == "auto":
            written = run.seconds // max(MIN_GAP, GAP_FACTOR * state / RATE)
        else:
            written = (run.steps - 1) // int(every)
        kept = int(min(KEPT, written)) if keep == "all" else 0
        cached = self._cache(run.steps)
        return (student if keep != "none" else 0) + kept * state + cached

    def _cache(self, steps: int) -> int:
        """Bytes of the teachers' answers that the run would keep on disk, beside the run folder."""
        if self.config.teachers.cache != "disk":
            return 0
        self.config.select = resolved_for(self.stage, self.world, steps)
        found = cache_plan.plan(self.stage, self.data, steps * self.config.trainer.accumulate, self.world)
        return found.bytes if found else 0
