"""Laws of policies and rewards, for any series of rewards."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.methods.selection.policies import (
    UCB,
    DiscountedUCB,
    Exp3,
    Exp3S,
    Halving,
    LinUCB,
    Online,
    Thompson,
    WindowUCB,
)
from kdlab.methods.selection.rewards import LossDecay
from kdlab.runtime.seeding import generator

LAWS = settings(deadline=None, max_examples=30)
ARMS = ["a", "b", "c"]
SCALE_FREE = [UCB, Exp3, DiscountedUCB, WindowUCB, Thompson, Exp3S, Halving, LinUCB]
MAKERS = [Online, *SCALE_FREE]
REWARDS = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), max_size=30)
LOSSES = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


def play(policy, rewards, start=0):
    chosen = []
    for step, reward in enumerate(rewards, start):
        chosen.append(policy.choose(0.0, generator(step)))
        policy.learn(chosen[-1], reward)
    return chosen


@pytest.mark.parametrize("make", MAKERS)
@LAWS
@given(REWARDS, REWARDS)
def test_interrupted_or_not(make, before, after):
    whole, first, second = make(ARMS), make(ARMS), make(ARMS)
    expected = play(whole, before + after)
    play(first, before)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert play(second, after, start=len(before)) == expected[len(before) :]
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("make", SCALE_FREE)
@LAWS
@given(st.lists(st.integers(-8, 8).map(float), max_size=30), st.sampled_from([0.25, 4.0, 1024.0]))
def test_the_unit_of_the_reward_changes_no_choice(make, rewards, unit):
    """Scaled by powers of two, so that rounding is the same."""
    assert play(make(ARMS), rewards) == play(make(ARMS), [reward * unit for reward in rewards])


@LAWS
@given(REWARDS, st.floats(0.01, 1))
def test_q_stays_within_the_rewards(rewards, alpha):
    policy = Online(ARMS, alpha=alpha)
    play(policy, rewards)
    low, high = min([0.0, *rewards]), max([0.0, *rewards])
    assert all(low - 1e-9 <= q <= high + 1e-9 for q in policy.q.values())


@LAWS
@given(REWARDS, st.floats(0.01, 1))
def test_exp3_is_a_distribution_that_explores(rewards, gamma):
    policy = Exp3(ARMS, gamma=gamma)
    play(policy, rewards)
    assert abs(sum(policy.q.values()) - 1) < 1e-9
    assert min(policy.q.values()) >= gamma / 3 - 1e-12


@LAWS
@given(LOSSES, st.integers(2, 7))
def test_speed_is_minus_the_slope_of_polyfit(losses, window):
    decay, speeds = LossDecay(window), []
    for step, loss in enumerate(losses, start=1):
        speed, reward = decay.observe(loss)
        if step >= window:
            speeds.append(-np.polyfit(np.arange(window), losses[step - window : step], 1)[0])
            assert abs(speed - speeds[-1]) < 1e-8
        if step > window:
            assert abs(reward - (speeds[-1] - speeds[-2])) < 1e-8


@LAWS
@given(st.floats(-5, 5), st.floats(-1, 1), st.integers(2, 6))
def test_a_steady_fall_has_its_rate_for_speed_and_no_reward(start, rate, window):
    decay = LossDecay(window)
    answers = [decay.observe(start - rate * step) for step in range(window + 3)]
    for speed, reward in answers[window:]:
        assert abs(speed - rate) < 1e-9
        assert abs(reward) < 1e-9


@LAWS
@given(LOSSES, st.integers(-50, 50))
def test_a_constant_added_to_the_loss_changes_nothing(losses, constant):
    plain, raised = LossDecay(3), LossDecay(3)
    for loss in losses:
        for one, other in zip(plain.observe(loss), raised.observe(loss + constant), strict=True):
            assert (one is None) == (other is None)
            assert one is None or abs(one - other) < 1e-9
