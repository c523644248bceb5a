"""AdaDS section 5.3 against SciPy's linear regression and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import linregress

from kdlab.errors import UserError
from kdlab.methods.selection.rewards import LossDecay

LOSSES = np.cumsum(np.random.default_rng(0).normal(-0.1, 0.3, size=40)) + 9


@pytest.mark.parametrize("window", [2, 3, 5, 8])
def test_speed_and_reward(window):
    decay, before = LossDecay(window), None
    for step, loss in enumerate(LOSSES, start=1):
        speed, reward = decay.observe(loss)
        if step < window:
            assert (speed, reward) == (None, None)
            continue
        assert speed == pytest.approx(-linregress(range(step - window, step), LOSSES[step - window : step]).slope)
        assert (reward is None) == (step == window)
        if before is not None:
            assert reward == pytest.approx(speed - before, abs=1e-12)
        before = speed


def test_by_hand():
    """4, 3, 2 falls by 1 a step; with 0 in place of the 4 the slope is -3/2: the fall gained speed by 1/2."""
    decay = LossDecay(window=3)
    assert [decay.observe(value) for value in (4, 3, 2, 0)] == [(None, None), (None, None), (1, None), (1.5, 0.5)]


def test_default_window_is_five():
    decay = LossDecay()
    answers = [decay.observe(value) for value in LOSSES[:6]]
    assert [speed is None for speed, _ in answers] == [True] * 4 + [False] * 2
    assert [reward is None for _, reward in answers] == [True] * 5 + [False]


@pytest.mark.parametrize("cut", range(9))
def test_state_round_trip(cut):
    whole, first, second = LossDecay(4), LossDecay(4), LossDecay(4)
    expected = [whole.observe(value) for value in LOSSES[:12]]
    for value in LOSSES[:cut]:
        first.observe(value)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.observe(value) for value in LOSSES[cut:12]] == expected[cut:]


def test_state_of_another_window_is_refused():
    with pytest.raises(UserError, match="window is 4.*is 5"):
        LossDecay(5).load_state_dict(LossDecay(4).state_dict())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_taken(bad):
    decay = LossDecay(3)
    for value in (4, 3, 2):
        decay.observe(value)
    with pytest.raises(ValueError, match="finite"):
        decay.observe(bad)
    assert decay.observe(0) == (1.5, 0.5)


@pytest.mark.parametrize("window", [1, 0, -3, 2.5, "5", True])
def test_wrong_window(window):
    with pytest.raises(UserError, match="window=.*: a whole number, at least 2"):
        LossDecay(window)


def test_after_a_restart_no_difference_reaches_back():
    """A loss of another scale (12 in one phase, 1 in the next) is no progress: two speeds of the new one come first."""
    reward, again = LossDecay(2), LossDecay(2)
    for value in (12.0, 11.5, 11.25):
        reward.observe(value)
    reward.restart()
    assert [reward.observe(value) for value in (1.0, 0.5, 0.25)] == [(None, None), (0.5, None), (0.25, -0.25)]
    again.load_state_dict(reward.state_dict())
    assert again.observe(0.125) == reward.observe(0.125) == (0.125, -0.125)
