"""The second step of a run: build its Lightning callbacks."""

from __future__ import annotations

from dataclasses import dataclass

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LambdaCallback

from kdlab.callbacks.adopt import Adopt
from kdlab.callbacks.checkpoint import CheckpointCallback
from kdlab.callbacks.cost import CostCallback
from kdlab.callbacks.decision import ArmSelector
from kdlab.callbacks.decision_log import DecisionLog
from kdlab.callbacks.evaluate import EvaluationCallback
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.callbacks.observer import LossObserver
from kdlab.callbacks.progress import ProgressCallback
from kdlab.callbacks.select import Select
from kdlab.callbacks.selection_trace import COLUMNS, SelectionTrace
from kdlab.callbacks.weigh import Weigh
from kdlab.modules.row_pool import chosen
from kdlab.runs.prepare import PreparedRun
from kdlab.runs.process import say
from kdlab.runs.record import RunRecord
from kdlab.stages import components
from kdlab.stages.components import Selection


@dataclass
class RunCallbacks:
    """The callbacks of a run; None where the configuration needs none. `columns`: those of each table they write."""

    guard: NonFiniteGuard
    evaluation: EvaluationCallback
    trace: SelectionTrace | None
    cost: CostCallback
    select: Select | None
    adopt: Adopt | None
    weigh: Weigh | None
    decisions: DecisionLog | None
    checkpoint: CheckpointCallback
    columns: dict[str, list[str]]

    def in_order(self) -> list[pl.Callback]:
        """The callbacks as Lightning has to call them: the guard before, the checkpoint after all others."""
        decide = (self.select, self.adopt, self.weigh, self.decisions)
        every = (self.guard, self.evaluation, self.trace, self.cost, *decide, self.checkpoint)
        return [callback for callback in every if callback is not None]


def build(prepared: PreparedRun, record: RunRecord) -> RunCallbacks:
    """Build the callbacks, which write their tables through `record`."""
    config, module, total = prepared.config.trainer, prepared.module, prepared.total_steps
    adopt, weigh = _rules(prepared)
    decisions = DecisionLog(record.writer("knowledge"), adopt, weigh)
    selection = prepared.stage.selection()
    select = _select(prepared, record, selection) if prepared.config.select.ratio < 1 else None
    evaluation = EvaluationCallback(
        config.evaluate_every,
        total,
        prepared.data.heldout_splits,
        module,
        record.writer("metrics"),
        prepared.ledger,
    )
    trace = _trace(prepared, record, selection) if config.trace_every is not None else None
    stop = config.on_nonfinite != "skip"
    guard = NonFiniteGuard(stop, config.nonfinite_limit, say, record.writer("events"))
    checkpoint = CheckpointCallback(
        prepared.folder / "checkpoints",
        None if config.checkpoint_every == "auto" else config.checkpoint_every,
        total,
        prepared.ledger,
        guard,
        record.tables.values(),
        decisions.flush,
        say,
    )
    columns = {
        "metrics": evaluation.columns(),
        "selector": select.chooser.columns() if select else ["step", "arm", "teacher_queries"],
    }
    if trace is not None:
        columns["selected"] = list(COLUMNS)
    decided = decisions.columns(module)
    if len(decided) > 1:  # more than the step
        columns["knowledge"] = decided
    return RunCallbacks(
        guard,
        evaluation,
        trace,
        CostCallback(prepared.ledger, total, config.probes),
        select,
        adopt,
        weigh,
        decisions if len(decided) > 1 else None,
        checkpoint,
        columns,
    )


def with_rank_0(prepared: PreparedRun, callbacks: RunCallbacks, main: bool) -> list[pl.Callback]:
    """All callbacks of this rank: those of `callbacks`, the late check of the teachers, the progress bar of rank 0."""
    late = LambdaCallback(on_train_start=lambda *_: prepared.stage.meet(prepared.teachers))
    chooser = callbacks.select.chooser if callbacks.select else None
    progress = [ProgressCallback(prepared.total_steps, prepared.ledger, chooser)] if main else []
    return [*callbacks.in_order(), late, *progress]


def _rules(prepared: PreparedRun) -> tuple[Adopt | None, Weigh | None]:
    """The callbacks that choose a rule among the arms of `adopt` and of `policy`; None where there is no rule."""
    total, seed = prepared.total_steps, prepared.config.seed
    adoption, weighing = prepared.stage.adoption() if prepared.teachers else None, prepared.weighing
    adopt = weigh = None
    if adoption is not None:
        adopt = Adopt(ArmSelector("adopt", adoption.arms, adoption.policy, total, seed))
    if weighing is not None:
        weigh = Weigh(ArmSelector("weigh", weighing.arms, weighing.policy, total, seed))
    return adopt, weigh


def _select(prepared: PreparedRun, record: RunRecord, selection: Selection) -> Select:
    """The callback that selects the rows that query the teacher."""
    config, data, module = prepared.config, prepared.data, prepared.module
    observer = LossObserver(
        module, lambda: data.observed_batches(config.select.evaluation_rows), config.select.observe == "kd"
    )
    chooser = ArmSelector(
        "policy",
        selection.arms,
        selection.policy,
        prepared.total_steps,
        config.seed,
        selection.reward,
        observer,
        config.select.interval,
        record.writer("selector"),
        config.trainer.on_nonfinite == "skip",
    )
    looks = components.looks(config.select, module.shape.layers, len(data.train))
    return Select(chooser, config.select.ratio, config.select.scope, **looks)


def _trace(prepared: PreparedRun, record: RunRecord, selection: Selection) -> SelectionTrace:
    """The callback that records the rows each strategy would have selected."""
    config, every = prepared.config, prepared.config.trainer.trace_every
    assert every is not None
    return SelectionTrace(
        every,
        lambda: prepared.data.observed_batches(config.trainer.trace_rows),
        chosen(None, selection.arms, False),
        config.select.ratio,
        prepared.total_steps,
        config.seed,
        record.writer("selected"),
    )
