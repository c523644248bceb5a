"""Rewards that steer a policy.

Every reward has `observe(value) -> (speed, reward)`, `restart()`, and `state_dict` / `load_state_dict` in plain Python
values.
"""

from kdlab.methods.selection.rewards.base import Reward
from kdlab.methods.selection.rewards.loss_decay import LossDecay

__all__ = ["LossDecay", "Reward"]
