"""Rewards against an expectation (`Trend`, `FallPerCost`): by hand, against SciPy's solver, and the laws they are made for."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from kdlab.errors import UserError
from kdlab.methods.selection.rewards import FallPerCost, LossDecay, Trend
from kdlab.methods.selection.rewards.trend import ArmTrend
from kdlab.types import Observation

ARMS = ("a", "b", "c")


def series(falls, arms, rate=1.0, loss=8.0, steps=10):
    """Observations of a loss whose logarithm falls by so much, each under an arm."""
    found = [Observation(loss, 0)]
    for number, (fall, arm) in enumerate(zip(falls, arms, strict=True), start=1):
        loss *= math.exp(-fall)
        found.append(Observation(loss, number * steps, arm, {arm: 1.0}, steps, rate * steps, 100.0, 4))
    return found


def rewards(reward, observations):
    return [reward.observe(one)[1] for one in observations]


def test_by_hand():
    """Falls a step 0.2, then 0.4 by another arm. The first is all that is known of the trend: a + b/-10 + e = 0.2 has
    no residual with b = e = 0. So 0.2 is expected, and 0.2 more has come."""
    found = [Trend().observe(Observation(1.0))]
    trend = Trend(per="steps")
    found = [trend.observe(one) for one in series([2.0, 4.0], "ab")]
    assert found[0] == (None, None)
    assert found[1] == (pytest.approx(0.2), None)
    assert found[2] == (pytest.approx(0.4), pytest.approx(0.2))


def test_expectation_of_two_arms_by_hand():
    """Decay 1/2, ridge 1, falls 3 by a (two back, weight 1/2) and 0 by b (one back, weight 1). With the design rows
    (1, -1, 1, 0) and (1, -1/2, 0, 1) the normal equations are those below; Cramer's rule gives the intercept."""
    trend = ArmTrend(0.5, 1.0)
    trend.add(3.0, {"a": 1.0})
    trend.add(0.0, {"b": 1.0})
    normal = np.array([[1.5, -1.0, 0.5, 1.0], [-1.0, 0.85, -0.5, -0.5], [0.5, -0.5, 1.5, 0.0], [1.0, -0.5, 0.0, 2.0]])
    right = np.array([1.5, -1.5, 1.5, 0.0])
    cramer = normal.copy()
    cramer[:, 0] = right
    assert trend.expected() == pytest.approx(np.linalg.det(cramer) / np.linalg.det(normal))


def test_expectation_minimises_the_written_sum():
    rng = np.random.default_rng(0)
    falls = rng.normal(size=12)
    shares = rng.dirichlet(np.ones(3), size=12)
    trend = ArmTrend(0.8, 0.5)
    for fall, mine in zip(falls, shares, strict=True):
        trend.add(float(fall), dict(zip(ARMS, map(float, mine), strict=True)))

    def loss(theta):
        a, b, effects = theta[0], theta[1], theta[2:]
        total = 0.5 * (b**2 / 10 + (effects**2).sum())
        for i in range(12):
            residual = falls[i] - a - b * (i - 12) * 0.2 - shares[i] @ effects
            total += 0.8 ** (11 - i) * residual**2
        return total

    assert trend.expected() == pytest.approx(minimize(loss, np.zeros(5), tol=1e-12).x[0], abs=1e-6)


def test_equal_arms_have_rewards_about_zero_though_the_fall_slows_down():
    """AdaDS's acceleration is negative at every step of the same losses."""
    falls = 0.1 * 0.985 ** np.arange(60)
    noise = np.random.default_rng(1).normal(0, 0.005, size=60)
    arms = [ARMS[i % 3] for i in range(60)]
    silent = rewards(Trend(), series(falls, arms))[10:]
    assert max(abs(reward) / (fall / 10) for reward, fall in zip(silent, falls[9:], strict=True)) < 0.05
    decay = LossDecay()
    accelerations = [decay.observe(one.loss)[1] for one in series(falls, arms)][5:]
    assert max(accelerations) < 0
    noisy = rewards(Trend(), series(falls + noise, arms))[10:]
    assert abs(np.mean(noisy)) < 3 * np.std(noisy) / math.sqrt(len(noisy))


@pytest.mark.parametrize("often", [0.2, 0.8])
def test_a_better_arm_has_positive_rewards_however_often_it_is_taken(often):
    rng = np.random.default_rng(2)
    arms = ["a" if rng.random() < often else ARMS[1 + int(rng.integers(2))] for _ in range(200)]
    falls = [0.05 * 0.99**i + (0.01 if arm == "a" else 0.0) + float(rng.normal(0, 0.002)) for i, arm in enumerate(arms)]
    found = rewards(Trend(), series(falls, arms))[20:]
    mean = {arm: np.mean([r for r, mine in zip(found, arms[19:], strict=True) if mine == arm]) for arm in ARMS}
    assert mean["a"] > 0 and mean["a"] > mean["b"] + 0.0006 and mean["a"] > mean["c"] + 0.0006
    assert mean["b"] < 0 and mean["c"] < 0


def test_the_unit_of_the_loss_does_not_matter():
    plain = series([0.1, 0.3, 0.2, 0.05, 0.4], "abcab")
    scaled = [replace(one, loss=one.loss * 37.0) for one in plain]
    for reward in (Trend, FallPerCost):
        assert rewards(reward(), scaled)[2:] == pytest.approx(rewards(reward(), plain)[2:])


def test_the_learning_rate_is_taken_into_account():
    """At a tenth of the learning rate the loss falls a tenth as much: the arm has done no worse. `per="steps"` punishes it."""
    arms = "abababab"
    full, low = series([0.2] * 8, arms), series([0.2] * 4 + [0.02] * 4, arms)
    low = [replace(one, learning_rate=one.learning_rate * (0.1 if i > 4 else 1.0)) for i, one in enumerate(low)]
    assert rewards(Trend(), low)[2:] == pytest.approx(rewards(Trend(), full)[2:], abs=1e-9)
    assert rewards(Trend(per="steps"), low)[5] < -0.01


def test_a_learning_rate_near_zero_does_not_blow_a_fall_up():
    trend = Trend()
    first, second = series([0.1], "a")
    trend.observe(first)
    assert trend.observe(replace(second, learning_rate=1e-9))[0] == pytest.approx(0.1 / (0.05 * 10))


def test_standardised_rewards_do_not_depend_on_the_size_of_the_falls():
    falls, arms = [0.1, 0.3, 0.2, 0.05, 0.4, 0.1], "abcabc"
    small = rewards(Trend(standardise=True), series(np.array(falls) / 100, arms))
    assert small[2:] == pytest.approx(rewards(Trend(standardise=True), series(falls, arms))[2:])
    plain = rewards(Trend(), series(falls, arms))[2:]
    root = math.sqrt((0.9 * plain[0] ** 2 + plain[1] ** 2) / 1.9)
    assert small[2:4] == [pytest.approx(math.copysign(1, plain[0])), pytest.approx(plain[1] / root)]


def test_fall_per_cost_by_hand():
    """0.2 for 100 FLOPs, then 0.2 for 400: a quarter as much for the cost, 0.15 less than the 0.2 expected of the first cost's unit."""
    first, one, two = series([0.2, 0.2], "ab")
    dear = replace(two, flops=400.0, queries=8)
    reward = FallPerCost()
    found = [reward.observe(value) for value in (first, one, dear)]
    assert found == [(None, None), (pytest.approx(0.2), None), (pytest.approx(0.05), pytest.approx(-0.15))]
    per_query = FallPerCost("queries", centred=False)
    assert [per_query.observe(value)[1] for value in (first, one, dear)] == [
        None,
        pytest.approx(0.2),
        pytest.approx(0.1),
    ]
    assert FallPerCost("queries").observe(replace(one, queries=0)) == (None, None)


@pytest.mark.parametrize("make", [Trend, lambda: Trend(standardise=True), FallPerCost])
@pytest.mark.parametrize("cut", [0, 1, 2, 5])
def test_state_round_trip(make, cut):
    observations = series([0.1, 0.3, 0.2, 0.05, 0.4, 0.1, 0.2], "abcabca")
    whole, first, second = make(), make(), make()
    expected = [whole.observe(one) for one in observations]
    for one in observations[:cut]:
        first.observe(one)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.observe(one) for one in observations[cut:]] == expected[cut:]
    second.restart()
    assert [second.observe(one)[1] for one in observations[:3]][:2] == [None, None]


def test_states_of_other_rewards_are_refused():
    with pytest.raises(UserError, match="another one than Trend"):
        Trend().load_state_dict({"window": 5, "observations": [], "speed": None})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_without_a_logarithm_are_not_taken(bad):
    with pytest.raises(ValueError, match="must be finite"):
        Trend().observe(Observation(bad))


def test_a_negative_loss_is_the_users_to_mend():
    """A term of one's own may be negative; it has no logarithm."""
    with pytest.raises(UserError, match="the observed loss is -1, and Trend compares logarithms"):
        Trend().observe(Observation(-1.0))


@pytest.mark.parametrize("given", [{"per": "minutes"}, {"decay": 1.0}, {"ridge": 0}, {"decay": -0.1}])
def test_wrong_arguments(given):
    with pytest.raises(UserError, match=f"{next(iter(given))}="):
        Trend(**given)
