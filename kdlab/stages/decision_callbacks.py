"""Build the callbacks `Select`, `Adopt` and `Weigh` from instantiated arms and policies, the same for every training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from kdlab.callbacks.adopt import Adopt
from kdlab.callbacks.decision import DecisionCallback
from kdlab.callbacks.observer import LossObserver
from kdlab.callbacks.replay import Replay
from kdlab.callbacks.scoring.observed import ScoredLoss
from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.callbacks.scoring.stale import VisitRecord
from kdlab.callbacks.scoring.state import ScoringState
from kdlab.callbacks.select import Select
from kdlab.callbacks.weigh import Weigh
from kdlab.config.groups.select import SelectConfig
from kdlab.errors import UserError
from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.credit import Credit
from kdlab.methods.selection.keeping import Keeping, classed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.models.encoder import Encoder
from kdlab.modules.early_exit import EarlyExit
from kdlab.modules.evidence.teacher_answers import TEACHER_FIELDS, TeacherEvidence
from kdlab.modules.evidence.votes import Votes
from kdlab.modules.flop_accounting import Spending
from kdlab.modules.probes.paired_probe import PairedProbe
from kdlab.modules.student import StudentModule
from kdlab.stages import observation
from kdlab.stages.components import Selection, exit_layer
from kdlab.types import Batch

# settings of a selection that keeps the best rows from the first step on
BEST: dict[str, Any] = {
    "explore": 0.0, "balance": "none", "temperature": None, "importance": False, "warmup": 0.0, "ratios": None,
    "replay": 0.0,
}  # fmt: skip


MOST_KEPT = 2**30  # bytes that scoring=stale may keep


def _ignore(row: dict[str, Any]) -> None:
    """Write no row."""


def select_callback(
    selection: Selection,
    select: SelectConfig,
    module: StudentModule,
    data: Any,
    total_steps: int,
    seed: int,
    write: Callable[[dict[str, Any]], None] = _ignore,
    tolerant: bool = False,
    reference: Encoder | None = None,
    write_probe: Callable[[dict[str, Any]], None] | None = None,
) -> Select | None:
    """The callback that keeps the share `select.ratio` of each batch; None at ratio 1, where every row is kept.

    `selection`: strategies, policy and reward; `select`: ratio, look, scope, interval, observation and scoring. `data` is the
    data module that `module` trains on for `total_steps` optimizer steps; an adaptive policy observes some of its rows.
    `write` receives each row of selector.csv. `tolerant`: leave out observations that are not finite (else UserError).
    `reference`: the model whose loss strategies may read (None: the teacher).
    `write_probe` receives each row of probe.csv (None: there are no probes, whatever `select` says).
    """
    if select.ratio == 1:
        return None
    select = observation.resolved(select, observation.planned(select, selection, data.batch_size, total_steps))
    rows, aside = select.evaluation_rows, select.observe == "held_out"
    observer = LossObserver(module, lambda: data.observed_batches(rows, aside), select.observe == "kd")
    scored = ScoredLoss(rows, data.batch_size * select.look) if observation.from_scored(select, selection) else None
    selector = RowSelector(
        selection.arms, selection.policy, select.ratio, total_steps, seed, selection.reward, scored or observer,
        select.interval, write, tolerant, observer.objective, select.look,
        credit=Credit(select.credit_decay, select.credit_delay),
        learning_rate=module.optimization.share_of_peak,
        cost=Spending(module.ledger, module.distillation.flops, float(data.lengths.mean())) if module.ledger else None,
        keeping=keeping_of(select), warmup=select.warmup, ratios=selection.ratios,
    )  # fmt: skip
    scoring: dict[str, Any] = {}
    if select.scoring == "stale":
        scoring = {"memory": ScoreMemory(len(data.train), select.refresh)}
    elif select.scoring == "early_exit":
        scoring = {"forward": EarlyExit(exit_layer(select, module.shape.layers))}
    others = TeacherEvidence(reference)
    scoring |= {"unit": select.unit, "positions": select.positions, "per_row": select.per_row}
    callback = Select(selector, select.scope, votes=Votes(select.votes), others=others, scored=scored, **scoring)
    if write_probe is not None:
        selector.probe_every = select.probe_every
        selector.probe = PairedProbe(
            module, data.coming_batches, observer, partial(_under, callback, module), select.probe_steps,
            write_probe, ScoringState(callback.memory, selector.arms),
        )  # fmt: skip
    return callback


def replay_callback(select: SelectConfig, data: Any, seed: int) -> Replay | None:
    """The callback that trains on rows kept before again, `select.replay` for each row kept; None without."""
    if not select.replay or select.ratio == 1:
        return None
    rows, collate = data.training_rows()
    return Replay(select.replay, lambda index: collate([rows[0, int(row)] for row in index]), len(data.train), seed)


@contextmanager
def _under(select: Select, module: StudentModule, arm: str, batch: Batch, micro: int, step: int) -> Iterator[None]:
    """Plan a batch of a probe for the block: rows by `arm`, teachers and terms by the rules in force at `step`."""
    callbacks: Any = module.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    selectors = [one.selector for one in callbacks if isinstance(one, DecisionCallback)]
    before = [(selector, selector.arm, selector.facts) for selector in selectors]
    scored, select.scored = select.scored, None
    try:
        for callback in callbacks:
            if isinstance(callback, DecisionCallback):
                callback.selector.facts = None  # a probe leaves no trace in the context of later choices
                if callback is select:
                    select.selector.arm = arm
                else:
                    callback.selector.decide(step)
                callback.answer(module, batch, micro)
        yield
    finally:
        select.scored = scored
        for selector, arm_before, facts in before:
            selector.arm, selector.facts = arm_before, facts


def check_stale(arms: Mapping[str, Any], balance: str, per_row: bool) -> None:
    """UserError for a strategy whose evidence is too large to keep until the next visit of a row."""
    for name, arm in arms.items():
        fields = VisitRecord.of({name: classed(arm, balance)}).fields
        large = [field for field in fields if field == "votes" or (field == "logits" and not per_row)]
        other = [field for field in fields if field in TEACHER_FIELDS]
        if other:
            raise UserError(
                f"select.scoring=stale: select.arms.{name} scores rows against each other by {' and '.join(other)}, which is "
                "not kept from visit to visit; select.scoring=fresh select.look=0.3"
            )
        if large:
            raise UserError(
                f"select.scoring=stale: select.arms.{name} scores rows against each other by "
                f"{'votes' if large == ['votes'] else 'the logits of all words'}, too many numbers to keep for each row; "
                "select.scoring=fresh select.look=0.3, or early_exit"
            )


def stale_line(arms: Mapping[str, Any], balance: str, rows: int, width: int, classes: int) -> str:
    """One line on what scoring=stale keeps of `rows` rows, with features of `width` and logits of `classes` numbers; ""
    where that is scores alone. UserError above `MOST_KEPT` bytes."""
    record = VisitRecord.of({name: classed(arm, balance) for name, arm in arms.items()})
    size = rows * (
        4 * sum({"features": width, "logits": classes}[field] for field in record.fields) + 8 * len(record.scored)
    )
    what = f"select.scoring=stale keeps {' and '.join(record.fields)} of {rows:,} rows, {size / 1e6:,.1f} MB, in checkpoints too"
    if size > MOST_KEPT:
        raise UserError(
            f"{what}: more than {MOST_KEPT / 1e6:,.0f} MB; select.scoring=fresh select.look=0.3, or early_exit"
        )
    return what if record.fields else ""


def keeping_of(select: SelectConfig) -> Keeping:
    """The rows that a selection keeps by their scores."""
    return Keeping(select.explore, select.balance, select.temperature, select.importance)  # pyright: ignore[reportArgumentType]


def adopt_callback(adoption: Selection | None, total_steps: int, seed: int) -> Adopt | None:
    """The callback that weighs the teachers of each row; None without adoption rules."""
    return adoption and Adopt(ArmSelector("adopt", adoption.arms, adoption.policy, total_steps, seed))


def weigh_callback(weighing: Selection | None, total_steps: int, seed: int) -> Weigh | None:
    """The callback that weighs the knowledge terms; None without weighing rules."""
    return weighing and Weigh(ArmSelector("weigh", weighing.arms, weighing.policy, total_steps, seed))
