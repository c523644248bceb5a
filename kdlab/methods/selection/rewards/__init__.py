"""Rewards that steer a policy.

Every reward has `observe(value) -> (speed, reward)`, `restart()`, and `state_dict` / `load_state_dict` in plain Python
values. The value is the observed loss, or for a reward marked `@needs("observation")` a `kdlab.types.Observation`.
"""

from kdlab.methods.selection.rewards.base import Reward
from kdlab.methods.selection.rewards.loss_decay import LossDecay
from kdlab.methods.selection.rewards.per_cost import FallPerCost
from kdlab.methods.selection.rewards.probe import Probe
from kdlab.methods.selection.rewards.trend import Trend

__all__ = ["FallPerCost", "LossDecay", "Probe", "Reward", "Trend"]
