"""Forecast a sweep or a suite: each job, the total, and how long the jobs take on each launcher."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from kdlab.config.schema import Config
from kdlab.runs import folders
from kdlab.runs.closing.cost_lines import duration, si
from kdlab.runs.forecast.forecast import Forecast, forecast
from kdlab.runs.prepare import device_count
from kdlab.stages.registry import stage_of
from kdlab.storage.files import readable_size

# Keys that change no cost: of jobs that differ only in these, one is timed
COSTLESS = ("name", "seed", "optim", "figures", "logger", "confirm", "overwrite", "resume")


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep or a suite: its name in the plan, its folder and its configuration."""

    name: str
    folder: Path
    config: Config


def print_plan(jobs: Sequence[PlannedJob], at_once: int | None) -> None:
    """Print the forecast of every job that is not finished, their total, and their time on each launcher.

    `at_once`: the jobs at a time of the sweep's own launcher (None: as many as a cluster takes). Writes nothing.
    """
    waiting = [job for job in jobs if folders.status(job.folder) != "finished"]
    known: dict[str, Forecast] = {}
    found = []
    for job in waiting:
        if (alike := _alike(job.config)) not in known:
            trainer = job.config.trainer
            world = device_count(trainer.accelerator, trainer.devices) * trainer.num_nodes
            known[alike] = forecast(stage_of(job.config, lambda line: None), world)
        found.append(_once(_of_seed(known[alike], job.config), found))
        run = found[-1].run
        print(
            f"{job.name}: {run.steps:,} steps, {run.queries:,.0f} queries, {si(run.flops)}FLOPs, {duration(run.seconds)}",
            flush=True,
        )
    print("\n".join(_total(found, len(jobs) - len(waiting), at_once)), flush=True)


def _alike(config: Config) -> str:
    return json.dumps({k: v for k, v in asdict(config).items() if k not in COSTLESS}, sort_keys=True, default=str)


def _of_seed(one: Forecast, config: Config) -> Forecast:
    """`one`, which another seed or optimizer may have been timed for, with keys of this job for the parts that have its own."""
    own = json.dumps([config.seed, asdict(config.optim)], sort_keys=True, default=str)
    stages = [
        replace(stage, key=f"{stage.key} {own}") if stage.seeded and stage.key else stage for stage in one.preparation
    ]
    return replace(one, preparation=stages)


def _once(one: Forecast, before: Sequence[Forecast]) -> Forecast:
    """`one` without the preparation that a job before it pays already."""
    paid = {stage.key for other in before for stage in other.preparation if stage.key}
    stages = [stage if stage.key not in paid else replace(stage, found=True, queries=0, flops=0, seconds=0, bytes=0)
              for stage in one.preparation]  # fmt: skip
    return replace(one, preparation=stages)


def _total(found: Sequence[Forecast], finished: int, at_once: int | None) -> list[str]:
    """The lines below the jobs."""
    stages = [stage for one in found for stage in one.preparation if not stage.found]
    queries = sum(one.run.queries for one in found) + sum(stage.queries for stage in stages)
    flops = sum(one.run.flops for one in found) + sum(stage.flops for stage in stages)
    prices = [one.run.price for one in found if one.run.price is not None]
    disk = sum(one.disk for one in found) + sum(stage.bytes for stage in stages)
    price = [f"price {sum(prices):,.4g}"] if prices else []
    whole = [f"{queries:,.0f} queries", f"{si(flops)}FLOPs", duration(sum(one.whole for one in found)), *price, f"{readable_size(disk)} on disk"]  # fmt: skip
    done = f", {finished} finished" if finished else ""
    preparation = [f"  {stage.what}, made once: {si(stage.flops)}FLOPs, {duration(stage.seconds)}" for stage in stages]
    return [
        f"total of {len(found)} job{'s' * (len(found) != 1)}{done}: {', '.join(whole)}",
        *preparation,
        *_launchers(*_before_and_after(found), at_once),
        "--plan: nothing was trained or written",
    ]


def _before_and_after(found: Sequence[Forecast]) -> tuple[float, list[float]]:
    """Seconds of the preparation that jobs share, which is made before the first begins, and of each job after it."""
    needed = Counter(stage.key for one in found for stage in one.preparation if stage.key)
    shared = [sum(stage.seconds for stage in one.preparation if needed[stage.key] > 1) for one in found]
    return sum(shared), [one.whole - seconds for one, seconds in zip(found, shared, strict=True)]


def _launchers(before: float, seconds: Sequence[float], at_once: int | None) -> list[str]:
    """Lines with the time that jobs of these seconds take on each launcher, `before` seconds after the start; several jobs at once on one machine share its cores, which is
    not counted."""
    own, several = "all" if at_once is None else str(at_once), max(2, torch.cuda.device_count())
    ways = {
        f"the chosen launcher ({own} at once)": at_once,
        "hydra/launcher=basic (1 at once)": 1,
        f"hydra/launcher=parallel hydra.launcher.n_jobs={several} (with a GPU, or cores of its own, for each)": several,
        "hydra/launcher=submitit_slurm or ray (all at once, without waiting in a queue)": None,
    }
    return [f"  {name}: {duration(before + makespan(seconds, count))}" for name, count in ways.items()]


def makespan(seconds: Sequence[float], at_once: int | None) -> float:
    """Seconds until the last of these jobs ends if they start in order, `at_once` at a time (None: all)."""
    if not seconds:
        return 0.0
    ends = [0.0] * min(len(seconds), at_once or len(seconds))
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)
