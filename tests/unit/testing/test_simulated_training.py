"""benchmarks.simulated_training and benchmarks.regret: the best arms known are the best, and regrets are what they say."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import stats

from benchmarks import regret
from benchmarks.simulated_training import FLOOR, START, World, play, worlds
from kdlab.config.composition import CONF
from kdlab.methods.selection.credit import Credit
from kdlab.methods.selection.policies import Fixed, Online, Ratios
from kdlab.methods.selection.rewards import LossDecay, Trend


def small(name: str, steps: int = 40) -> World:
    return replace(worlds()[name], steps=steps)


def test_the_loss_is_that_of_the_momentum_written_out():
    """Excess exp(-sum of v), v_t = sum over s <= t of 0.1 0.9^(t-s) rate(s) (1 - s / T)."""
    world = small("switching")
    arms = ["a", "d", "b", "f"]
    rates = np.array([world.rates(s / 40, arms[s // 10]) * (1 - s / 40) for s in range(40)])
    speeds = [sum(0.1 * 0.9 ** (t - s) * rates[s] for s in range(t + 1)) for t in range(40)]
    found = world.loss(arms)
    assert found[0] == START
    for interval in range(1, 5):
        excess = (START - FLOOR) * math.exp(-sum(speeds[: 10 * interval]))
        assert found[interval] == pytest.approx(FLOOR + excess)


@pytest.mark.parametrize("name", ["stationary", "noisy", "switching", "declining", "delayed"])
def test_no_choice_beats_the_best_arms(name):
    world = small(name)
    least = min(world.loss(list(arms))[-1] for arms in itertools.product("abcf", repeat=4))
    assert world.loss(world.best())[-1] <= least + 1e-12


def test_of_choices_with_the_mean_ratio_none_beats_the_best():
    world = small("ratios")
    assert world.ratios is not None
    allowed = np.mean([world.ratios[arm] for arm in world.best()])
    within = [
        arms
        for arms in itertools.product([arm for arm in world.arms if arm.startswith("a")], repeat=4)
        if np.mean([world.ratios[arm] for arm in arms]) <= allowed + 1e-9
    ]
    assert len(within) > 5 and allowed <= 0.1
    # a gradient acts on later steps: a plan for each step alone is best up to that
    assert world.loss(world.best())[-1] <= min(world.loss(list(arms))[-1] for arms in within) + 2e-3


def test_the_best_arm_is_the_fastest_and_switches_where_rates_do():
    assert set(worlds()["stationary"].best()) == {"a"}
    assert worlds()["switching"].best() == ["a"] * 20 + ["e"] * 20 + ["c"] * 20


def test_regret_of_the_best_is_none_and_of_the_worst_the_largest():
    world = worlds()["stationary"]
    assert regret.regret(world, world.best()) == 0
    each = [regret.regret(world, [arm] * 60) for arm in world.arms]
    assert each == sorted(each) and each[0] == 0


def test_a_run_is_observed_and_chosen_as_in_training():
    """The selector learns from the observations alone: the same seed, the same choices; a fixed policy needs none."""
    world = small("noisy", 200)
    first, second = (play(world, Online(list(world.arms)), Trend(), Credit(0.9), 3) for _ in range(2))
    assert first[1] == second[1] and first[0].losses == second[0].losses and len(first[1]) == 20
    assert set(play(world, Fixed(["a"]), None, None, 1)[1]) == {"a"}
    assert first[1] != play(world, Online(list(world.arms)), LossDecay(), None, 4)[1]


def test_the_policies_are_those_of_select_with_their_settings():
    for name in regret.NAMES:
        made, target = regret.of_choice(name), yaml.safe_load((CONF / "select" / f"{name}.yaml").read_text())["policy"]
        assert made.func.__name__ == target.pop("_target_").rpartition(".")[2] and made.keywords == target
        assert made(["a", "b"]).arms == ("a", "b")


def test_the_mean_ratio_of_the_policy_over_ratios_is_kept():
    world = small("ratios", 300)
    found, mean = regret.regrets(world, lambda arms: Ratios(arms, ratio=0.1), Trend, Credit, range(1, 3))
    assert len(found) == 2 and abs(mean - 0.1) < 0.25 / 30


def test_tables(monkeypatch, capsys):
    monkeypatch.setattr(regret, "POLICIES", {"adads": Online})
    monkeypatch.setattr(regret, "worlds", lambda: {"stationary": small("stationary"), "ratios": small("ratios")})
    monkeypatch.setattr(regret, "at_mean_ratio", lambda world, arms: Online(arms))
    regret.main(["--seeds", "2", "--worlds", "stationary,ratios"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| policy | reward | stationary | mean | p |"
    assert any(line.startswith("| adads | LossDecay |") for line in lines) and any(
        "| uniform |" in line for line in lines
    )
    assert sum(line.startswith("| ratios |") for line in lines) == 3


def test_p_is_that_of_paired_tests_with_holms_correction():
    values = np.random.default_rng(4).normal(size=(4, 12)) + np.array([[0.0], [0.1], [1.0], [2.0]])
    names = [("a", ""), ("b", ""), ("c", ""), ("d", "")]
    found = regret.against_best(dict(zip(names, values.tolist(), strict=True)))
    best = int(values.mean(1).argmin())
    others = [i for i in range(4) if i != best]
    raw = []
    for i in others:  # the t of the differences by hand
        differences = values[i] - values[best]
        t = differences.mean() / (differences.std(ddof=1) / math.sqrt(12))
        raw.append(2 * stats.t.sf(abs(t), 11))
    corrected = holm(raw)
    assert [found[names[i]] for i in others] == pytest.approx(corrected) and names[best] not in found


def holm(raw: list[float]) -> list[float]:
    """Holm 1979: p(i) times the number of hypotheses not yet rejected, and not below those before."""
    order = np.argsort(raw)
    steps = np.minimum(1, np.maximum.accumulate(np.array(raw)[order] * np.arange(len(raw), 0, -1)))
    return [float(steps[list(order).index(i)]) for i in range(len(raw))]


def test_other_seeds_and_another_noise(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        regret, "plain_table", lambda plain, seeds: seen.append(([w.noise for w in plain], list(seeds))) or ""
    )
    regret.main(["--seeds", "2", "--first-seed", "1000", "--noise", "0.02", "--worlds", "stationary,noisy"])
    assert seen == [([0.02, 0.01], [1000, 1001])] and capsys.readouterr().out == "\n"
