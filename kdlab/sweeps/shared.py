"""Find and make what the jobs of a sweep share: tokenised rows, teachers and their answers, baselines, KSMs.

An artifact is shared if two jobs need it. What one depends on may be missing too, so its key is known once that is made: the jobs
are asked again until nothing that is shared is missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdlab.config.schema import Config
from kdlab.runs import folders
from kdlab.runs.forecast.missing import NotPrepared
from kdlab.runs.prepare import device_count, most_batches, quiet_libraries, threads_of
from kdlab.stages import cache_plan, ksm_training
from kdlab.stages.base import Stage
from kdlab.stages.finetuning import FinetuneStage
from kdlab.stages.inputs import Inputs
from kdlab.stages.preparation import Preparation
from kdlab.stages.registry import stage_of
from kdlab.storage.artifacts import ArtifactStore, key_of
from kdlab.sweeps.expansion import SweepJob

# Keys that nothing a run prepares depends on: of jobs that differ only in these, one is asked
WITHOUT = ("name", "figures", "logger", "confirm", "overwrite", "resume", "keep")
SELECTED = ("ratio", "pool", "scope")  # of select, where no KSM is trained


@dataclass
class SharedStore(ArtifactStore):
    """The store at `root`, which makes the artifacts `wanted` alone and raises `NotPrepared` for others that it lacks.

    `known`: folders of artifacts that were verified before, for all jobs."""

    wanted: set[str] = field(default_factory=set)
    known: dict[str, Path] = field(default_factory=dict)

    def get(self, kind: str, parts: Mapping[str, Any], build: Callable[[Path], None], what: str = "") -> Path:
        """The folder of an artifact, made if it is wanted; else NotPrepared."""
        name = self._name(kind, parts)
        if name in self.wanted and name not in self.known:
            self.known[name] = super().get(kind, parts, build, what)
        if (found := self.find(kind, parts)) is None:
            raise NotPrepared(kind, name, what)
        return found

    def find(self, kind: str, parts: Mapping[str, Any]) -> Path | None:
        """The folder of an artifact that is there; each is verified once."""
        name = self._name(kind, parts)
        if name not in self.known and (found := super().find(kind, parts)) is not None:
            self.known[name] = found
        return self.known.get(name)

    def _name(self, kind: str, parts: Mapping[str, Any]) -> str:
        return f"{kind}/{key_of(self.canonical(parts))}"


class Sharing:
    """The artifacts that `jobs` need first; `least`: jobs that need one for it to be shared."""

    def __init__(self, jobs: Sequence[SweepJob], notify: Callable[[str], None]) -> None:
        waiting = [job for job in jobs if folders.status(job.folder) != "finished" and job.config.suite is None]
        self.least = min(2, len(waiting))
        self.wanted: set[str] = set()
        groups: dict[str, list[Config]] = {}
        for job in waiting:
            groups.setdefault(_alike(job.config), []).append(job.config)
        known: dict[str, Path] = {}
        inputs: dict[str, Inputs] = {}
        self.stages: list[tuple[int, Stage]] = []
        for configs in groups.values():
            stage = stage_of(configs[0], notify)
            read = json.dumps([asdict(configs[0].data), asdict(configs[0].teachers)], sort_keys=True, default=str)
            stage.inputs.share(inputs.setdefault(read, stage.inputs))
            store = stage.inputs.store
            store = SharedStore(store.root, notify, store.canonical, wanted=self.wanted, known=known)
            stage.inputs.store, stage.inputs.prerequisites = store, Preparation(store, stage.inputs.about)
            self.stages.append((len(configs), stage))

    def missing(self) -> set[str]:
        """Artifacts that jobs share and that are not there ("kind/key"), as far as they are known yet; makes those that
        are in `wanted`. UserError as a run would raise it."""
        needed: Counter[str] = Counter()
        for jobs, stage in self.stages:
            lacks = set()
            for get in _needs(stage):
                try:
                    get()
                except NotPrepared as missing:
                    lacks.add(missing.key)
            needed.update(dict.fromkeys(lacks, jobs))
        return {name for name, jobs in needed.items() if jobs >= self.least and name not in self.wanted}


def make(jobs: Sequence[SweepJob], notify: Callable[[str], None]) -> None:
    """Make all that `jobs` share and that is missing (a single job: all that it needs). UserError as a run would raise it."""
    quiet_libraries()
    torch.set_num_threads(threads_of(None, 1))
    sharing = Sharing(jobs, notify)
    while missing := sharing.missing():
        sharing.wanted |= missing
    if not sharing.wanted:
        notify("kdlab: nothing is missing that these jobs share")


def _needs(stage: Stage) -> Iterator[Callable[[], Any]]:
    """Calls that get the parts of a run's preparation, in the order of `runs.prepare.prepare`."""
    config, inputs, trainer = stage.config, stage.inputs, stage.config.trainer
    rows = partial(inputs.data_module, most_batches(config), trainer.max_epochs)
    yield rows
    if inputs.queries_teacher:
        for member in stage.teacher_pool.members:
            yield partial(stage.teacher_pool.folder, member)
        if isinstance(stage, FinetuneStage) and not trainer.shard_teacher:
            yield lambda: stage.teacher_pool.scores
    if config.budget.given:
        return  # its steps, and with them the keys of the rest, follow from a measured step
    devices = trainer.devices if isinstance(trainer.devices, int) else device_count(trainer.accelerator, "auto")
    world = devices * trainer.num_nodes

    def rest(get: Callable[[int], Any]) -> Any:
        return get(rows().sampler(0, world).batches)

    yield lambda: rest(lambda batches: stage.baselines(batches, world))
    if config.weigh.episodes and config.weigh.path is None:

        def weighing(batches: int) -> Any:
            caches = cache_plan.plan(stage, rows(), batches, world)
            return ksm_training.weighing(stage, batches, world, partial(cache_plan.attach, stage, caches))

        yield lambda: rest(weighing)


def _alike(config: Config) -> str:
    part = {key: value for key, value in asdict(config).items() if key not in WITHOUT}
    if not config.weigh.episodes:
        part["select"] = {key: part["select"][key] for key in SELECTED}
    return json.dumps(part, sort_keys=True, default=str)
