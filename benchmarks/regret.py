"""Regret of policies x rewards in simulated trainings whose best arm is known (benchmarks.simulated_training).

    python -m benchmarks.regret [--seeds 20] [--first-seed 1] [--noise 0.003] [--worlds stationary,switching,declining,delayed,ratios]

Regret: the loss at the end less that of the best arms known, in hundredths of a nat, each of a training without jitter
after the same choices; mean and standard deviation over the seeds. "uniform" draws an arm each time, "one arm" is the
mean of trainings with a single arm. Policies have the
settings of `select=`; "adads" with LossDecay is AdaDS. "p": paired t test over the seeds of the mean over the worlds against the
first row, with Holm's correction for the number of rows. `--noise`: the error of an observation in all worlds but "noisy". In the world "ratios" arms are strategies x ratios, and the mean
ratio that was spent stands beside the regret; the best arms known spend 0.1.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import yaml
from scipy import stats

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


def regrets(
    world: World, policy: Make, reward: Make | None, credit: Make, seeds: Sequence[int]
) -> tuple[list[float], float]:
    """The regret of each seed, and the mean ratio."""
    found, spent = [], []
    for seed in seeds:
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


def against_best(of_seeds: Mapping[tuple[str, str], Sequence[float]]) -> dict[tuple[str, str], float]:
    """p of each row against the one of the lowest mean: paired t tests over the seeds, with Holm's correction."""
    best = min(of_seeds, key=lambda names: statistics.fmean(of_seeds[names]))
    found = {
        names: float(stats.ttest_rel(values, of_seeds[best]).pvalue)
        for names, values in of_seeds.items()
        if names != best
    }
    corrected, largest = {}, 0.0
    for place, names in enumerate(sorted(found, key=found.__getitem__)):
        largest = max(largest, min(1.0, (len(found) - place) * found[names]))
        corrected[names] = largest
    return corrected


def plain_table(plain: Sequence[World], seeds: Sequence[int]) -> str:
    """The table of the worlds in which arms differ in strategy alone."""
    cells: dict[tuple[str, str], list[list[float]]] = {}
    for world in plain:
        for names, parts in combinations(world).items():
            cells.setdefault(names, []).append(regrets(world, *parts, seeds)[0])
    of_seeds = {
        names: [statistics.fmean(values) for values in zip(*rows, strict=True)] for names, rows in cells.items()
    }
    p = against_best(of_seeds) if len(seeds) > 1 else {}
    rows = [
        [
            *names,
            *map(spread, cells[names]),
            f"{statistics.fmean(of_seeds[names]):.2f}",
            f"{p[names]:.2g}" if names in p else "",
        ]
        for names in sorted(of_seeds, key=lambda names: statistics.fmean(of_seeds[names]))
    ]
    one = [single(world) for world in plain]
    rows.append(["one arm", "", *(f"{value:.2f}" for value in one), f"{statistics.fmean(one):.2f}", ""])
    return table(["policy", "reward", *(world.name for world in plain), "mean", "p"], rows)


def ratio_table(world: World, seeds: Sequence[int]) -> str:
    """The table of a world whose arms are strategies x ratios."""
    found = {names: regrets(world, *parts, seeds) for names, parts in combinations(world).items()}
    order = sorted(found, key=lambda names: statistics.fmean(found[names][0]))
    p = against_best({names: values for names, (values, _) in found.items()}) if len(seeds) > 1 else {}
    rows = [
        [
            *names,
            spread(found[names][0]),
            f"{found[names][1]:.3f}",
            f"{p[names]:.2g}" if names in p else "",
        ]
        for names in order
    ]
    rows.append(["one arm of the mean ratio", "", f"{single(world):.2f}", f"{world.mean_ratio:.3f}", ""])
    return table(["policy", "reward", world.name, "mean ratio", "p"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--noise", type=float, default=World("", (), lambda progress, arm: 0.0).noise)
    parser.add_argument("--worlds", default=",".join(worlds()))
    arguments = parser.parse_args(argv)
    chosen = [worlds()[name] for name in arguments.worlds.split(",")]
    chosen = [world if world.name == "noisy" else replace(world, noise=arguments.noise) for world in chosen]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if plain := [world for world in chosen if world.ratios is None]:
        print(plain_table(plain, seeds))
    for world in (world for world in chosen if world.ratios is not None):
        print("\n" + ratio_table(world, seeds))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.2f}"


if __name__ == "__main__":
    main()
