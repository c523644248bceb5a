"""Configuration group of the selection of rows and positions (`select=`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from kdlab.config.validators import one_of, sampled
from kdlab.errors import UserError
from kdlab.ranges import (
    BelowOne,
    Count,
    Probability,
    Range,
    Rows,
    Share,
    Temperature,
    Whole,
)

_REWARDS = "kdlab.methods.selection.rewards"
REWARDS: dict[str, dict[str, Any]] = {  # names that select.reward takes
    "loss_decay": {"_target_": f"{_REWARDS}.LossDecay"},
    "trend": {"_target_": f"{_REWARDS}.Trend"},
    "per_flop": {"_target_": f"{_REWARDS}.FallPerCost", "per": "flops"},
    "per_query": {"_target_": f"{_REWARDS}.FallPerCost", "per": "queries"},
    "probe": {"_target_": f"{_REWARDS}.Probe"},
}
REWARD_NAMES = tuple(REWARDS)
PROBE = REWARDS["probe"]["_target_"]
AUTO = "auto"  # select.look, select.interval, select.evaluation_rows: derived from the models and the training
TEACHER = "teacher"  # of select.reference


@dataclass
class SelectConfig:
    """Data selection: the rows of a batch that query the teacher."""

    name: str = "all"
    "Name of the choice in result.json, tables and figures"
    ratio: Share = 1.0
    "Share of each batch that is kept and queries the teacher (AdaDS: 0.1)"
    ratios: Annotated[Any, Literal["auto"] | list[Share] | None] = None
    "Ratios to choose among, so that select.ratio is their mean; auto: half, once and three times it; null: ratio alone"
    unit: str = "row"
    "Units chosen: row, position (of text: the share ratio of the predicted tokens) or both (rows, then positions)"
    positions: Share = 0.2
    "unit=both: share of the positions of the kept rows that are kept (SE-KD: 0.2)"
    per_row: bool = True
    "unit=position or both: true keeps that share of each row's positions, false of the batch's"
    pool: Annotated[Any, Literal["batch"] | Rows] = "batch"
    "batch: select from the rows of a batch; N: score N rows and keep data.batch_size of them, which sets the ratio"
    look: Annotated[Any, Literal["auto"] | Share] = 1.0
    "Share of each batch that is scored, drawn at random; the rows kept are among these. auto: by the teacher's cost"
    scope: str = "global"
    "global: keep the best rows of the batches of all ranks together; local: of each rank's batch"
    scoring: str = "fresh"
    "Scores: fresh (a forward of the student), stale (of the row's last visit) or early_exit (of the first layers)"
    refresh: Count = 2
    "scoring=stale: epochs after which a row is scored again"
    exit_layer: Count | None = None
    "scoring=early_exit: number of student layers that compute the score; null: half of them"
    votes: Annotated[Any, Literal["exits"] | Annotated[int, Range(1, usual=100)]] = "exits"
    "Committee of strategies that need one: exits (of the student's layers), or a number of forwards with dropout"
    explore: Probability = 0.0
    "Share of the kept rows that are random ones of all the others, whatever the strategy"
    balance: str = "none"
    "Classes that keep equally many rows: none, predicted (by the student) or label"
    temperature: Temperature | None = None
    "Sample rows with weight exp(r / temperature), r the normalised rank of the score from 0 to 1; null: the best rows"
    importance: bool = False
    "true: weigh sampled rows so that the loss is an unbiased estimate of the whole batch's mean"
    warmup: BelowOne = 0.0
    "Share of the training in which random rows are kept first; the policy and its rewards begin after it"
    replay: Annotated[float, Range(0, usual=64)] = 0.0
    "Rows trained on again for each row kept: rows kept before, with the answers given then (teachers.cache); of tasks"
    interval: Annotated[Any, Literal["auto"] | Count] = "auto"
    "Optimizer steps between two observations of an adaptive policy (not printed in AdaDS); auto: about 8 % of the rows"
    observe: str = "task"
    "Observed loss: task (labels, masked words), kd (teacher's answers too), held_out (rows not trained on), or scored"
    evaluation_rows: Annotated[Any, Literal["auto"] | Rows] = "auto"
    "Training rows of an observation, drawn once (M of AdaDS Eq. 11, not printed); auto: 256, fewer in short trainings"
    reference: str = TEACHER
    "Model whose loss select=reducible subtracts: teacher (its cached answers), or a trained model's folder or run folder"
    arms: dict[str, Any] = field(default_factory=dict)
    "Selection strategies by name (_target_ in kdlab.methods.selection.strategies); the policy picks one of them"
    policy: Any = None
    "Policy that picks an arm (_target_ in kdlab.methods.selection.policies), such as Fixed, Schedule, Online, UCB"
    reward: Any = None
    "Reward that an adaptive policy learns from: trend, per_flop, per_query, probe, loss_decay, a _target_, or null"
    credit_decay: BelowOne = 0.0
    "Effect of an arm on the loss left one optimizer step later (AdamW's momentum: 0.9); 0: credit the arm in force"
    credit_delay: Whole = 0
    "Observations between an arm and the reward that it is credited; 0: the arm in force before the observation"
    probe_every: Count | None = None
    "Optimizer steps between paired probes, which try every arm from the same weights (probe.csv); null: none"
    probe_steps: Annotated[int, Range(1, usual=1000)] = 10
    "Optimizer steps that a probe gives each arm"

    def check(self) -> None:
        """UserError for a value out of range; sets ratio and look of select=all to 1."""
        if self.name == "all":
            self.ratio = self.look = 1.0  # an experiment's ratio is for its own strategy
            self.unit = "row"
        if self.ratio == 1:
            self.replay = 0.0  # each pass over the data brings every row again
        one_of("select.unit", self.unit, ("row", "position", "both"))
        if self.unit != "row":
            self._check_positions()
        if isinstance(self.ratios, list) and len({*self.ratios}) < 2:
            raise UserError(f"select.ratios={self.ratios}: two different ratios or more, auto, or null")
        one_of("select.scope", self.scope, ("global", "local"))
        one_of("select.observe", self.observe, ("task", "kd", "held_out", "scored"))
        if isinstance(self.reward, str):
            one_of("select.reward", self.reward, REWARD_NAMES)
            self.reward = dict(REWARDS[self.reward])
        one_of("select.scoring", self.scoring, ("fresh", "stale", "early_exit"))
        one_of("select.balance", self.balance, ("none", "predicted", "label"))
        sampled(self.importance, self.temperature, self.balance)
        if self.scoring == "stale" and self.scope == "local":
            raise UserError(
                "select.scoring=stale select.scope=local: a row may be scored on another rank at its next visit, and "
                "only global selection shares the scores; select.scope=global"
            )

    def _check_positions(self) -> None:
        """UserError for settings that positions do not have: they are scored from the training forward, all of them."""
        where = f"select.unit={self.unit}"
        if self.scoring != "fresh":
            raise UserError(
                f"{where} select.scoring={self.scoring}: positions are scored from the training forward itself, at no cost "
                "but the head's; select.scoring=fresh"
            )
        if self.unit == "position" and self.look == AUTO:
            self.look = 1.0
        if self.unit == "position" and self.look != 1:
            raise UserError(
                f"{where} select.look={self.look:g}: the forward that scores positions is the training's own, so none is "
                "saved; select.look=1"
            )
        if self.unit == "position" and self.pool != "batch":
            raise UserError(
                f"{where} select.pool={self.pool}: a pool is of rows; select.ratio is the share of positions"
            )
        if self.unit == "both" and 1 in (self.ratio, self.positions) and self.pool == "batch":
            rest = "position" if self.ratio == 1 else "row"
            raise UserError(
                f"{where} select.{'ratio' if self.ratio == 1 else 'positions'}=1 keeps all of them: select.unit={rest} "
                f"select.ratio={self.positions if self.ratio == 1 else self.ratio:g}"
            )

    def position_share(self, most: bool = False) -> float:
        """The share of the positions of the rows kept that is kept, on average or at most; 1 where all are."""
        if self.unit == "row" or self.ratio == 1:
            return 1.0
        if self.unit == "both":
            return self.positions
        return self.ratio_choices()[-1] if most else self.ratio

    def chosen(self) -> str:
        """The share that is selected, in words: "10% of the rows"."""
        if self.unit == "row" or self.ratio == 1:
            return f"{self.ratio:.0%} of the rows"
        if self.unit == "position":
            return f"{self.ratio:.0%} of the positions of all rows"
        return f"{self.ratio:.0%} of the rows, and {self.positions:.0%} of their positions,"

    def ratio_choices(self) -> tuple[float, ...]:
        """The ratios that a policy chooses among, ascending; `ratio` alone where it chooses none."""
        if self.ratios is None:
            return (self.ratio,)
        given = (self.ratio / 2, self.ratio, min(1.0, 3 * self.ratio)) if self.ratios == AUTO else self.ratios
        return tuple(sorted({float(ratio) for ratio in given}))
