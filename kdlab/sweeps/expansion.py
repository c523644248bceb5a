"""Expand the command line of a sweep into jobs, as Hydra's sweeper does; compose and check each.

The name of a sweep's folder is a hash of the overrides that its jobs share, without selection and seed; that of a job's folder
has these and the other overrides (`job_names`). Neither has a time, so the same command finds its finished jobs again,
and one with another strategy, ratio or seed adds to them. Folders of an older kdlab are found by the names that it gave them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf.errors import OmegaConfBaseException

from kdlab.config import choices, spellings
from kdlab.config.composition import CONF, composition, error_line
from kdlab.config.schema import Config
from kdlab.errors import UserError, nearest
from kdlab.plugins import own_modules
from kdlab.runs.folders import IRRELEVANT_KEYS
from kdlab.sweeps import job_names
from kdlab.sweeps.composition_cache import Compositions
from kdlab.sweeps.job_folders import SweepHome, SweepHomes

PREPARE = "--prepare"  # the flag of `kdlab run`
KEEP = "keep"  # in no folder's name: a finished sweep may be repeated with another one
SWEEP = "sweep"  # +sweep=NAME names a file of grids
_PARSER = OverridesParser.create()
LONGEST = 240  # bytes of a folder's name; file systems allow 255, and a log's name is longer


@dataclass(frozen=True)
class SweepJob:
    """One run of a sweep. `differs`: its overrides that other jobs do not share, as text; `overrides`: all overrides of its
    command; `resolved`: its configuration in plain containers."""

    number: int
    differs: str
    folder: Path
    overrides: tuple[str, ...]
    config: Config
    resolved: dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line of the run: its overrides, and the options that name the user's own code."""
        return (*own_modules.options_elsewhere(), *self.overrides)

    @property
    def log(self) -> Path:
        """The output of the run over all attempts: a file beside its folder, in which only the run writes."""
        return self.folder.with_name(f"{self.folder.name}.log")


class Expansion:
    """The parsed command line of a sweep: `overrides` of the user and `own` ones, such as the folders of --config-dir."""

    def __init__(self, overrides: Sequence[str], own: Sequence[str], folders: Sequence[Path] = ()) -> None:
        self.own, self.folders = list(own), list(folders)
        self._compositions = Compositions(folders)
        self.parsed = parsed(overrides)
        for one in self.parsed:
            if one.is_sweep_override() and one.is_hydra_override():
                raise UserError(f"{one.input_line}: what is Hydra's holds for the whole sweep and cannot be swept over")
        names = [str(one.value()) for one in self.parsed if one.key_or_group == SWEEP]
        self.name = names[-1] if names else None
        self.hydra = [str(one.input_line) for one in self.parsed if one.is_hydra_override()]
        task = [str(o.input_line) for o in self.parsed if not o.is_hydra_override() and o.key_or_group != SWEEP]
        self.grids = [task]
        if self.name is not None:
            from kdlab.sweeps import files

            self.grids = files.grids(self.name, task, folders)
        self.shared = [one for one in self.parsed if not one.is_sweep_override()]
        self._apart = _apart(self.shared, self.grids)
        self.searched = False  # by Optuna, whose study is of one selection and seed
        self._homes: dict[Path, SweepHomes] = {}  # by the folder that holds them

    @property
    def command(self) -> list[str]:
        """All overrides of the command."""
        return [*(str(one.input_line) for one in self.parsed), *self.own]

    @property
    def preparation(self) -> list[str]:
        """The arguments of `kdlab run` that make what the jobs share, valid in this folder."""
        folders = [word for folder in self.folders for word in ("--config-dir", str(folder))]
        lines = [str(one.input_line) for one in self.parsed]
        return ["--multirun", PREPARE, *own_modules.options_elsewhere(), *folders, *lines]

    @property
    def digest(self) -> str:
        """A hash of the overrides that all jobs share, 8 hex digits, without those of Hydra (launcher, sweeper), selection,
        ratio and seed."""
        return self._hash(() if self.searched else job_names.ALWAYS)

    def _hash(self, without: Sequence[str] = (), more: Sequence[str] = ()) -> str:
        """The hash of the shared overrides but those of the keys `without`, and of `more`.

        Hashed in former spellings, so that the same command finds the folder of a sweep that was begun with them."""
        kept = [one for one in self.shared if not one.is_hydra_override() and one.key_or_group not in (*without, KEEP)]
        lines = sorted(map(spellings.former_override, [*(str(one.input_line) for one in kept), *more]))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]

    def title(self, job: SweepJob) -> str:
        """The sweep's name for users and loggers: that of its file or experiment, and the digest of its folder."""
        homes = self._homes.get(job.folder.parent.parent)
        return f"{self.name or job.config.name}-{homes.own.digest if homes else self.digest}"

    def _homes_in(self, parent: Path) -> SweepHomes:
        """The folders that the sweep may have below `parent`."""
        if parent not in self._homes:
            former = dict.fromkeys([(None, self._hash()), *self._of_one_seed()])
            folders = [SweepHome(parent / f"sweep-{digest}", digest, seed) for seed, digest in former]
            new = SweepHome(parent / f"sweep-{self.digest}", self.digest)
            self._homes[parent] = SweepHomes(new, tuple(home for home in folders if home.digest != self.digest))
        return self._homes[parent]

    def _of_one_seed(self) -> list[tuple[str | None, str]]:
        """The seeds of a sweep over seeds, each with the hash of the same command with that one alone."""
        swept = [one for one in self.parsed if one.key_or_group == "seed" and one.is_discrete_sweep()]
        seeds = [str(seed) for one in swept[-1:] for seed in one.sweep_string_iterator()]
        return [] if self.searched else [(seed, self._hash(more=[f"seed={seed}"])) for seed in seeds]

    def settings(self, *keys: str) -> Any:
        """Hydra's own settings of the sweep, such as `launcher` and `sweeper`. UserError for unknown keys in them."""
        lines = [str(one.input_line) for one in parsed(self.grids[0]) if not one.is_sweep_override()]
        try:
            return composition([*lines, *self.hydra, *self.own], keys)[1]
        except ConfigCompositionException as error:
            unknown = re.search(r"Could not override '(hydra\.(\w+))\.(\w+)'", str(error))
            if unknown is None or unknown[2] not in keys:
                raise
            without = [line for line in self.hydra if not line.startswith(f"{unknown[1]}.")]
            known = composition([*lines, *without, *self.own], keys)[1][unknown[2]]
            raise UserError(f"unknown key {unknown[1]}.{unknown[3]}: {nearest(unknown[3], map(str, known))}") from error

    def lines(self, params: dict[str, Any]) -> Iterable[list[str]]:
        """The overrides of each job, in order; `params` are further sweeps, from a configuration file."""
        for grid in self.grids:
            whole = parsed([*lines_of(params), *grid])
            for one in whole:
                if one.is_sweep_override() and not one.is_discrete_sweep():
                    raise UserError(
                        f"{one.input_line}: an interval is searched by hydra/sweeper=optuna; a plain sweep takes values"
                    )
            yield from BasicSweeper.split_arguments(whole, None)[0]

    def job(self, number: int, lines: Sequence[str], several: bool = True) -> tuple[SweepJob, str]:
        """The job of some overrides, composed and checked, and its whole configuration as text. UserError names it."""
        differing = [one for one in _PARSER.parse_overrides(list(lines)) if one.key_or_group not in self._apart]
        differs = ",".join(sorted(str(one.input_line) for one in differing))
        names = ",".join(f"'{name}'" for name in self._apart)
        folder = [f"hydra.job.config.override_dirname.exclude_keys=[{names}]"]
        chosen = {str(one.key_or_group) for one in self.shared}
        if "hydra.sweep.dir" not in chosen:
            folder.append(f"hydra.sweep.dir=outputs/{self.name or '${name}'}/sweep-{self.digest}")
        try:
            hydras = [*self.hydra, *folder, *self.own]
            made = self._compositions.of(lines, hydras, number)
            (sweep_folder, below), (config, resolved) = made.place(), made.checked()
        except (UserError, HydraException, OmegaConfBaseException) as error:
            raise job_error(error_line(error), differs, several) from error
        sweep = Path(sweep_folder)
        homes = (
            SweepHomes(SweepHome(sweep, self.digest)) if "hydra.sweep.dir" in chosen else self._homes_in(sweep.parent)
        )
        if "hydra.sweep.subdir" in chosen:
            place = homes.own.folder / _within(below, differs)
        else:
            place = homes.place(below, differing, resolved, several)
        too_long = [part for part in place.parts if len(part.encode()) > LONGEST]
        if too_long:
            raise UserError(
                f"a job's folder would be called {too_long[0][:60]}..., longer than file systems take: "
                "hydra.sweep.subdir='${hydra.job.num}' names the jobs by number"
            )
        text = json.dumps({k: v for k, v in resolved.items() if k not in IRRELEVANT_KEYS}, sort_keys=True, default=str)
        return SweepJob(number, differs, place, (*lines, *self.own), config, resolved), text


def _within(below: str, differs: str) -> str:
    """The chosen name of a job's folder; UserError for one that leads out of the sweep's."""
    if ".." in Path(below).parts or Path(below).is_absolute():
        raise UserError(
            f"the folder of the job {differs} would lie outside of the sweep's, by the .. or first / in its name: "
            "hydra.sweep.subdir='${hydra.job.num}' names the jobs by number"
        )
    return below


def job_error(line: str, differs: str, several: bool) -> UserError:
    """A UserError that names the job, if there are `several`."""
    return UserError(f"{line} (in the job {differs or 'without differences'})" if several else line)


def lines_of(params: Mapping[str, Any]) -> list[str]:
    """The overrides of the sweeps in a configuration file (`hydra.sweeper.params`)."""
    return [choices.with_right_sign(f"{spellings.key(key)}={value}") for key, value in params.items()]


def parsed(lines: Sequence[str]) -> list[Override]:
    """Parse overrides with Hydra and its configuration folders (for `select=glob(*)`)."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return OverridesParser.create(config_loader=loader).parse_overrides(list(lines))


def _apart(shared: Sequence[Override], grids: Sequence[Sequence[str]]) -> list[str]:
    """Keys that no job's name contains: they have one value on the command line, or in all grids of the sweep file."""
    names = [str(one.key_or_group) for one in shared]
    tables = [{str(one.key_or_group): one for one in parsed(grid)} for grid in grids]
    for name, one in tables[0].items():
        same = all(name in t and t[name].input_line == one.input_line for t in tables)
        if same and not one.is_sweep_override() and name not in names:
            names.append(name)
    return names


def jobs(expansion: Expansion, params: dict[str, Any]) -> list[SweepJob]:
    """All jobs of the sweep without duplicates. UserError for the first that is not valid, before anything is written."""
    every = list(expansion.lines(params))
    sweep_jobs: list[SweepJob] = []
    seen: dict[str, SweepJob] = {}
    for lines in every:
        job, text = expansion.job(len(sweep_jobs), lines, len(every) > 1)
        if text not in seen:
            seen[text] = job
            sweep_jobs.append(job)
    check_folders(sweep_jobs)
    return sweep_jobs


def common_folder(jobs: Sequence[SweepJob]) -> Path:
    """The common parent folder of all jobs."""
    return Path(os.path.commonpath([job.folder.parent for job in jobs]))


def check_folders(sweep_jobs: Sequence[SweepJob]) -> None:
    """UserError if two jobs have the same folder, or one is inside another's."""
    taken: dict[Path, SweepJob] = {}
    for job in sweep_jobs:
        if job.folder in taken:
            raise UserError(
                f"two jobs have the folder {job.folder}: {taken[job.folder].differs} and {job.differs}; "
                "hydra.sweep.subdir='${hydra.job.num}' names the jobs by number"
            )
        taken[job.folder] = job
    for job in sweep_jobs:
        for above in job.folder.parents:
            if above in taken:
                raise UserError(f"the folder of the job {job.differs} would lie in that of {taken[above].differs}: "
                                "hydra.sweep.subdir='${hydra.job.num}' names the jobs by number")  # fmt: skip
