"""The second step of a run: build its Lightning callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LambdaCallback

from kdlab.callbacks.adopt import Adopt
from kdlab.callbacks.budget import BudgetGuard
from kdlab.callbacks.checkpoint import CheckpointCallback
from kdlab.callbacks.cost import CostCallback
from kdlab.callbacks.decision_log import DecisionLog
from kdlab.callbacks.evaluate import EvaluationCallback
from kdlab.callbacks.metrics_log import MetricsLog
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.callbacks.progress import ProgressCallback
from kdlab.callbacks.replay import Replay
from kdlab.callbacks.select import Select
from kdlab.callbacks.selection_trace import COLUMNS, SelectionTrace
from kdlab.callbacks.weigh import Weigh
from kdlab.methods.selection.rewards.base import reads
from kdlab.modules.causal.student_rows import StudentRows
from kdlab.modules.probes.paired_probe import COLUMNS as PROBED
from kdlab.modules.row_pool import named_strategies
from kdlab.runs import budget
from kdlab.runs.closing.collapse import CollapseWatch, watch_of, watched
from kdlab.runs.prepare import PreparedRun
from kdlab.runs.process import notify
from kdlab.runs.record import RunRecord
from kdlab.stages.components import Selection
from kdlab.stages.decision_callbacks import adopt_callback, replay_callback, select_callback, weigh_callback
from kdlab.stages.teachers import teacher_reading


@dataclass
class RunCallbacks:
    """The callbacks of a run; None where the configuration needs none. `columns`: those of each table they write."""

    guard: NonFiniteGuard
    evaluation: EvaluationCallback
    metrics_log: MetricsLog
    trace: SelectionTrace | None
    student_rows: StudentRows | None
    cost: CostCallback
    select: Select | None
    replay: Replay | None
    adopt: Adopt | None
    weigh: Weigh | None
    decisions: DecisionLog | None
    checkpoint: CheckpointCallback
    check_teachers: LambdaCallback
    progress: ProgressCallback | None
    budget: BudgetGuard | None
    columns: dict[str, list[str]]

    def in_order(self) -> list[pl.Callback]:
        """The callbacks in the order in which Lightning has to call them: the guard first, the checkpoint after all that
        write tables."""
        before = (self.guard, self.evaluation, self.metrics_log, self.trace, self.student_rows, self.cost, self.budget)
        decide = (self.select, self.replay, self.adopt, self.weigh, self.decisions)
        every = (*before, *decide, self.checkpoint, self.check_teachers, self.progress)
        return [callback for callback in every if callback is not None]


def build(prepared: PreparedRun, record: RunRecord) -> RunCallbacks:
    """Build the callbacks, which write their tables through `record`."""
    config, module, total = prepared.config.trainer, prepared.module, prepared.total_steps
    seed, skip = prepared.config.seed, config.on_nonfinite == "skip"
    adopt = adopt_callback(prepared.stage.adoption() if prepared.teachers else None, total, seed)
    weigh = weigh_callback(prepared.weighing, total, seed)
    decisions = DecisionLog(record.writer("knowledge"), adopt, weigh)
    selection = prepared.stage.selection()
    select = select_callback(
        selection, prepared.config.select, module, prepared.data, total, seed, record.writer("selector"), skip,
        teacher_reading.reference(prepared.stage.inputs),
        record.writer("probe"),
    )  # fmt: skip
    heldout, metrics = prepared.data.heldout_splits, record.writer("metrics")
    evaluation = EvaluationCallback(steps_between(config.evaluate_every, total), heldout, module, prepared.ledger)
    watch = collapse_watch(prepared)
    metrics_log = MetricsLog(config.log_every, evaluation, module, watched(metrics, watch), prepared.ledger)
    trace = _trace(prepared, record, selection) if config.trace_every is not None else None
    guard = NonFiniteGuard(not skip, config.nonfinite_limit, notify, record.writer("events"))
    folder, tables = prepared.folder / "checkpoints", record.tables.values()
    every = None if config.checkpoint_every == "auto" else config.checkpoint_every
    checkpoint = CheckpointCallback(folder, every, total, prepared.ledger, guard, tables, decisions.flush, notify)
    selector = select.selector if select else None
    columns = {
        "metrics": metrics_log.columns(),
        "selector": selector.columns() if selector else ["step", "arm", "teacher_queries"],
        "selected": list(COLUMNS) if trace else [],
        "probe": list(PROBED) if _probes(prepared) else [],
        "knowledge": decisions.columns(module),
    }
    return RunCallbacks(
        guard=guard,
        evaluation=evaluation,
        metrics_log=metrics_log,
        trace=trace,
        student_rows=_student_rows(prepared),
        cost=CostCallback(prepared.ledger, total, config.probes),
        select=select,
        replay=replay_callback(prepared.config.select, prepared.data, seed),
        adopt=adopt,
        weigh=weigh,
        decisions=decisions if len(columns["knowledge"]) > 1 else None,
        checkpoint=checkpoint,
        check_teachers=LambdaCallback(on_train_start=lambda *_: prepared.stage.check_teachers(prepared.teachers)),
        progress=ProgressCallback(total, prepared.ledger, selector) if record.main else None,
        budget=_budget(prepared),
        columns={name: names for name, names in columns.items() if len(names) > 1},  # more than the step
    )


def _probes(prepared: PreparedRun) -> bool:
    """True if the run probes its arms, as a measurement or for rewards."""
    select = prepared.config.select
    return select.ratio < 1 and (select.probe_every is not None or "probe" in reads(prepared.stage.selection().reward))


def steps_between(every: int | float, total: int) -> int:
    """Optimizer steps between two evaluations: `every`, or where it is a share that share of the `total` steps."""
    return max(1, round(every * total)) if isinstance(every, float) else every


def collapse_watch(prepared: PreparedRun) -> CollapseWatch | None:
    """The watch over the lines of metrics.csv; None on text and in regression."""
    labels = getattr(prepared.stage.inputs, "shape", None)
    return watch_of(
        prepared.baselines, labels and labels.labels, prepared.total_steps, prepared.module.terms,
        prepared.folder / "metrics.csv",
    )  # fmt: skip


def _student_rows(prepared: PreparedRun) -> StudentRows | None:
    """The callback by which the student writes rows; None without one."""
    share, end = prepared.config.data.generated, prepared.stage.inputs.tokenizer.eos_token_id
    return StudentRows(share, int(end), prepared.config.seed) if share else None  # pyright: ignore[reportArgumentType]


def _budget(prepared: PreparedRun) -> BudgetGuard | None:
    """The callback that ends the training at its budget; None without one."""
    plan, step_costs, settings = prepared.plan, prepared.step_costs, prepared.config.budget
    if plan is None or step_costs is None:
        return None
    limits = budget.limits_of(prepared.stage, plan.asked)
    price = partial(budget.price, settings)
    return BudgetGuard(limits, partial(budget.most, step_costs, plan.steps), price, prepared.ledger, plan.steps)


def _trace(prepared: PreparedRun, record: RunRecord, selection: Selection) -> SelectionTrace:
    """The callback that records the rows each strategy would have selected."""
    config, every = prepared.config, prepared.config.trainer.trace_every
    assert every is not None
    return SelectionTrace(
        every,
        lambda: prepared.data.observed_batches(config.trainer.trace_rows),
        named_strategies(None, selection.strategies, False),
        config.select.ratio,
        prepared.total_steps,
        config.seed,
        record.writer("selected"),
    )
