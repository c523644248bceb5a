"""Policies for rewards that change, each against its equation, written again from the paper with NumPy and SciPy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from kdlab.errors import UserError
from kdlab.methods.selection.policies import (
    DiscountedUCB,
    Exp3S,
    Halving,
    Learner,
    LinUCB,
    Online,
    Policy,
    Thompson,
    WindowUCB,
)
from kdlab.runtime.seeding import generator

ARMS = ["entropy", "margin", "density"]
REWARDS = np.random.default_rng(0).normal(size=60)
LEARNERS = [DiscountedUCB, WindowUCB, Thompson, Exp3S, Halving, LinUCB, lambda arms: Online(arms, relative=True)]


def draws(policy, count=600, progress=0.0):
    return [policy.choose(progress, generator(9, step)) for step in range(count)]


def test_discounted_ucb_follows_its_paper():
    """D-UCB of Garivier and Moulines: means and numbers discounted, 2 B sqrt(xi ln n / N)."""
    policy, gamma, xi, taken = DiscountedUCB(ARMS, gamma=0.9, xi=0.7), 0.9, 0.7, []
    for step, reward in enumerate(REWARDS):
        chosen = policy.choose(0.0, generator(step))
        if step < 3:
            assert chosen not in taken
        else:
            ages = gamma ** np.arange(step)[::-1]
            own = {arm: ages * (np.array(taken) == arm) for arm in ARMS}
            bound = np.ptp(REWARDS[max(0, step - 10) : step])  # of the last 1 / (1 - 0.9)
            mean = {arm: own[arm] @ REWARDS[:step] / own[arm].sum() for arm in ARMS}
            index = {arm: mean[arm] + 2 * bound * math.sqrt(xi * math.log(ages.sum()) / own[arm].sum()) for arm in ARMS}
            assert chosen == max(index, key=index.__getitem__)
            assert policy.q == pytest.approx(mean)
        taken.append(chosen)
        policy.learn(chosen, reward)


def test_window_ucb_follows_its_paper():
    """SW-UCB of Garivier and Moulines: the rewards of the last 12 times, B sqrt(xi ln min(t, 12) / N)."""
    policy, xi, taken = WindowUCB(ARMS, window=12, xi=0.7), 0.7, []
    for step, reward in enumerate(REWARDS):
        chosen = policy.choose(0.0, generator(step))
        names, last = np.array(taken[-12:]), REWARDS[max(0, step - 12) : step]
        absent = [arm for arm in ARMS if arm not in names]
        if absent:
            assert chosen in absent
        else:
            index = {
                arm: last[names == arm].mean()
                + np.ptp(last) * math.sqrt(xi * math.log(min(step, 12)) / (names == arm).sum())
                for arm in ARMS
            }
            assert chosen == max(index, key=index.__getitem__)
        taken.append(chosen)
        policy.learn(chosen, reward)


def taught(gamma: float) -> tuple[Thompson, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """A policy that has learnt; weights of the rewards by arm; all weights; the rewards."""
    policy = Thompson(ARMS, prior=0.5, gamma=gamma)
    taken = np.random.default_rng(1).integers(0, 2, size=12)
    rewards = 0.01 * REWARDS[:12] - 0.02
    for arm, reward in zip(taken, rewards, strict=True):
        policy.learn(ARMS[arm], reward)
    ages = gamma ** np.arange(12)[::-1]
    return policy, {name: ages * (taken == i) for i, name in enumerate(ARMS)}, ages, rewards


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_thompson_draws_the_student_t_of_its_model(gamma):
    policy, weights, ages, rewards = taught(gamma)
    total, overall = ages.sum(), ages @ rewards / ages.sum()
    mean = {a: w @ rewards / w.sum() if w.any() else 0.0 for a, w in weights.items()}
    rate = 0.5 * sum(
        w @ (rewards - mean[a]) ** 2 + 0.5 * w.sum() / (0.5 + w.sum()) * (mean[a] - overall) ** 2
        for a, w in weights.items()
    )
    found = [policy.drawn(generator(4, step)) for step in range(1500)]
    for arm, w in weights.items():
        centre = (0.5 * overall + w.sum() * mean[arm]) / (0.5 + w.sum())
        assert policy.q[arm] == pytest.approx(centre)
        scale = math.sqrt(rate / (total / 2) / (0.5 + w.sum()))
        values = [means[arm] for means, _ in found]
        assert stats.kstest(values, stats.t(total, centre, scale).cdf).pvalue > 0.01
    precision = [1 / deviation**2 for _, deviation in found]
    assert stats.kstest(precision, stats.gamma(total / 2, scale=1 / rate).cdf).pvalue > 0.01


def test_width_multiplies_the_distance_of_a_draw_from_the_mean():
    plain, *_ = taught(1.0)
    narrow = Thompson(ARMS, prior=0.5, width=0.25)
    narrow.load_state_dict(plain.state_dict())
    (wide, one), (small, other) = plain.drawn(generator(3)), narrow.drawn(generator(3))
    assert one == other
    assert {arm: 4 * (small[arm] - plain.q[arm]) for arm in ARMS} == pytest.approx(
        {arm: wide[arm] - plain.q[arm] for arm in ARMS}
    )


def test_thompson_takes_the_arm_of_the_largest_draw():
    policy, *_ = taught(1.0)
    for step in range(50):
        means, _ = policy.drawn(generator(9, step))
        assert policy.choose(0.0, generator(9, step)) == max(means, key=means.__getitem__)


def test_exp3s_follows_its_figure():
    """Auer et al. 2002 (Exp3.S), after rewards mapped on [0, 1] by the range of the last five."""
    policy, weight = Exp3S(ARMS, gamma=0.2, alpha=0.05, window=5), np.ones(3)
    for step, reward in enumerate(REWARDS):
        p = 0.8 * weight / weight.sum() + 0.2 / 3
        assert list(policy.q.values()) == pytest.approx(p)
        arm = ARMS.index(policy.choose(0.0, generator(step)))
        seen = REWARDS[max(0, step - 4) : step + 1]
        estimate = np.zeros(3)
        estimate[arm] = ((reward - seen.min()) / np.ptp(seen) if step else 0.5) / p[arm]
        weight = weight * np.exp(0.2 * estimate / 3) + math.e * 0.05 / 3 * weight.sum()
        policy.learn(ARMS[arm], reward)


def test_exp3s_forgets_and_exp3_does_not():
    """After thirty rewards the other way round, the arm that was best at first is no longer preferred."""
    policy = Exp3S(ARMS, alpha=0.05)
    for first in (1, 0):
        for _ in range(60):
            policy.learn("margin", float(first))
            policy.learn("density", float(1 - first))
        best = "margin" if first else "density"
        assert max(policy.q, key=policy.q.__getitem__) == best


def halving(policy, reward, steps=120):
    chosen = []
    for step in range(steps):
        chosen.append(policy.choose(step / steps, generator(step)))
        policy.learn(chosen[-1], reward(chosen[-1], step))
    return chosen


def test_halving_gives_each_round_a_third_of_the_training():
    """Six arms, 120 steps: 40 steps for six, 40 for the three best of them, 40 for the best (6, 3, 1)."""
    arms = list("abcdef")
    chosen = halving(Halving(arms), lambda arm, step: -arms.index(arm) + 0.1 * (step % 2))
    counts = [sorted(chosen[start : start + 40].count(arm) for arm in arms) for start in (0, 40, 80)]
    assert counts == [[6, 6, 7, 7, 7, 7], [0, 0, 0, 13, 13, 14], [0, 0, 0, 0, 0, 40]]
    assert set(chosen[40:80]) == {"a", "b", "c"} and set(chosen[80:]) == {"a"}


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [2, 1]), (3, [3, 1]), (4, [4, 2, 1]), (9, [9, 4, 2, 1])])
def test_halving_keeps_the_floor_of_half(count, sizes):
    arms = [f"arm{i}" for i in range(count)]
    policy, steps, left = Halving(arms), 360, []
    assert policy.rounds == len(sizes)
    for step in range(steps):
        policy.learn(policy.choose(step / steps, generator(step)), float(step))
        left.append(len(policy.left))
    assert [left[steps * i // len(sizes)] for i in range(len(sizes))] == sizes


def test_halving_counts_its_budget_from_the_first_choice():
    """First asked at 0.5 with budget 0.4: two rounds of a tenth each, then the best arm alone."""
    policy = Halving(["a", "b"], budget=0.4)
    for progress, left in ((0.5, 2), (0.59, 2), (0.6, 1), (0.99, 1)):
        policy.learn(policy.choose(progress, generator(int(100 * progress))), 1.0)
        assert len(policy.left) == left


def test_a_round_without_rewards_drops_no_arm():
    policy = Halving(list("abcdef"))
    assert {policy.choose(step / 60, generator(step)) for step in range(60)} == set("abcdef")


def test_relative_rewards_do_not_turn_into_a_round_trip():
    """The fault of AdaDS's zero start: all rewards negative, the best arm is left for each of the others."""
    rewards = np.random.default_rng(6).normal(-2.0, 0.1, size=(60, 6)) + np.array([1.0, 0, 0, 0, 0, 0])

    def taken(policy):
        chosen = []
        for step in range(60):
            chosen.append(policy.choose(0.0, generator(5, step)))
            policy.learn(chosen[-1], rewards[step, "abcdef".index(chosen[-1])])
        return chosen

    plain, relative = taken(Online(list("abcdef"))), taken(Online(list("abcdef"), relative=True))
    assert plain[-40:].count("a") < 25 < 30 <= relative[-40:].count("a")


def test_relative_rewards_are_less_the_running_mean():
    policy, q, mean = Online(ARMS, alpha=0.3, relative=True), dict.fromkeys(ARMS, 0.0), REWARDS[0]
    for step, reward in enumerate(REWARDS):
        arm = ARMS[step % 3]
        q[arm] = 0.3 * (reward - mean) + 0.7 * q[arm]
        mean = 0.3 * reward + 0.7 * mean
        policy.learn(arm, reward)
    assert policy.q == pytest.approx(q)


def test_the_default_of_online_saves_what_it_always_did():
    assert set(Online(ARMS).state_dict()) == {"q"}


@pytest.mark.parametrize("make", LEARNERS)
def test_no_policy_walks_through_the_arms_because_rewards_are_negative(make):
    """The best arm, a reward of -1 against -2: taken more often than by chance (10 of 60), and with noise too."""
    arms, rng = list("abcdef"), np.random.default_rng(2)
    policy, chosen = make(arms), []
    for step in range(240):
        chosen.append(policy.choose(step / 240, generator(3, step)))
        policy.learn(chosen[-1], (-1.0 if chosen[-1] == "a" else -2.0) + 0.1 * rng.normal())
    assert chosen[60:].count("a") > 1.3 * 180 / 6


@pytest.mark.parametrize("make", LEARNERS)
def test_state_goes_on_and_is_plain(make):
    first, second = make(ARMS), make(ARMS)
    for step, reward in enumerate(REWARDS):
        first.learn(first.choose(step / 90, generator(step)), reward)
    state = json.loads(json.dumps(first.state_dict()))
    assert state == first.state_dict()
    second.load_state_dict(state)
    for step in range(60, 90):
        arm = first.choose(step / 90, generator(step))
        assert second.choose(step / 90, generator(step)) == arm
        first.learn(arm, REWARDS[step - 30])
        second.learn(arm, REWARDS[step - 30])
    assert second.state_dict() == first.state_dict() != state
    assert isinstance(first, Policy) and isinstance(first, Learner)


@pytest.mark.parametrize("make", LEARNERS)
def test_bad_rewards_and_states_are_refused(make):
    policy, other = make(ARMS), make(["entropy", "cluster"])
    policy.learn("margin", 0.5)
    before = policy.state_dict()
    for reward in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            policy.learn("margin", reward)
    with pytest.raises(ValueError, match="did you mean margin"):
        policy.learn("marginn", 0.5)
    with pytest.raises(UserError, match=r"cluster.*density"):
        policy.load_state_dict(other.state_dict())
    assert policy.state_dict() == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscountedUCB(ARMS, gamma=1.0), r"gamma=1.0: a number in \(0, 1\)"),
        (lambda: DiscountedUCB(ARMS, xi=-1), "xi=-1: a number, at least 0"),
        (lambda: WindowUCB(ARMS, window=len(ARMS) - 1), f"fewer rewards than the {len(ARMS)} arms"),
        (lambda: WindowUCB(ARMS, window=0), "window=0: a whole number, at least 1"),
        (lambda: Thompson(ARMS, prior=0), "prior=0: a number above 0"),
        (lambda: Thompson(ARMS, gamma=1.5), r"gamma=1.5: a number in \(0, 1\]"),
        (lambda: Exp3S(ARMS, alpha=0), "alpha=0: a number above 0"),
        (lambda: Exp3S(ARMS, window=1), "window=1: a whole number, at least 2"),
        (lambda: Halving(ARMS, budget=0), r"budget=0: a number in \(0, 1\]"),
        (lambda: Halving([]), "one arm or more"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(UserError, match=message):
        make()
