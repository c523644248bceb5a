"""Regret of policies x rewards in simulated trainings whose best arm is known (benchmarks.simulated_training).

    python -m benchmarks.regret [--seeds 20] [--worlds stationary,switching,declining,delayed,ratios]

Regret: the loss at the end less that of the best arms known, in hundredths of a nat, each of a training without jitter
after the same choices; mean and standard deviation over the seeds. "uniform" draws an arm each time, "one arm" is the
mean of trainings with a single arm. Policies have the
settings of `select=`; "adads" with LossDecay is AdaDS. In the world "ratios" arms are strategies x ratios, and the mean
ratio that was spent stands beside the regret; the best arms known spend 0.1.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import yaml

from benchmarks.measuring import table
from benchmarks.simulated_training import World, play, worlds
from kdlab.config.composition import CONF
from kdlab.methods.selection import policies
from kdlab.methods.selection.credit import Credit
from kdlab.methods.selection.rewards import LossDecay, Trend

Make = Callable[..., Any]
NAMES = ("adads", "ucb", "discounted_ucb", "window_ucb", "thompson", "exp3", "exp3s", "halving", "linucb")


def of_choice(name: str) -> Make:
    """The policy of `select=NAME`, with the settings of its file."""
    given = yaml.safe_load((CONF / "select" / f"{name}.yaml").read_text(encoding="utf-8"))["policy"]
    return partial(getattr(policies, given.pop("_target_").rpartition(".")[2]), **given)


POLICIES: dict[str, Make] = {name: of_choice(name) for name in NAMES}
POLICIES["adads, relative"] = partial(POLICIES["adads"], relative=True)
REWARDS: dict[str, tuple[Make, Make]] = {
    "LossDecay": (LossDecay, Credit),
    "Trend": (Trend, Credit),
    "Trend, credit": (Trend, partial(Credit, decay=0.9)),
}
UNIFORM = "uniform"


def regret(world: World, chosen: Sequence[str]) -> float:
    """The loss at the end less that of the best arms, in hundredths of a nat."""
    return 100 * (world.loss(list(chosen))[-1] - world.loss(world.best())[-1])


def regrets(world: World, policy: Make, reward: Make | None, credit: Make, seeds: int) -> tuple[list[float], float]:
    """The regret of each seed, and the mean ratio."""
    found, spent = [], []
    for seed in range(1, seeds + 1):
        _, chosen = play(world, policy(list(world.arms)), reward and reward(), credit(), seed)
        found.append(regret(world, chosen))
        spent.append(statistics.fmean((world.ratios or {}).get(arm, world.mean_ratio) for arm in chosen))
    return found, statistics.fmean(spent)


def combinations(world: World) -> dict[tuple[str, str], tuple[Make, Make | None, Make]]:
    """Policy, reward and credit of each row of a world's table, by the names of policy and reward."""
    found: dict[tuple[str, str], tuple[Make, Make | None, Make]] = {(UNIFORM, ""): (policies.RandMix, None, Credit)}
    ways = POLICIES
    if world.ratios is not None:
        ways = {
            "thompson at the mean ratio": partial(at_mean_ratio, world),
            "ratios": partial(of_choice("ratios"), ratio=world.mean_ratio),
        }
    for policy, make in ways.items():
        for reward, (measure, credit) in REWARDS.items():
            found[policy, reward] = (make, measure, credit)
    return found


def at_mean_ratio(world: World, arms: Sequence[str]) -> policies.Policy:
    """Thompson sampling over the arms of the mean ratio alone."""
    ratios = world.ratios or {}
    return POLICIES["thompson"]([arm for arm in arms if ratios[arm] == world.mean_ratio])


def single(world: World) -> float:
    """The mean regret of trainings with one arm, of those of the mean ratio."""
    same = [a for a in world.arms if world.ratios is None or world.ratios[a] == world.mean_ratio]
    return statistics.fmean(regret(world, [arm] * (world.steps // world.interval)) for arm in same)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--worlds", default=",".join(worlds()))
    arguments = parser.parse_args(argv)
    chosen = [worlds()[name] for name in arguments.worlds.split(",")]
    plain = [world for world in chosen if world.ratios is None]
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for world in plain:
        for names, parts in combinations(world).items():
            cells.setdefault(names, {})[world.name] = regrets(world, *parts, arguments.seeds)[0]
    mean = {names: statistics.fmean(statistics.fmean(row) for row in found.values()) for names, found in cells.items()}
    rows = [
        [*names, *(spread(cells[names][world.name]) for world in plain), f"{mean[names]:.2f}"]
        for names in sorted(mean, key=mean.__getitem__)
    ]
    if plain:
        one = [single(world) for world in plain]
        rows.append(["one arm", "", *(f"{value:.2f}" for value in one), f"{statistics.fmean(one):.2f}"])
        print(table(["policy", "reward", *(world.name for world in plain), "mean"], rows))
    for world in (world for world in chosen if world.ratios is not None):
        found = {names: regrets(world, *parts, arguments.seeds) for names, parts in combinations(world).items()}
        order = sorted(found, key=lambda names: statistics.fmean(found[names][0]))
        rows = [[*names, spread(found[names][0]), f"{found[names][1]:.3f}"] for names in order]
        rows.append(["one arm of the mean ratio", "", f"{single(world):.2f}", f"{world.mean_ratio:.3f}"])
        print("\n" + table(["policy", "reward", world.name, "mean ratio"], rows))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.2f}"


if __name__ == "__main__":
    main()
