"""Each policy against its equation, written again from the paper with other means."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from kdlab.errors import UserError
from kdlab.methods.selection.policies import UCB, Exp3, Fixed, Learner, Online, Policy, RandMix, Schedule
from kdlab.runtime.seeding import generator

ARMS = ["entropy", "margin", "density"]
REWARDS = np.random.default_rng(0).normal(size=60)


def draws(policy, steps=600, seed=0):
    return [policy.choose(step / steps, generator(seed, step)) for step in range(steps)]


def test_fixed():
    assert set(draws(Fixed(["margin"]), 5)) == {"margin"}
    assert set(draws(Fixed(ARMS, arm="density"), 5)) == {"density"}


@pytest.mark.parametrize(
    ("stages", "at", "expected"),
    [
        (["entropy", "margin"], None, "EEEEEMMMMM"),
        (["entropy", "margin"], [0.3], "EEEMMMMMMM"),
        (["entropy", "margin", "entropy", "density", "margin"], None, "EEMMEEDDMM"),
        (["entropy", "margin", "density"], [0.1, 0.85], "EMMMMMMMMD"),
        (["density"], None, "DDDDDDDDDD"),
    ],
)
def test_schedule(stages, at, expected):
    chosen = draws(Schedule(ARMS, stages, at), 10)
    assert "".join(arm[0].upper() for arm in chosen) == expected


@pytest.mark.parametrize(("steps", "stages"), [(7, 7), (60, 3), (99, 11), (1000, 8)])
def test_schedule_switches_at_the_very_step(steps, stages):
    names = [f"arm{number}" for number in range(stages)]
    chosen = draws(Schedule(names, names), steps)
    assert chosen == [names[step * stages // steps] for step in range(steps)]


def test_schedule_goes_on_after_the_end():
    assert Schedule(ARMS, ["entropy", "margin"]).choose(1.0, generator(0)) == "margin"


def test_randmix_is_uniform():
    chosen = draws(RandMix(ARMS), 1500)
    assert stats.chisquare([chosen.count(arm) for arm in ARMS]).pvalue > 0.01
    assert chosen == draws(RandMix(ARMS), 1500) != draws(RandMix(ARMS), 1500, seed=1)


def test_online_follows_equation_9():
    """Q after n rewards of one arm is alpha sum (1 - alpha)^(n - i) r_i: the recursion, unrolled."""
    policy = Online(ARMS, alpha=0.3, epsilon=0.2)
    taken = [ARMS[int(pick)] for pick in np.random.default_rng(1).integers(0, 2, size=60)]
    for arm, reward in zip(taken, REWARDS, strict=True):
        policy.learn(arm, reward)
    for arm in ARMS:
        own = [reward for name, reward in zip(taken, REWARDS, strict=True) if name == arm]
        unrolled = 0.3 * np.sum(np.array(own) * 0.7 ** np.arange(len(own))[::-1])
        assert policy.q[arm] == pytest.approx(unrolled, rel=1e-12)
    assert policy.q["density"] == 0


def test_online_is_epsilon_greedy():
    policy = Online(ARMS, epsilon=0.3)
    policy.learn("margin", 1.0)
    chosen = draws(policy, 3000)
    assert stats.chisquare([chosen.count(arm) for arm in ARMS], [300, 2400, 300]).pvalue > 0.01
    policy = Online(ARMS, epsilon=0.0)
    policy.learn("margin", -1.0)  # the other two are equal: drawn at random
    chosen = draws(policy, 1000)
    assert chosen.count("margin") == 0
    assert stats.binomtest(chosen.count("entropy"), 1000).pvalue > 0.01
    assert set(draws(Online(ARMS, epsilon=0.0), 60)) == set(ARMS)  # all zero at the start


def test_ucb_follows_ucb1():
    """Auer et al. 2002, Fig. 1, on rewards in [0, 1] that touch both ends."""
    policy, rewards = UCB(ARMS), np.random.default_rng(2).random(60)
    rewards[:2] = 0, 1
    own = {arm: [] for arm in ARMS}
    for step, reward in enumerate(rewards):
        chosen = policy.choose(0.0, generator(step))
        if step < 3:
            assert own[chosen] == []
        else:
            index = {a: np.mean(r) + math.sqrt(2 * math.log(step) / len(r)) for a, r in own.items()}
            assert chosen == max(index, key=index.__getitem__)
        own[chosen].append(reward)
        policy.learn(chosen, reward)
    assert policy.q == pytest.approx({arm: np.mean(r) for arm, r in own.items()})


def test_exp3_follows_its_figure():
    """Auer et al. 2002b, Fig. 1, after rewards mapped on [0, 1] by the range seen so far."""
    policy, weight = Exp3(ARMS, gamma=0.2), np.ones(3)
    for step, reward in enumerate(REWARDS):
        p = 0.8 * weight / weight.sum() + 0.2 / 3
        assert list(policy.q) == ARMS
        assert list(policy.q.values()) == pytest.approx(p)
        arm = ARMS.index(policy.choose(0.0, generator(step)))
        seen = REWARDS[: step + 1]
        x = (reward - seen.min()) / np.ptp(seen) if step else 0.5
        weight[arm] *= math.exp(0.2 * (x / p[arm]) / 3)
        policy.learn(ARMS[arm], reward)


def test_exp3_draws_its_probabilities_and_never_overflows():
    policy = Exp3(ARMS, gamma=0.1)
    policy.learn("density", 0.0)
    for _ in range(30000):
        policy.learn("margin", 1.0)
    assert policy.q["margin"] == pytest.approx(0.9 + 0.1 / 3)
    chosen = draws(policy, 3000)
    assert stats.chisquare([chosen.count(arm) for arm in ARMS], [100, 2800, 100]).pvalue > 0.01


@pytest.mark.parametrize("make", [Online, UCB, Exp3])
@pytest.mark.parametrize("scale", [1.0, 1e-4])  # the rewards of distillation are small
def test_a_bandit_beats_uniform(make, scale):
    """Two arms that pay scale with probability 0.7 and 0.3: 0.5 a step for uniform choice, standard error 0.011."""
    policy, total, rng = make(["good", "bad"]), 0.0, np.random.default_rng(3)
    for step in range(2000):
        arm = policy.choose(step / 2000, generator(7, step))
        reward = scale * float(rng.random() < (0.7 if arm == "good" else 0.3))
        policy.learn(arm, reward)
        total += reward
    assert total / 2000 / scale > 0.58
    assert policy.q["good"] > policy.q["bad"]


@pytest.mark.parametrize("make", [Online, UCB, Exp3])
def test_a_reward_that_is_not_finite_is_not_taken(make):
    policy = make(ARMS)
    policy.learn("margin", 0.5)
    before = policy.state_dict()
    for reward in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="finite"):
            policy.learn("margin", reward)
    with pytest.raises(ValueError, match="did you mean margin"):
        policy.learn("marginn", 0.5)
    assert policy.state_dict() == before


STATELESS = [Fixed(["margin"]), Schedule(ARMS, ARMS), RandMix(ARMS)]
LEARNERS = [lambda: Online(ARMS), lambda: UCB(ARMS), lambda: Exp3(ARMS)]


@pytest.mark.parametrize("make", LEARNERS)
def test_state_round_trip(make):
    first, second = make(), make()
    for step, reward in enumerate(REWARDS):
        first.learn(first.choose(0.0, generator(step)), reward)
    state = json.loads(json.dumps(first.state_dict()))
    assert state == first.state_dict()  # plain values only
    second.load_state_dict(state)
    assert second.q == first.q
    for step in range(200):  # continues as if never interrupted, and shares nothing with the first
        arm = first.choose(0.5, generator(1, step))
        assert second.choose(0.5, generator(1, step)) == arm
        first.learn(arm, REWARDS[step % 60])
        second.learn(arm, REWARDS[step % 60])
    assert second.state_dict() == first.state_dict() != state


@pytest.mark.parametrize("make", LEARNERS)
def test_state_of_other_arms_is_refused(make):
    other = type(make())(["entropy", "cluster"])
    with pytest.raises(UserError, match="cluster.*density"):
        make().load_state_dict(other.state_dict())


@pytest.mark.parametrize("policy", STATELESS)
def test_stateless_policies(policy):
    assert policy.state_dict() == {}
    policy.load_state_dict({})
    assert isinstance(policy, Policy)
    assert not isinstance(policy, Learner)
    with pytest.raises(UserError, match="another policy"):
        policy.load_state_dict(Online(ARMS).state_dict())


@pytest.mark.parametrize("make", LEARNERS)
def test_learners_are_told_from_the_rest(make):
    assert isinstance(make(), Policy)
    assert isinstance(make(), Learner)


def test_choice_leaves_global_random_state_alone():
    before = torch.get_rng_state()
    for policy in [*STATELESS, *(make() for make in LEARNERS)]:
        draws(policy, 3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandMix([]), "one arm or more"),
        (lambda: RandMix("entropy"), "list"),
        (lambda: Online(["a", "a"]), "differ"),
        (lambda: Fixed(ARMS), "arm="),
        (lambda: Fixed(ARMS, arm="entropi"), "did you mean entropy"),
        (lambda: Schedule(ARMS, ["entropy", "margn"]), "did you mean margin"),
        (lambda: Schedule(ARMS, []), "one stage or more"),
        (lambda: Schedule(ARMS, "entropy"), "list"),
        (lambda: Schedule(ARMS, ARMS, [0.5]), "2 switches"),
        (lambda: Schedule(ARMS, ARMS[:2], 0.5), r"at=0.5: a list, each a number in \(0, 1\)"),
        (lambda: Schedule(ARMS, ARMS, [0.5, 0.5]), "ascend"),
        (lambda: Schedule(ARMS, ARMS, [0.7, 0.5]), "ascend"),
        (lambda: Schedule(ARMS, ARMS[:2], [0.0]), r"\(0, 1\)"),
        (lambda: Schedule(ARMS, ARMS[:2], [1.0]), r"\(0, 1\)"),
        (lambda: Schedule(ARMS, ARMS[:2], [1.5]), r"\(0, 1\)"),
        (lambda: Schedule(ARMS, ARMS[:2], ["half"]), "number"),
        (lambda: Online(ARMS, alpha=0), r"\(0, 1\]"),
        (lambda: Online(ARMS, alpha=math.nan), r"\(0, 1\]"),
        (lambda: Online(ARMS, alpha="x"), "number"),
        (lambda: Online(ARMS, epsilon=-0.1), r"\[0, 1\]"),
        (lambda: Online(ARMS, epsilon=True), "number"),
        (lambda: UCB(ARMS, c=-1), "at least 0"),
        (lambda: UCB(ARMS, c=math.inf), "c=inf: a number, at least 0"),
        (lambda: Exp3(ARMS, gamma=0), r"\(0, 1\]"),
        (lambda: Exp3(ARMS, gamma=2), r"\(0, 1\]"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(UserError, match=message):
        make()
