"""The reward of an adaptive policy that must earn its cost: fall of the log loss for each FLOP or teacher query."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from kdlab.methods.marks import needs
from kdlab.methods.selection.rewards.trend import SLOWEST, FallBeyondTrend
from kdlab.ranges import Positive, Range, checked
from kdlab.types import Observation


@needs("observation", "cost")
class FallPerCost(FallBeyondTrend):
    """Fall of the log loss for what it has cost, beyond the trend of all arms (ours; meant for `select.observe=held_out`).

    The fall between two observations is g = (ln o_{t-1} - ln o_t) / x_t, x_t the cost in between (`per` "flops": of
    scoring, student and teachers, without observations, evaluations and probes, each answer of a teacher at the price of
    a forward, from a cache or not; "queries": those answers), in units of the first such cost, times the mean learning
    rate in between as a share of its peak (a cost buys less at a lower one, whatever the arm). The reward is g less the
    expectation of `ArmTrend`; with `centred` false it is g. `decay`, `ridge`, `standardise` as in `Trend`. The first
    reward exists at the third observation, with `centred` false at the second. Nothing was spent: there is no reward.
    """

    @checked
    def __init__(
        self,
        per: Literal["flops", "queries"] = "flops",
        centred: bool = True,
        decay: Annotated[float, Range(0, 0.999)] = 0.9,
        ridge: Positive = 1.0,
        standardise: bool = False,
    ):
        super().__init__(decay, ridge, standardise, centred)
        self.per = per
        self._unit = 0.0  # the first cost

    def amount(self, observation: Observation) -> float:
        cost = float(observation.queries if self.per == "queries" else observation.flops)
        if cost <= 0 or observation.steps <= 0:
            return 0.0
        self._unit = self._unit or cost
        return cost / self._unit * max(observation.learning_rate / observation.steps, SLOWEST)

    def state_dict(self) -> dict[str, Any]:
        """As of `FallBeyondTrend`, and the unit of cost."""
        return {**super().state_dict(), "unit": self._unit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; UserError if another kind of reward saved it."""
        super().load_state_dict(state)
        self._unit = float(state.get("unit", 0.0))
