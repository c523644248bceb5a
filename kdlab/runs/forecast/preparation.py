"""The cost of a run's preparation before it is made: found artifacts nothing, missing ones as a few of their steps show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdlab.models.encoder import Encoder
from kdlab.runs.closing.costs import RunCost
from kdlab.runs.forecast import stand_ins
from kdlab.runs.forecast.missing import NotPrepared
from kdlab.runs.forecast.timing import WARM, SpreadBatches, StepClock
from kdlab.runtime.ledger import Ledger
from kdlab.stages import ksm_training
from kdlab.stages.base import Stage
from kdlab.stages.finetuning import FinetuneStage
from kdlab.stages.preparation import Training, fit
from kdlab.teachers.specs import TeacherSpec

STEPS = 8  # steps of a preparation that are timed


@dataclass(frozen=True)
class StageCost:
    """The cost of one part of the preparation: `what` it is; `found`: it is there, and costs nothing; teacher queries, model
    FLOPs, seconds, and bytes in the artifact store. `key`: of the artifact that is missing; `baseline`: the run is compared
    with it and does not depend on it; `seeded`: it has the seed and the optimizer of the run, so runs of another seed make their own."""

    what: str
    found: bool
    queries: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    key: str = ""
    baseline: bool = False
    seeded: bool = False


def stages(stage: Stage, batches: int, world: int, run: RunCost) -> list[StageCost]:
    """Every part of the preparation of a run of `batches` micro-batches; `run`: the cost of the run itself, which an episode
    of a knowledge selection module costs too."""
    found: list[StageCost] = []
    for member in stage.prepared_teachers:
        found += _of(stage, lambda member=member: stage.teacher_pool.folder(member), lambda missing, member=member: _teacher(stage, member, missing))  # fmt: skip
    weigh = stage.config.weigh
    if weigh.episodes and weigh.path is None:

        def ksm(missing: NotPrepared) -> StageCost:
            each = weigh.episodes
            return StageCost(
                f"KSM, {each} episodes",
                False,
                each * run.queries,
                each * run.flops,
                each * (run.seconds or 0),
                0,
                missing.key,
                seeded=True,
            )

        found += _of(stage, lambda: ksm_training.weighing(stage, batches, world), ksm)
    if isinstance(stage, FinetuneStage) and stage.config.no_kd_baseline:
        found += _of(
            stage, lambda: stage.baselines(batches, world), lambda missing: _no_kd(stage, batches, world, missing)
        )
    return found


def _of(stage: Stage, get: Callable[[], Any], cost: Callable[[NotPrepared], StageCost]) -> list[StageCost]:
    """The parts that `get` finds, or the `cost` of the one that is missing."""
    before = len(stage.inputs.prerequisites.stages())
    try:
        get()
    except NotPrepared as missing:
        return [cost(missing)]
    return [StageCost(one["what"], True) for one in stage.inputs.prerequisites.stages()[before:]]


def _teacher(stage: Stage, member: TeacherSpec, missing: NotPrepared) -> StageCost:
    """The cost of a teacher or assistant that is missing, by a few steps of its training."""
    pool, model = stage.teacher_pool, stand_ins.source_model(stage, member)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    if member.assistant is not None:
        precision = pool.assistant_precision(member.assistant)

        def main(ledger: Ledger, rows: int) -> Any:
            return stand_ins.teacher_of(stage, pool.main, ledger)

        training = pool.distillation(member, member.assistant, precision, model, main)
        title = f"{member.title}, {member.depth} layers, distilled"
    else:
        training = pool.training(member, model)
        how = "fine-tuned" if stage.inputs.head.per_row else "prepared"
        title = f"{member.title}, {member.depth} layers, {how}"
    return _timed(stage, training, title, missing.key if missing.stage == title else title, size)


def _no_kd(stage: FinetuneStage, batches: int, world: int, missing: NotPrepared) -> StageCost:
    student: Encoder = stand_ins.student_of(stage)
    training, select = stage.no_kd_training(batches, world, student)
    title = missing.stage if missing.kind == "baseline" else "student without a teacher"  # its teacher is missing too
    cost = _timed(
        stage,
        training,
        title,
        missing.key if title == missing.stage else title,
        0,
        [select] if select else [],
        stage.config.trainer.accumulate,
    )
    return StageCost(**{**cost.__dict__, "baseline": True, "seeded": True})


def _timed(
    stage: Stage,
    training: Training,
    title: str,
    key: str,
    size: int,
    callbacks: Sequence[Any] = (),
    accumulate: int = 1,
) -> StageCost:
    """The cost of a training, from a few of its steps."""
    ledger = training.module.ledger
    assert ledger is not None
    clock = StepClock(costs=ledger.so_far)
    batches = SpreadBatches(training.data, (WARM - 1 + STEPS) * accumulate)
    fit(
        training.module, batches, len(batches) // accumulate, "timing steps", *callbacks, clock,
        accelerator=stage.config.trainer.accelerator, accumulate=accumulate, precision=training.precision,
    )  # fmt: skip
    flops, queries = clock.of_a_step("flops"), clock.of_a_step("queries")
    steps = training.steps
    return StageCost(title, False, steps * queries, steps * flops, steps * clock.seconds, size, key)
