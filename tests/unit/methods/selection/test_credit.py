"""The delay between an arm and its effect: shares against a simulation of momentum, and the estimates they lead to."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdlab.methods.selection.credit import Credit


def begun(decay, delay, arms, interval=1):
    credit = Credit(decay, delay)
    for number, arm in enumerate(arms):
        credit.begin(number * interval, arm)
    return credit


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_shares_are_those_of_simulated_momentum(decay):
    """Each step's gradient belongs to its arm; the first moment is their mean, and an update moves by the moment."""
    arms = [arm for arm in "abbcab" for _ in range(4)]  # by step
    credit = begun(decay, 0, "abbcab", interval=4)
    moment, moved = dict.fromkeys("abc", 0.0), []
    for arm in arms:
        for name in moment:
            moment[name] = decay * moment[name] + (1 - decay) * (name == arm)
        moved.append(dict(moment))
    first, last = 16, 24
    sums = {name: sum(one[name] for one in moved[first:last]) for name in moment}
    whole = sum(sums.values())
    found = credit.shares(first, last)
    assert {name: found.get(name, 0.0) for name in "abc"} == {name: pytest.approx(sums[name] / whole) for name in "abc"}


def test_without_delay_the_arm_in_force_has_it_all():
    credit, found = Credit(), []
    for step, arm in zip(range(0, 40, 10), "abba", strict=True):
        found.append(credit.observe(step))
        credit.begin(step, arm)
    assert found == [{}, {"a": 1.0}, {"b": 1.0}, {"b": 1.0}]
    assert credit.own_part("b", {"b": 1.0}, 0.1) == 0.1


def test_a_delay_credits_an_earlier_arm():
    credit, found = Credit(0.0, 1), []
    for step, arm in zip(range(0, 50, 10), "abcde", strict=True):
        shares = credit.observe(step)
        found.append(credit.arm(shares))
        credit.begin(step, arm)
    assert found == [None, None, "a", "b", "c"]


def test_own_parts_reach_what_each_arm_does():
    """Rewards are mixtures of what the arms do: the part of each converges to its own, though arms follow one another."""
    truth = {"a": 1.0, "b": -0.5, "c": 0.2}
    credit, rng = Credit(0.9), np.random.default_rng(0)
    parts: list[tuple[str, float]] = []
    for number in range(600):
        shares = credit.observe(5 * number)
        arm = credit.arm(shares)
        if arm is not None:
            parts.append((arm, credit.own_part(arm, shares, sum(s * truth[name] for name, s in shares.items()))))
        credit.begin(5 * number, str(rng.choice(list(truth))))
    assert all(part == pytest.approx(truth[arm], abs=0.01) for arm, part in parts[-50:])


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_state_round_trip(cut):
    def run(credit, begin, end, parts):
        rng = np.random.default_rng(1)
        arms = [str(arm) for arm in rng.choice(["a", "b"], size=30)]
        for number in range(begin, end):
            shares = credit.observe(3 * number)
            arm = credit.arm(shares)
            if arm is not None:
                parts.append(credit.own_part(arm, shares, float(np.sin(number))))
            credit.begin(3 * number, arms[number])

    whole, parts, resumed = [], [], Credit(0.8, 1)
    run(Credit(0.8, 1), 0, 30, whole)
    first = Credit(0.8, 1)
    run(first, 0, cut, parts)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(resumed, cut, 30, parts)
    assert parts == whole


def test_old_segments_are_forgotten():
    credit = Credit(0.5)
    for number in range(300):
        credit.observe(number)
        credit.begin(number, "ab"[number % 2])
    assert len(credit.segments) < 30
