"""The policy over strategies and ratios: its budget, its price, its choice."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.errors import UserError
from kdlab.methods.selection.policies import Ratios
from kdlab.methods.selection.policies.ratios import ratio_of
from kdlab.runtime.seeding import generator

ARMS = [f"{name}@{ratio:g}" for name in ("entropy", "random") for ratio in (0.05, 0.1, 0.3)]


def play(policy, rewards, first=0, of=None):
    chosen, of = [], of or len(rewards)
    for step, reward in enumerate(rewards, first):
        chosen.append(policy.choose(step / of, generator(2, step)))
        policy.learn(chosen[-1], reward(chosen[-1], step) if callable(reward) else reward)
    return chosen


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=40),
    st.floats(0.05, 0.3),
    st.floats(0, 5),
)
def test_the_mean_ratio_is_the_one_asked_for_whatever_the_rewards(rewards, ratio, rate):
    """Up to one choice: the last one is in force for 1 / n of the training, and ratios are 0.25 apart at most."""
    chosen = play(Ratios(ARMS, ratio=ratio, rate=rate), rewards)
    spent = np.mean([ratio_of(arm) for arm in chosen])
    assert abs(spent - ratio) <= 0.25 / len(rewards) + 1e-9


def test_it_spends_where_a_query_teaches_most():
    """Concave: all of 0.1 is worth more than 0.05 and 0.3 in turn; convex: the other way round. And the better strategy."""
    found = {}
    for name, worth in (("concave", lambda c: min(c, 0.1)), ("convex", lambda c: 4 * c**2)):
        rng = np.random.default_rng(0)

        def reward(arm, step, worth=worth, rng=rng):
            return worth(ratio_of(arm)) - 0.03 * arm.startswith("random") + 0.01 * rng.normal()

        found[name] = play(Ratios(ARMS, ratio=0.1), [reward] * 150)[50:]
    middle = {name: np.mean([ratio_of(arm) == 0.1 for arm in chosen]) for name, chosen in found.items()}
    assert middle["concave"] > 2 * middle["convex"]
    assert all(np.mean([arm.startswith("entropy") for arm in chosen]) > 0.6 for chosen in found.values())


def test_the_price_follows_the_dual_step():
    policy, price, before = Ratios(ARMS, ratio=0.1, rate=0.2), 0.0, None
    for step in range(30):
        arm = policy.choose(step / 30, generator(step))
        price += 0.0 if before is None else 0.2 * (ratio_of(before) / 0.1 - 1)
        assert policy.price == pytest.approx(price)
        policy.learn(arm, float(np.sin(step)))
        before = arm


def test_the_choice_is_the_largest_draw_less_the_price_among_arms_within_reach():
    policy = Ratios(ARMS, ratio=0.1)
    for step in range(40):
        means = policy.drawn(generator(2, step))
        before = json.loads(json.dumps(policy.state_dict()))
        arm = policy.choose(step / 40, generator(2, step))
        spent = before["spent"] + (ratio_of(before["last"][0]) / 40 if before["last"] else 0.0)
        reach = [
            a for a in ARMS
            if spent + ratio_of(a) / 40 + 0.05 * (39 - step) / 40 <= 0.1 + 1e-9
            and spent + ratio_of(a) / 40 + 0.3 * (39 - step) / 40 >= 0.1 - 1e-9
        ]  # fmt: skip
        if step and means and reach:
            value = {a: means[0][a] / means[1] - policy.price * ratio_of(a) / 0.1 for a in reach}
            assert arm == max(value, key=value.__getitem__)
        policy.learn(arm, float(np.cos(step)))


def test_the_first_choice_is_of_the_nearest_ratio():
    assert {ratio_of(Ratios(ARMS, ratio=0.12).choose(0.0, generator(seed))) for seed in range(20)} == {0.1}


def test_state_goes_on():
    rewards = list(np.random.default_rng(1).normal(size=60))
    whole, first, second = (Ratios(ARMS, ratio=0.1) for _ in range(3))
    expected = play(whole, rewards)
    play(first, rewards[:25], of=60)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert play(second, rewards[25:], first=25, of=60) == expected[25:]
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("arms", "ratio", "message"),
    [
        (["entropy", "random"], 0.1, "the arm entropy has no ratio"),
        (["entropy@x", "random@0.1"], 0.1, "the arm entropy@x has no ratio"),
        (["entropy@0", "random@0.1"], 0.1, "the arm entropy@0 has no ratio"),
        (ARMS, 0.4, "the mean ratio is 0.4, and the ratios to choose among are 0.05 to 0.3"),
        (ARMS, 0.0, r"ratio=0.0: a number in \(0, 1\]"),
    ],
)
def test_wrong_settings(arms, ratio, message):
    with pytest.raises(UserError, match=message):
        Ratios(arms, ratio=ratio)
