"""The budget of a run: what it may cost, and for how many steps its schedule is planned."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdlab.config.groups.budget import KINDS, BudgetConfig
from kdlab.errors import UserError
from kdlab.methods.selection.top_k import selection_size
from kdlab.models import flops
from kdlab.modules.student import StudentModule
from kdlab.runs.closing import costs
from kdlab.runs.closing.cost_lines import duration, si
from kdlab.runs.closing.costs import RunCost
from kdlab.runs.finished import finished_result
from kdlab.runs.forecast.timing import TIMED, WARM, resolved_for, time_steps
from kdlab.runs.process import FOLDER, is_first_process, notify
from kdlab.runtime.ledger import Ledger
from kdlab.stages.base import Stage
from kdlab.stages.costs.step_costs import StepCosts
from kdlab.stages.dry_run import ModelShape
from kdlab.storage.files import atomic_write_json, read_json
from kdlab.teachers.teacher import Teacher

FILE = "budget.json"  # in the run folder: the plan, which a resumed run keeps


@dataclass
class BudgetPlan:
    """A plan made before the first step. `asked`: the budget by kind; `steps` of the schedule; `expected` costs of these by
    kind; `ends_by`: the kind of budget that allows the fewest steps, or "trainer"; `seconds_per_step`: measured (None: not
    needed)."""

    asked: dict[str, float]
    steps: int
    expected: dict[str, float] = field(default_factory=dict)
    ends_by: str = "trainer"
    seconds_per_step: float | None = None


# ---- before anything is loaded


def asked(budget: BudgetConfig) -> dict[str, float]:
    """The budget by kind, that of `budget.like` read from its run. UserError for a run without that cost."""
    found = {kind: float(getattr(budget, kind)) for kind in KINDS if getattr(budget, kind) is not None}
    if budget.like is None:
        return found
    result = finished_result(Path(budget.like), "ledger.seconds.training")
    cost = costs.total(result) if budget.preparation else costs.own(result)
    value = by_kind(budget, cost).get(budget.by)
    if not value:
        raise UserError(f"budget.like={budget.like}: that run cost no {budget.by}; budget.by= names another cost")
    return {**found, budget.by: float(value)}


def price(budget: BudgetConfig, queries: float, seconds: float) -> float:
    """The price of queries and seconds by the rates of `budget`."""
    return queries * (budget.price_per_query or 0.0) + seconds / 3600 * (budget.price_per_hour or 0.0)


def by_kind(budget: BudgetConfig, cost: RunCost) -> dict[str, float]:
    """A cost by kind of budget; a price where there are rates."""
    found: dict[str, float] = {"queries": cost.queries, "flops": cost.flops}
    if cost.seconds is not None:
        found["seconds"] = cost.seconds
    if budget.price_per_query or budget.price_per_hour:
        found["price"] = price(budget, cost.queries, cost.seconds or 0.0)
    return found


def check(stage: Stage, world: int) -> None:
    """UserError for a budget of another run that is none, that a step exceeds, or that cannot be measured."""
    config, budget = stage.config, stage.config.budget
    if not budget.given:
        return
    least = _least(stage, world)
    for kind, amount in asked(budget).items():
        if kind in least and amount < least[kind]:
            raise _too_small(kind, amount, least[kind], least=True)
    if "queries" in asked(budget) and not stage.inputs.queries_teacher:
        raise UserError(
            f"budget.queries: knowledge={config.knowledge.name} queries no teacher; budget.flops= or budget.seconds="
        )
    for who, sharded in (("teacher", config.trainer.shard_teacher), ("student", config.trainer.shard_student)):
        if budget.is_timed and sharded:
            raise UserError(
                f"budget.seconds trainer.shard_{who}=true: steps are timed by one process with a whole {who}; budget.flops="
            )
    external = world > 1 and (os.environ.get("LOCAL_RANK") or config.trainer.num_nodes > 1)
    if budget.is_timed and external:
        raise UserError(
            "budget.seconds: the first process times some steps before it starts the others, and torchrun or SLURM starts "
            "all at once; trainer.devices= on one machine, or budget.flops="
        )


def _least(stage: Stage, world: int) -> dict[str, float]:
    """Costs of a step of full batches that no run is below: the shortest rows, one teacher."""
    config, shape = stage.config, stage.inputs.student_shape
    rows, accumulate = config.data.batch_size * world, config.trainer.accumulate
    kept = accumulate * selection_size(rows, config.select.ratio_choices()[0])
    teaches = stage.inputs.queries_teacher and all(w.since == 0 for w in stage.inputs.terms().values())
    student = _forward(shape, kept)
    backward = 2 if config.student.lora.rank is None else 1  # products for each of the forward
    if all(w.head_only for w in stage.inputs.terms().values()):
        backward = 0
    least = {"flops": float((1 + backward) * student)}
    if teaches:
        least["flops"] += min(_forward(ModelShape.of(member.config), kept) for member in stage.teacher_pool.members)
        least["queries"] = float(kept)
        least["price"] = kept * (config.budget.price_per_query or 0.0)
    return least


def _forward(shape: ModelShape, rows: int) -> int:
    """FLOPs of the layers of a model on the shortest rows, of two tokens, the last one for the first tokens alone."""
    sizes = flops.shape_of(shape.config)
    sizes = replace(
        sizes,
        layers=shape.layers,
        hidden=shape.width,
        intermediate=round(sizes.intermediate * shape.width / sizes.hidden),
    )
    return flops.encoder(sizes, 2 * rows, 4 * rows, rows, rows)


# ---- the plan


def most(step_costs: StepCosts, steps: int, step: int) -> dict[str, float]:
    """Queries and FLOPs that the optimizer step number `step` of `steps` does not exceed."""
    cost = step_costs.most(step, steps)
    return {"queries": cost.queries, "flops": cost.flops}


def check_step(stage: Stage, step_costs: StepCosts) -> None:
    """UserError for a budget of queries or FLOPs below what a step is expected to cost."""
    one = step_costs.total(1) * _trainings(stage)
    price_ = price(stage.config.budget, one.queries, 0.0)
    for kind, cost in {"queries": one.queries, "flops": one.flops, "price": price_}.items():
        if (amount := asked(stage.config.budget).get(kind, cost)) < cost:
            raise _too_small(kind, amount, cost)


def plan(
    stage: Stage, step_costs: StepCosts, teachers: list[Teacher], ledger: Ledger, folder: Path, resumes: bool
) -> BudgetPlan:
    """The plan of a run; read from the run folder where the run is resumed, or where another process made the plan.

    `step_costs`: of the batches that trainer.max_steps and max_epochs allow. UserError for a budget that does not last for a
    step.
    """
    file, budget = folder / FILE, stage.config.budget
    if (resumes or (not is_first_process() and FOLDER in os.environ)) and file.is_file():
        return BudgetPlan(**read_json(file))
    per_step = None
    if budget.is_timed:
        module = stage.student_module(stage.student(*teachers), teachers, ledger, WARM + TIMED)
        per_step = _seconds_per_step(stage, module, step_costs.data, step_costs.world, ledger)
    found = planned(stage, step_costs, limits_of(stage, asked(budget)), per_step)
    if is_first_process():
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(file, asdict(found))
        notify(_said(stage, found))
    return found


def _trainings(stage: Stage) -> int:
    """Trainings that count in the budget: of the student, and with preparation those of the episodes of a KSM."""
    config = stage.config
    return 1 + (config.weigh.episodes if config.budget.preparation and config.weigh.path is None else 0)


def _too_small(kind: str, amount: float, cost: float, least: bool = False) -> UserError:
    """The error for a budget below the cost of a step, or what it costs at `least`."""
    said = f"{cost:,.0f} or more" if least else f"{cost:,.4g}"
    return UserError(
        f"budget.{kind}={amount:g}: less than one step costs, which is {said}; give more, or a smaller data.batch_size"
    )


def limits_of(stage: Stage, amounts: Mapping[str, float]) -> dict[str, float]:
    """The budget of the training itself, by kind: less the preparation so far, where that counts. UserError if it took all."""
    budget = stage.config.budget
    if not budget.preparation:
        return dict(amounts)
    before = by_kind(budget, costs.prepared({"preparation": stage.inputs.prerequisites.stages()}))
    for kind, amount in amounts.items():
        if before.get(kind, 0) >= amount:
            raise UserError(
                f"budget.{kind}={amount:g}: preparation alone cost {before[kind]:,.4g}; give more, or "
                "budget.preparation=false, which counts the training alone"
            )
    return {kind: amount - before.get(kind, 0) for kind, amount in amounts.items()}


def planned(stage: Stage, step_costs: StepCosts, limits: Mapping[str, float], per_step: float | None) -> BudgetPlan:
    """The largest number of steps within all limits and those of the trainer."""
    config, budget = stage.config, stage.config.budget
    trainings = _trainings(stage)

    def expected(steps: int) -> dict[str, float]:
        cost = step_costs.total(steps)
        return by_kind(budget, RunCost(cost.queries, cost.flops, None if per_step is None else per_step * steps))

    def within(kind: str, limit: float, steps: int) -> bool:
        return trainings * expected(steps)[kind] <= limit

    bound = -(-len(step_costs.order) // config.trainer.accumulate)
    allowed = {kind: most_steps(partial(within, kind, limit), bound) for kind, limit in limits.items()}
    ends_by = min(allowed, key=lambda kind: allowed[kind])
    if (steps := allowed[ends_by]) == 0:
        one = {kind: trainings * amount for kind, amount in expected(1).items()}
        raise _too_small(ends_by, limits[ends_by], one[ends_by])
    return BudgetPlan(asked(budget), steps, expected(steps), ends_by if steps < bound else "trainer", per_step)


def most_steps(fits: Callable[[int], bool], bound: int) -> int:
    """The largest number of steps up to `bound` that fits; 0 if one step does not."""
    low, high = 0, 1
    while high < bound and fits(high):
        low, high = high, min(2 * high, bound)
    if high == bound and fits(bound):
        return bound
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _said(stage: Stage, found: BudgetPlan) -> str:
    shown = {
        "queries": "{:,.0f} queries",
        "flops": "{}FLOPs",
        "seconds": "{} of training",
        "price": "a price of {:,.4g}",
    }
    form = {"flops": si, "seconds": duration}
    words = {k: shown[k].format(form.get(k, float)(v)) for k, v in {**found.asked}.items()}
    spent = {k: shown[k].format(form.get(k, float)(v)) for k, v in found.expected.items()}
    line = f"budget: {', '.join(words.values())}: planned for {found.steps:,} steps, about {', '.join(spent.values())}"
    if found.ends_by == "trainer":
        given = "max_steps" if stage.config.trainer.max_steps else "max_epochs"
        line += f"; trainer.{given} ends it there: trainer.{given}=null lets the budget decide"
    return line


def _seconds_per_step(stage: Stage, module: StudentModule, data: Any, world: int, ledger: Ledger) -> float:
    """Mean seconds of an optimizer step with its share of an observation, from a few steps that are thrown away."""
    config = stage.config
    steps = min(10_000, -(-data.sampler(0, world).batches // config.trainer.accumulate))
    select = resolved_for(stage, world, steps)
    timing = time_steps(stage, module, data, select, world, ledger, heldout=False)
    return timing.step + timing.observation / select.interval


# ---- the end


def outcome(stage: Stage, made: BudgetPlan, stopped_by: str | None, result: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `budget` of result.json: what was asked, planned and spent, and what ended the training."""
    budget = stage.config.budget
    cost = costs.total(result) if budget.preparation else costs.own(result)
    return {
        "asked": made.asked,
        "preparation": budget.preparation,
        **({"like": budget.like} if budget.like else {}),
        "rates": {"query": budget.price_per_query, "hour": budget.price_per_hour},
        "planned": {"steps": made.steps, **made.expected},
        "spent": {"steps": result["steps"], **by_kind(budget, cost)},
        "ended_by": stopped_by or made.ends_by,
    }
