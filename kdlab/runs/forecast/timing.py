"""Time a few steps of a training that is thrown away: their seconds, those of an observation and an evaluation, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch

from kdlab.callbacks.observer import LossObserver
from kdlab.config.groups.select import SelectConfig
from kdlab.modules.student import StudentModule
from kdlab.modules.views import StudentView
from kdlab.runtime.ledger import Ledger
from kdlab.stages import cache_plan, ksm_training, observation
from kdlab.stages.base import Stage
from kdlab.stages.components import Selection
from kdlab.stages.decision_callbacks import adopt_callback, replay_callback, select_callback, weigh_callback
from kdlab.stages.preparation import fit
from kdlab.stages.teachers import teacher_reading
from kdlab.types import Batch

WARM, TIMED = 2, 16  # optimizer steps before the measurement, and of it
LEAST, LONGEST = 4, 40.0  # timed steps at least, and seconds after which no more are begun
HELDOUT = 6  # batches of held-out rows that are evaluated


@dataclass(frozen=True)
class Timing:
    """Mean seconds of an optimizer step without observation, over `steps` of them; of an observation (`first`: what the first
    one takes besides), and of the evaluation of a held-out row."""

    step: float
    steps: int
    observation: float = 0.0
    first: float = 0.0
    row: float = 0.0


class RoundRobin:
    """A policy that takes each arm in turn, so that the steps cost what the arms cost on average."""

    def __init__(self, arms: Sequence[str]) -> None:
        self.arms, self.turn = list(arms), -1

    def choose(self, progress: float, rng: torch.Generator) -> str:
        """The next arm."""
        self.turn += 1
        return self.arms[self.turn % len(self.arms)]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is no state."""


class SpreadBatches:
    """The batches of a timed training: first the longest one, then some whose lengths are spread as those of all batches
    are, in an order of which each beginning is spread alike. Otherwise the data module `data`, of one rank of `world`."""

    def __init__(self, data: Any, count: int, world: int = 1) -> None:
        self._data = data
        order = data.sampler(0, world)
        batches = [np.array_split(rows, world)[0] for rows in order.epoch_batches(0)]
        batches = sorted((rows for rows in batches if len(rows)), key=lambda rows: int(data.lengths[rows].sum()))
        bits = max(1, (count - 1).bit_length())
        turns = sorted(range(count), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
        self.chosen = [batches[-1], *(batches[(2 * i + 1) * len(batches) // (2 * count)] for i in turns)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def train_dataloader(self) -> SpreadBatches:
        """The batches, made when they are taken, as a loader makes them."""
        return self

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Batch]:
        rows, collate = self._data.training_rows()
        for chosen in self.chosen:
            yield collate([rows[0, int(row)] for row in chosen])


class StepClock(pl.Callback):
    """Records the time at the end of each optimizer step, with the sums of a ledger (`costs`), and ends the training once
    there are enough; then calls `after`. The first `WARM` steps are in no mean."""

    def __init__(
        self,
        after: Callable[[pl.LightningModule], None] = lambda module: None,
        costs: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.times: list[float] = []
        self.after, self.costs = after, costs
        self._sums: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        synchronise()
        self.times.append(time.perf_counter())
        self._sums.append(self.costs())
        timed = len(self.times) - WARM
        if timed >= LEAST and self.times[-1] - self.times[WARM - 1] > LONGEST:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.after(pl_module)

    @property
    def steps(self) -> int:
        """The number of timed steps."""
        return len(self.times) - WARM

    @property
    def seconds(self) -> float:
        """Mean seconds of a timed step."""
        return (self.times[-1] - self.times[WARM - 1]) / self.steps

    def of_a_step(self, name: str) -> float:
        """The mean of a timed step of the ledger's "flops", or of its "queries" of all teachers."""
        whole = [sum(one[name].values()) if isinstance(one[name], dict) else one[name] for one in self._sums]
        return (whole[-1] - whole[WARM - 1]) / self.steps


def synchronise() -> None:
    """Wait for the work of the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_steps(
    stage: Stage,
    module: StudentModule,
    data: Any,
    select: SelectConfig,
    world: int,
    ledger: Ledger,
    heldout: bool = True,
) -> Timing:
    """The seconds of the run's steps on one device, by a training of `module` that nothing else counts.

    `select`: the run's, without "auto"; each strategy takes as many steps. `heldout`: also time an evaluation.
    """
    config = stage.config
    before = ledger.state_dict()
    trainer, extra = config.trainer, dict.fromkeys(("observation", "first", "row"), 0.0)
    batches = SpreadBatches(data, (WARM - 1 + TIMED) * trainer.accumulate, world)
    steps = len(batches) // trainer.accumulate
    selection = stage.selection()
    every = Selection(selection.arms, RoundRobin(list(selection.arms)))
    callbacks = (
        select_callback(
            every,
            replace(select, warmup=0.0),
            module,
            batches,
            steps,
            config.seed,
            reference=teacher_reading.reference(stage.inputs),
        ),  # fmt: skip
        replay_callback(select, batches, config.seed),
        adopt_callback(stage.adoption() if module.teachers else None, steps, config.seed),
        weigh_callback(ksm_training.untrained(stage), steps, config.seed),
    )

    def after(trained: pl.LightningModule) -> None:
        if selection.reward is not None and select.ratio < 1:
            observer = LossObserver(
                trained,
                lambda: data.observed_batches(select.evaluation_rows, select.observe == "held_out"),
                select.observe == "kd",
            )
            extra["first"], extra["observation"] = _seconds(observer), _seconds(observer)
            extra["first"] -= extra["observation"]
            extra["observation"] *= observation.apart(select, selection)  # rows that are scored need none
        if heldout:
            extra["row"] = _of_a_row(cast(StudentView, trained), data)

    clock = StepClock(after)
    replays = select.replay and select.ratio < 1
    with cache_plan.kept_in_memory(stage, module.teachers, ledger) if replays else nullcontext():
        fit(
            module, batches, steps, "timing steps", *(one for one in callbacks if one is not None), clock,
            accelerator=trainer.accelerator, accumulate=trainer.accumulate, precision=stage.inputs.precision,
        )  # fmt: skip
    ledger.load_state_dict(before)
    module.ledger = ledger  # `fit` took it away
    return Timing(clock.seconds, clock.steps, extra["observation"], max(0.0, extra["first"]), extra["row"])


def _of_a_row(module: StudentView, data: Any) -> float:
    """Seconds of the evaluation of a held-out row, of all splits, by batches of spread lengths."""
    batches = [batch for split in data.heldout_splits(final=False).values() for batch in split]
    if not batches:
        return 0.0
    few = [batches[i] for i in sorted({*np.linspace(0, len(batches) - 1, HELDOUT).round().astype(int).tolist()})]
    module.evaluate(few[:1])
    return _seconds(lambda: module.evaluate(few)) / sum(len(batch) for batch in few)


def _seconds(action: Callable[[], Any]) -> float:
    synchronise()
    began = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - began


def resolved_for(stage: Stage, world: int, steps: int) -> SelectConfig:
    """The run's selection for a training of so many steps, with numbers in place of "auto"."""
    config = stage.config
    per_step = config.data.batch_size * world * config.trainer.accumulate
    return observation.resolved(config.select, observation.planned(config.select, stage.selection(), per_step, steps))
