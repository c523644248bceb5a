"""Observations of an adaptive policy: their share of the rows, the rewards they make, derived settings, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.models.flops import MethodCost
from kdlab.stages import components, observation
from kdlab.stages.observation import Observations

COST = MethodCost(1.0, 2.0, 2.0)  # a teacher twice as deep as the student


@pytest.fixture(scope="module")
def select() -> Any:
    """Six strategies, a reward from the sixth observation on, interval and rows derived."""
    return checked(composition(["+exp=adads_finetune", "scale=paper", "data.task=sst2"])[0]).select


def plan(select: Any, per_step: int, steps: int, **given: Any) -> Observations:
    settings = type(select)(**{**vars(select), **given})
    found = observation.planned(settings, components.selection(settings), per_step, steps)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("per_step", "steps", "interval", "rows", "rewards"),
    [
        (32, 10_520, 100, 256, 106 - 5),  # SST-2: 5 epochs
        (250, 100_000, 13, 256, 7693 - 5),
        (2000, 100_000, 2, 256, 50_000 - 5),
        (32, 570, 12, 32, 48 - 5),  # MRPC: with 64 rows every 25 steps there would be 18 rewards for 6 arms
        (32, 390, 6, 16, 65 - 5),  # RTE
    ],
)
def test_about_8_percent_of_the_rows_are_observed(select, per_step, steps, interval, rows, rewards):
    found = plan(select, per_step, steps)
    assert (found.interval, found.rows, found.rewards) == (interval, rows, rewards)
    assert found.share == rows / (interval * per_step) and 0.06 < found.share < 0.09


def test_a_setting_that_is_given_stays_and_the_other_follows(select):
    assert plan(select, 32, 10_000, interval=50).rows == 128  # 8 % of 50 x 32
    assert plan(select, 32, 10_000, evaluation_rows=64).interval == 25
    both = plan(select, 32, 10_000, interval=10, evaluation_rows=256)
    assert (both.interval, both.rows, both.share) == (10, 256, 0.8)


def test_rows_that_are_scored_are_observed_for_nothing(select):
    """Nothing is scored before the first step, so the first reward comes one observation later."""
    found = plan(select, 32, 10_520, observe="scored")
    assert (found.interval, found.rows, found.rewards, found.first) == (100, 256, 106 - 6, 600)
    assert found.share == 0 and found.recorded()["share"] == 0
    assert found.line("adads") == "select=adads: observes 256 rows every 100 steps of 32 rows, of those that are scored"
    assert found.eats_saving("adads", COST, 0.1, True) == ""
    late = plan(select, 32, 10_520, observe="scored", warmup=0.1)  # observed in the last steps of the warm-up
    assert late.first == 1052 + 500
    few = plan(select, 32, 100, observe="scored", look=0.25, interval=2, evaluation_rows=64)
    assert few.rows == 16  # of 2 steps of 32 rows a quarter is scored


def test_an_arm_that_scores_nothing_runs_the_rows_that_are_observed(select):
    random = {"_target_": "kdlab.methods.selection.strategies.random", "_partial_": True}
    found = plan(select, 32, 10_520, observe="scored", arms={**select.arms, "random": random}, evaluation_rows=256)
    assert found.share == 256 / (found.interval * 32) / 7  # as if each of seven arms were in force equally long
    assert "arms that score none run 1 % of the rows" in found.line("adads")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scoring": "stale"}, "select.observe=scored select.scoring=stale: scores are of rows that are due alone"),
        ({"scoring": "early_exit"}, "by some layers alone"),
        ({"reward": {"_target_": "kdlab.methods.selection.rewards.Probe"}}, "the reward Probe observes the copies"),
        (
            {"arms": {"a": {"_target_": "kdlab.methods.selection.strategies.random", "_partial_": True}}},
            "no strategy of",
        ),
    ],
)
def test_what_cannot_be_observed_so_is_refused_in_one_line(select, given, says):
    with pytest.raises(UserError, match=says) as raised:
        plan(select, 32, 100, **{"observe": "scored", **given})
    assert "\n" not in str(raised.value) and "select.observe=task" in str(raised.value)


def test_a_policy_without_rewards_observes_nothing(select):
    fixed = checked(composition(["+exp=adads_finetune", "select=entropy"])[0]).select
    assert observation.planned(fixed, components.selection(fixed), 32, 100) is None
    assert (
        observation.planned(type(select)(**{**vars(select), "ratio": 1.0}), components.selection(select), 32, 9) is None
    )


def test_fewer_rewards_than_strategies_are_random_choice(select):
    few = plan(
        select, 32, 100, interval=10, evaluation_rows=8
    )  # observations at 0, 10, ..., 90; the sixth makes a reward
    assert (few.rewards, few.first) == (5, 50)
    assert few.few_rewards("adads").startswith(
        "select=adads: 5 rewards for 6 strategies in 100 steps, the first at step 50, so the policy chooses at random"
    )
    assert plan(select, 32, 101, interval=10, evaluation_rows=8).few_rewards("adads") == ""
    none = plan(select, 32, 50, interval=10, evaluation_rows=8)
    assert (none.rewards, none.first) == (0, None) and "0 rewards for 6 strategies in 50 steps, so" in none.few_rewards(
        "a"
    )


def test_80_percent_of_the_rows_eat_the_saving_and_20_percent_do_not(select):
    """All data 5; scored selection of a tenth 1 + 0.1 x 5 = 1.5, with 80 % observed 2.3, with 20 % 1.7."""
    line = plan(select, 32, 10_000, interval=10, evaluation_rows=256).eats_saving("adads", COST, 0.1, True)
    assert "observes 256 rows every 10 steps of 32 rows, 80 % of the rows, which eats the saving" in line
    assert "about 2.2x fewer FLOPs than all data, without it 3.3x" in line
    assert plan(select, 64, 10_000, interval=5, evaluation_rows=64).eats_saving("adads", COST, 0.1, True) == ""
    # 0.3 of the rows scored: 0.3 + 0.1 x 5 = 0.8, and 80 % more is 1.6
    line = plan(select, 32, 10_000, interval=10, evaluation_rows=256).eats_saving("adads", COST, 0.1, True, 0.3)
    assert "about 3.1x fewer FLOPs than all data, without it 6.2x" in line
    # a random draw scores nothing: 0.5 alone, and 20 % more is 0.7
    assert "7.1x" in plan(select, 64, 10_000, interval=5, evaluation_rows=64).eats_saving("x", COST, 0.1, False)


def test_the_share_is_one_line():
    found = Observations(interval=1, rows=8, per_step=1600, steps=9, rewards=4, first=5, arms=2)
    assert found.line("adads") == "select=adads: observes 8 rows every step of 1,600 rows, 0.5 % of the rows"
