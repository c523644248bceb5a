"""The reward of a paired probe, by hand, and what `ArmSelector` does with probes and observations."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from kdlab.errors import UserError
from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.credit import Credit
from kdlab.methods.selection.policies import Online
from kdlab.methods.selection.rewards import FallPerCost, Probe, Trend
from kdlab.runtime.seeding import generator
from kdlab.types import Observation

FALLS = {"a": 0.3, "b": 0.1, "c": -0.1}


def test_rewards_are_advantages_over_the_mean():
    assert Probe().rewards(FALLS) == {"a": pytest.approx(0.2), "b": pytest.approx(0), "c": pytest.approx(-0.2)}
    assert Probe().rewards({**FALLS, "c": math.nan}) == {"a": pytest.approx(0.1), "b": pytest.approx(-0.1)}
    equal = Probe().rewards(dict.fromkeys(FALLS, 0.7))
    assert list(equal.values()) == pytest.approx([0, 0, 0])


def test_the_arm_in_force_is_probed_with_others():
    for step in range(20):
        chosen = Probe(2).chosen("abcd", "c", generator(0, step))
        assert len(chosen) == 2 and "c" in chosen
    assert len(Probe(2).chosen("abcd", None, generator(0))) == 2
    assert Probe().chosen("abcd", "c", generator(0)) == list("abcd")
    assert Probe(9).chosen("abcd", "c", generator(0)) == list("abcd")


@pytest.mark.parametrize("arms", [1, 0, "both", 2.5])
def test_a_probe_of_fewer_than_two_arms_is_refused(arms):
    with pytest.raises(UserError, match="compare="):
        Probe(arms)


def selector(reward: Any, written: list[Any], probes: list[Any], every: int | None = None) -> ArmSelector:
    def probe(step: int, arms: Any) -> dict[str, float]:
        probes.append((step, list(arms)))
        return {arm: FALLS[arm] for arm in arms}

    return ArmSelector(
        "policy", dict.fromkeys("abc"), Online(["a", "b", "c"], alpha=0.5, epsilon=0.0), 12, 0, reward, lambda: 1.0, 2,
        written.append, probe=probe, probe_every=every,
    )  # fmt: skip


def test_a_policy_learns_the_reward_of_every_arm_probed():
    written, probes = [], []
    now = selector(Probe(), written, probes)
    for step in range(3):
        now.decide(step)
    assert probes == [(0, ["a", "b", "c"]), (2, ["a", "b", "c"])]
    assert now.policy.q == {"a": pytest.approx(0.15), "b": pytest.approx(0), "c": pytest.approx(-0.15)}
    assert [row["arm"] for row in written] == ["a", "a"]
    assert (written[1]["speed"], written[1]["reward"]) == (pytest.approx(0.3), pytest.approx(0.2))


def test_a_measurement_serves_the_reward_of_the_same_step():
    probes: list[Any] = []
    now = selector(Probe(), [], probes, every=3)
    for step in range(7):
        now.decide(step)
    assert [step for step, _ in probes] == [0, 2, 3, 4, 6]


def test_measurements_change_no_decision():
    plain, probed = [], []
    for written, every in ((plain, None), (probed, 1)):
        now = selector(Trend(), written, [], every)
        for step in range(12):
            now.decide(step)
    assert plain == probed


class Told:
    """A reward that remembers its observations."""

    marks = Trend.marks  # pyright: ignore[reportAttributeAccessIssue]

    def __init__(self) -> None:
        self.told: list[Observation] = []

    def observe(self, value: Observation) -> tuple[None, float]:
        self.told.append(value)
        return None, float(len(self.told))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize("cut", [None, 2, 3])
def test_an_observation_says_what_happened_since_the_last(cut):
    """Learning rates 1/1, 1/2, 1/3, ... of its peak; cost of 10 FLOPs and 2 queries a step."""
    reward, step = Told(), 0
    reward.marks = FallPerCost.marks  # pyright: ignore[reportAttributeAccessIssue]

    def new() -> ArmSelector:
        return ArmSelector(
            "policy", {"a": None}, Online(["a"]), 6, 0, reward, lambda: 3.0 - step / 10, 2,  # pyright: ignore[reportArgumentType]
            credit=Credit(), learning_rate=lambda i: 1 / (i + 1), cost=lambda: (10.0 * step, 2 * step),
        )  # fmt: skip

    now = new()
    for step in range(6):
        if step == cut:
            saved, now = json.loads(json.dumps(now.state_dict())), new()
            now.load_state_dict(saved)
        now.decide(step)
    assert reward.told == [
        Observation(3.0, 0),
        Observation(2.8, 2, "a", {"a": 1.0}, 2, 1 + 1 / 2, 20.0, 4),
        Observation(2.6, 4, "a", {"a": 1.0}, 2, 1 / 3 + 1 / 4, 20.0, 4),
    ]


def test_a_checkpoint_without_credit_rewards_the_arm_in_force():
    """As written before rewards could be credited to other arms."""
    before = selector(Told(), [], [])
    before.decide(0)
    state = before.state_dict()
    del state["credit"], state["last"]
    after = selector(Told(), [], [])
    after.load_state_dict(state)
    after.decide(2)
    told = 2.0 - 1.0  # the first observation of the reward that is restored
    assert after.policy.q == {**dict.fromkeys("abc", 0.0), state["arm"]: 0.5 * told}
