"""Policies: the choice of the next arm, by its name.

Every policy takes its `arms` first and has `choose(progress, rng) -> arm`, `progress` being the share of training
done, in [0, 1], and `rng` a generator keyed by the step; and `state_dict` / `load_state_dict` in plain Python values.
A `Learner` also has `learn(arm, reward)` and `q`, a value for each arm; only a Learner needs observed rewards.
"""

from kdlab.methods.selection.policies.exp3 import Exp3, Exp3S
from kdlab.methods.selection.policies.fixed import Fixed, RandMix, Schedule
from kdlab.methods.selection.policies.halving import Halving
from kdlab.methods.selection.policies.linucb import LinUCB
from kdlab.methods.selection.policies.nonstationary_ucb import DiscountedUCB, WindowUCB
from kdlab.methods.selection.policies.online import Online
from kdlab.methods.selection.policies.protocols import Learner, Policy
from kdlab.methods.selection.policies.ratios import Ratios
from kdlab.methods.selection.policies.thompson import Thompson
from kdlab.methods.selection.policies.ucb import UCB

__all__ = [  # in the order of docs/api.md
    "Policy", "Learner", "Fixed", "Schedule", "RandMix", "Online", "UCB", "DiscountedUCB", "WindowUCB", "Thompson", "Exp3",
    "Exp3S", "Halving", "LinUCB", "Ratios",
]  # fmt: skip
