"""Plan the observations of an adaptive policy: how often, how many rows, their share of the data, the rewards they make."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kdlab.config.groups.select import AUTO, SelectConfig
from kdlab.methods.selection.candidates import reads_student
from kdlab.methods.selection.rewards.base import reads
from kdlab.methods.selection.row_selector import warmup_steps
from kdlab.models import flops
from kdlab.models.flops import MethodCost
from kdlab.stages.components import Selection
from kdlab.types import Caveat, Observation

if TYPE_CHECKING:
    from kdlab.stages.base import Stage

SHARE = 0.08  # share of the rows that a derived observation reads: AdaDS's 3.4x implies 5 to 9 %
ROWS = (256, 128, 64, 32, 16)  # derived sizes of an observation, the largest that makes enough rewards
REWARDS = 5  # rewards for each arm that a derived interval allows, where the training is long enough
EATEN = 0.2  # share of the saving in FLOPs that observation may take without a caveat


@dataclass(frozen=True)
class Observations:
    """Observations of `rows` rows every `interval` of `steps` optimizer steps, each of `per_step` rows on all ranks.

    `rewards` that a policy of `arms` arms learns from; `first`: the step of the first one (None: there is none). `apart`:
    the share of the arms for which these rows are run; with `select.observe=scored` those alone that score none.
    """

    interval: int
    rows: int
    per_step: int
    steps: int
    rewards: int
    first: int | None
    arms: int
    apart: float = 1.0

    @property
    def share(self) -> float:
        """Rows that are run to be observed, as a share of the rows of the training (above 1 where it is more)."""
        return self.apart * self.rows / (self.interval * self.per_step)

    def line(self, name: str) -> str:
        """One line on the observations of select=`name`."""
        if self.apart == 1:
            return f"select={name}: {self._what()}, {_percent(self.share)} of the rows"
        of_its_own = f"; arms that score none run {_percent(self.share)} of the rows for it" if self.apart else ""
        return f"select={name}: {self._what()}, of those that are scored{of_its_own}"

    def few_rewards(self, name: str) -> str:
        """A line where there are fewer rewards than arms; "" elsewhere."""
        if self.rewards >= self.arms:
            return ""
        remedy = "train longer" if self.interval == 1 else "train longer, or set a smaller select.interval"
        when = "" if self.first is None else f", the first at step {self.first}"
        return (
            f"select={name}: {self.rewards} rewards for {self.arms} strategies in {self.steps} steps{when}, so the policy "
            f"chooses at random, as select=randmix does without an observation; {remedy}"
        )

    def eats_saving(self, name: str, cost: MethodCost, ratio: float, scored: bool, look: float = 1.0) -> str:
        """A line where observation takes more than `EATEN` of the saving in FLOPs; "" elsewhere. `cost`: of a row; `look`:
        the share of the rows that is scored."""
        alone = cost.honest(ratio, scored=scored, look=look)
        whole = alone + self.share * cost.student_forward
        if alone >= (1 - EATEN) * whole:
            return ""
        return (
            f"select={name}: {self._what()}, {_percent(self.share)} of the rows, which eats the saving: about "
            f"{cost.vanilla() / whole:.1f}x fewer FLOPs than all data, without it {cost.vanilla() / alone:.1f}x; "
            "select.interval=auto select.evaluation_rows=auto observe about 8 %"
        )

    def recorded(self) -> dict[str, Any]:
        """The entry `observation` of result.json."""
        return {"interval": self.interval, "rows": self.rows, "share": self.share, "rewards": self.rewards}

    def _what(self) -> str:
        every = "step" if self.interval == 1 else f"{self.interval} steps"
        return f"observes {self.rows:,} rows every {every} of {self.per_step:,} rows"


def planned(select: SelectConfig, selection: Selection, per_step: int, steps: int) -> Observations | None:
    """The observations of a training of `steps` steps of `per_step` rows; None for a policy that learns from none.

    `interval` and `evaluation_rows` that are auto are derived, so that about `SHARE` of the rows is observed.
    """
    if selection.reward is None or select.ratio == 1:
        return None
    given_interval = None if select.interval == AUTO else int(select.interval)
    given_rows = None if select.evaluation_rows == AUTO else int(select.evaluation_rows)
    sizes, warm = ROWS if given_rows is None else (given_rows,), warmup_steps(select.warmup, steps)
    if given_interval is not None and given_rows is None:
        sizes = (max(ROWS[-1], round(SHARE * given_interval * per_step)),)
    found: Observations | None = None
    scored = from_scored(select, selection)
    late = int(scored and not warm)  # nothing is scored before the first step
    for rows in sizes:
        interval = given_interval or max(1, round(rows / (SHARE * per_step)))
        rewards, first = _rewards(selection.reward, -(-(steps - warm) // interval) - late, select.credit_delay)
        at = None if first is None else warm + (first + late) * interval
        rows = min(rows, max(1, int(interval * per_step * select.look))) if scored else rows
        found = Observations(
            interval, rows, per_step, steps, rewards, at, len(selection.arms), apart(select, selection)
        )
        if rewards >= REWARDS * len(selection.arms):
            break
    return found


def resolved(select: SelectConfig, observations: Observations | None) -> SelectConfig:
    """The selection with numbers in place of auto; those of a policy that observes nothing only pace its log."""
    if observations is not None:
        return replace(select, interval=observations.interval, evaluation_rows=observations.rows)
    return replace(
        select,
        interval=10 if select.interval == AUTO else select.interval,
        evaluation_rows=ROWS[0] if select.evaluation_rows == AUTO else select.evaluation_rows,
    )


def row_cost(stage: Stage) -> MethodCost:
    """FLOPs of the run's student and main teacher for a row of `data.max_length` tokens, without heads; B = 2 F."""
    inputs, length = stage.inputs, stage.inputs.max_length
    student = inputs.student_shape
    shape = flops.shape_of(student.config)
    inner = shape.intermediate * student.width // shape.hidden
    shape = replace(shape, layers=student.layers, hidden=student.width, intermediate=inner)
    teacher = stage.teacher_pool.main.cost(None, length) if inputs.queries_teacher else 0
    return flops.cost(flops.forward(shape, 1, length), teacher, 2.0)


def plan(stage: Stage, world: int, steps: int) -> Observations | None:
    """Plan the observations of a run of `steps` steps on `world` ranks, print them, and put their numbers in place of auto
    in the configuration. Adds the caveats `few_rewards` and `observation_share`."""
    config, selection = stage.config, stage.selection()
    select, caveats = config.select, stage.inputs.caveats
    found = planned(select, selection, config.data.batch_size * world * config.trainer.accumulate, steps)
    config.select = resolved(select, found)
    if found is not None:
        stage.inputs.notify(found.line(select.name))
        if text := found.few_rewards(select.name):
            caveats.add(Caveat("few_rewards", text))
        rows = select.unit != "position"  # of positions, the layers run on all rows, and scores take no forward
        ratio, scored = (select.ratio, is_scored(selection)) if rows else (1.0, False)
        if text := found.eats_saving(select.name, row_cost(stage), ratio, scored, select.look):
            caveats.add(Caveat("observation_share", text))
    return found


def from_scored(select: SelectConfig, selection: Selection) -> bool:
    """True where a policy's observations are made of the rows that are scored."""
    return select.observe == "scored" and selection.reward is not None


def apart(select: SelectConfig, selection: Selection) -> float:
    """The share of the arms under which rows must be run to be observed: those that score none, or all."""
    if not from_scored(select, selection):
        return 1.0
    if select.unit == "position":  # the training forward has all of them
        return 0.0
    return sum(not reads_student(arm) for arm in selection.arms.values()) / len(selection.arms)


def is_scored(selection: Selection) -> bool:
    """True if a strategy reads the student's outputs."""
    return any(map(reads_student, selection.arms.values()))


def _rewards(reward: Any, observations: int, delay: int = 0) -> tuple[int, int | None]:
    """Rewards that a number of observations makes, and the number of the observation with the first one, from 0; `delay`:
    observations before a reward for which no arm was in force."""
    if "probe" in reads(reward):  # rewards from the first observation on
        return observations, 0
    reward = copy.deepcopy(reward)
    for i in range(min(observations, 1000)):  # a window beyond that makes none in any training of use
        if reward.observe(example(i) if reads(reward) else float(i % 2))[1] is not None:
            first = max(i, delay + 1)
            return (observations - first, first) if first < observations else (0, None)
    return 0, None


def example(number: int) -> Observation:
    """The observation number `number`, from 0, of a training that observes its loss each step."""
    since = {"arm": "example", "shares": {"example": 1.0}, "steps": 1, "learning_rate": 1.0, "flops": 1.0, "queries": 1}
    return Observation(1.0 + number % 2, number, **(since if number else {}))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"
