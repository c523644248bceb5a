"""The equations of KSM, the actor-critic that weighs knowledge (`kdlab.methods.ksm.module` holds its networks).

Wang et al. 2023, Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection (KSM),
section 5. t counts the steps of a phase from 0: over a whole episode gamma^t would vanish.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hard_action(soft: Tensor, threshold: float) -> Tensor:
    """(M,) of 0 and 1: 1 where the soft action is at least `threshold`; where none is, the largest alone. Eq. 5.

    The paper does not define an action of zeros, which would leave no loss; keeping the largest is ours.
    """
    hard = (soft >= threshold).to(soft.dtype)
    return hard if hard.any() else F.one_hot(soft.argmax(), len(soft)).to(soft.dtype)


def soft_bonus(action: Tensor, previous: Tensor, alpha: float) -> Tensor:
    """alpha (1 - mean cosine of `action` (M,) to the actions (k, M) of the previous phase), a scalar. Eq. 12."""
    return alpha * (1 - F.cosine_similarity(previous, action[None], dim=1).mean())


def hard_bonus(action: Tensor, previous: Tensor, alpha: float) -> Tensor:
    """alpha (1 - share of the previous phase's actions (k, M) that equal `action` (M,)), a scalar. Eq. 13."""
    return alpha * (1 - (previous == action).all(1).to(action.dtype).mean())


def estimated_rewards(values: Tensor, following: Tensor, gamma: float) -> Tensor:
    """(k,) (Q(s_t, a_t) - Q(s_t+1, a_t+1)) / gamma^t for t = 0 ... k - 1: the estimated reward of each step. Eq. 11."""
    return (values - following) / _discount(values, gamma)


def phase_error(reward: float, values: Tensor, following: Tensor, gamma: float) -> Tensor:
    """(r - sum of the estimated rewards)^2 of one phase, a scalar. Eq. 10."""
    return (reward - estimated_rewards(values, following, gamma).sum()).square()


def step_error(rewards: Tensor, values: Tensor, following: Tensor, gamma: float) -> Tensor:
    """Mean over steps of (Q(s_t, a_t) - (gamma^t r_t + Q(s_t+1, a_t+1)))^2, the target detached. Eq. 8 and 9."""
    target = _discount(values, gamma) * rewards + following
    return F.mse_loss(values, target.detach())


def _discount(values: Tensor, gamma: float) -> Tensor:
    return gamma ** torch.arange(len(values), device=values.device, dtype=values.dtype)
