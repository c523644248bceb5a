"""How many seeds more: by SciPy's noncentral t, within the scale of the metric, with a command that can be pasted."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from kdlab.reporting import more_seeds
from kdlab.reporting.comparison import Comparison, compare
from kdlab.reporting.comparison_text import power
from kdlab.reporting.seed_groups import read
from kdlab.runs import sweep_commands
from tests.support.made_runs import made_run


def compared(home: Path) -> Comparison:
    (found,) = compare(read([home])[0], notify=lambda line: None)
    return found


def pairs(home: Path, random: list[float], entropy: list[float], commands: bool = True, **given: Any) -> Comparison:
    for select, scores in (("random", random), ("entropy", entropy)):
        for seed, score in enumerate(scores, 1):
            line = ["python", "-m", "kdlab.run", "+exp=x", "data.path='my rows'", f"select={select}", f"seed={seed}"]
            made_run(
                home / f"{select}-s{seed}", score, seed, select, results={"command": line} if commands else {}, **given
            )
    return compared(home)


def power_of(std: float, difference: float, seeds: int, alpha: float = 0.05) -> float:
    """The chance that a two-sided paired t-test finds a true difference; SciPy is the oracle."""
    shift, limit = difference / std * math.sqrt(seeds), stats.t.ppf(1 - alpha / 2, seeds - 1)
    return float(stats.nct.sf(limit, seeds - 1, shift) + stats.nct.cdf(-limit, seeds - 1, shift))


@pytest.mark.parametrize(
    ("std", "difference", "tests"), [(0.02, 0.02, 1), (0.02, -0.03, 1), (0.02, 0.02, 4), (0.01, 0.05, 2)]
)
def test_the_needed_seeds_are_the_fewest_that_show_it_four_times_in_five(std, difference, tests):
    count = more_seeds.needed(std, difference, tests)
    assert count is not None
    assert power_of(std, difference, count, 0.05 / tests) >= 0.8
    assert count == 2 or power_of(std, difference, count - 1, 0.05 / tests) < 0.8


def test_nothing_beyond_the_limit_is_proposed():
    assert power_of(0.02, 0.005, more_seeds.MANY) < 0.8 and more_seeds.needed(0.02, 0.005) is None


def test_more_seeds_with_a_command_for_group_and_baseline(tmp_path):
    found = pairs(tmp_path, [0.60, 0.62, 0.64], [0.63, 0.64, 0.69])
    pair = found.tested[0]
    assert pair.std is not None and pair.p is not None and pair.p > 0.05
    count = more_seeds.needed(pair.std, pair.difference)
    said = power(found)
    assert count is not None and f"{count} seeds would show it 4 times in 5, {count - 3} more than now:  python" in said
    commands = said.split("than now:  ")[1].split("  and  ")
    seeds = ",".join(map(str, range(4, count + 1)))
    assert [shlex.split(one) for one in commands] == [
        ["python", "-m", "kdlab.run", "-m", "+exp=x", "data.path='my rows'", f"select={select}", f"seed={seeds}"]
        for select in ("entropy", "random")
    ]


def test_the_sweeps_own_command_goes_on_in_its_folder(tmp_path):
    sweep_commands.add(tmp_path, ["+exp=x", "select=random,entropy", "data.path='my rows'", "seed=range(1,4)"])
    sweep_commands.add(tmp_path, ["+exp=x", "select=random,entropy", "data.path='my rows'", "seed=range(1,4)"])
    found = pairs(tmp_path, [0.60, 0.62, 0.64], [0.63, 0.64, 0.69])
    command = shlex.split(power(found).split("than now:  ")[1])
    assert command[:7] == ["python", "-m", "kdlab.run", "-m", "+exp=x", "select=random,entropy", "data.path='my rows'"]
    assert command[7].startswith("seed=1,2,3,4") and len(command) == 8


def test_one_seed_each(tmp_path):
    said = power(pairs(tmp_path, [0.6], [0.7]))
    assert "no test" in said and "select=entropy seed=2,3  and  python" in said and "select=random seed=2,3" in said
    assert power(compared(made_run(tmp_path / "alone" / "1", 0.6).parent)) == ""


def test_more_than_the_scale_holds_is_said_plainly(tmp_path):
    found = pairs(tmp_path, [0.2, 0.9], [0.9, 0.2])  # differences of 0.7 and -0.7
    said = power(found)
    assert "2 seeds show no true difference that the scale has room for" in said and "at least" not in said
    assert (
        f"would be shown by {more_seeds.MANY} seeds" in said and "not worth their cost" in said and "python" not in said
    )


def test_the_room_of_a_scale(tmp_path):
    assert more_seeds.room(pairs(tmp_path / "a", [0.9, 0.9], [0.8, 0.7])) == pytest.approx(0.9)
    assert more_seeds.room(pairs(tmp_path / "b", [0.9, 0.9], [0.8, 0.7], metrics={"matthews": 0.5})) == pytest.approx(
        1.9
    )
    assert math.isinf(more_seeds.room(pairs(tmp_path / "c", [2.0, 2.1], [2.2, 2.0], stage="pretrain", task="w")))


def test_an_unreadable_list_of_commands_is_none(tmp_path):
    for text in ("{", "[]", json.dumps({"commands": [1]}), json.dumps({"commands": [[1]]})):
        (tmp_path / sweep_commands.NAME).write_text(text)
        assert sweep_commands.commands(tmp_path) == []
