"""`python -m kdlab.run -m ...`: run a sweep, from its command line to a list of the failed jobs.

The command line has Hydra's names (`hydra/launcher=`, `hydra/sweeper=`), but the classes are kdlab's: Hydra's launchers
would run the jobs inside one process, where the ranks of a distributed job start the sweep again.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from kdlab.config import quoting
from kdlab.config.composition import CONF, to_plain
from kdlab.errors import UserError, nearest
from kdlab.plugins import own_modules
from kdlab.runs import folders as folders_of_runs
from kdlab.runs import process, sweep_commands
from kdlab.sweeps import expansion, keeping, validation
from kdlab.sweeps.display import display_of
from kdlab.sweeps.expansion import Expansion, SweepJob, common_folder
from kdlab.sweeps.job_status import SweepStatus
from kdlab.sweeps.preparation import preparation_of
from kdlab.sweeps.scheduler import Launcher, Scheduler

OWN_TARGETS = "kdlab."  # accepted targets of Hydra's groups launcher and sweeper


def start(
    overrides: Sequence[str],
    own: Sequence[str],
    folders: Sequence[Path] = (),
    dry: bool = False,
    planned: bool = False,
) -> int:
    """Run the sweep of the command line `overrides`; exit code 1 if a job failed, 128 + the signal that stopped it.

    `dry`: only check the jobs; `planned`: and forecast them. `own` are overrides added to every job, `folders` those of --config-dir. UserError, before the first job and before
    anything is written, for a job that is not a valid run.
    """
    whole = Expansion(overrides, own, folders)
    settings = whole.settings("launcher", "sweeper")
    launcher: Launcher = _instance("launcher", settings.launcher)
    sweeper = _instance("sweeper", settings.sweeper)
    if dry:
        return _plan_only(whole, sweeper, launcher if planned else None)
    try:
        return _outcome(*sweeper.run(whole, launcher))
    finally:
        launcher.close()


def prepare(overrides: Sequence[str], own: Sequence[str], folders: Sequence[Path] = ()) -> int:
    """Make what the jobs of the sweep `overrides` share, or all that a single run needs, and start none; the exit code 0.

    UserError as for `start`, and for what a run would refuse while it prepares.
    """
    whole = Expansion(overrides, own, folders)
    jobs = _instance("sweeper", whole.settings("sweeper").sweeper).known_jobs(whole)
    if process.SWEEP not in os.environ:  # a sweep has checked its jobs
        validation.check_finished(jobs)
        validation.check(jobs)
    from kdlab.sweeps import shared  # imports torch

    shared.make(jobs, process.notify)
    return 0


def _plan_only(whole: Expansion, sweeper: Any, launcher: Launcher | None) -> int:
    """Print the jobs of a sweep, checked as before its first job, and write nothing; the exit code 0.

    `launcher`: also forecast what the jobs cost, and how long they take there.
    """
    if not isinstance(sweeper, Product):
        raise UserError("--dry-run: a search has no list of jobs; each follows from the scores of those before it")
    jobs = expansion.jobs(whole, sweeper.params)
    validation.check_finished(jobs)
    validation.check(jobs)
    if launcher is not None:
        from kdlab.sweeps import plan  # imports torch

        plan.print_plan(
            [plan.PlannedJob(job.differs or str(job.folder), job.folder, job.config) for job in jobs], launcher.at_once
        )
        return 0
    for job in jobs:
        print(f"{job.differs or job.folder}: {folders_of_runs.status(job.folder) or 'to run'}: {job.folder}")
    print(f"--dry-run: {_jobs(len(jobs))} in {common_folder(jobs)}, all valid; nothing was trained or written")
    return 0


def _instance(group: str, node: Any) -> Any:
    """Instantiate the launcher or sweeper of a configuration; UserError for a foreign one, and for unknown keys."""
    settings = to_plain(node)
    target = str(settings.pop("_target_", ""))
    if not target.startswith(OWN_TARGETS):
        known = [file.stem for file in (CONF / "hydra" / group).glob("*.yaml")]
        raise UserError(f"hydra/{group}: {target} is not kdlab's; {nearest('', known)}")
    cls = get_class(target)
    known = list(signature(cls).parameters)
    for key in settings:
        if key not in known:
            raise UserError(f"unknown key hydra.{group}.{key}: {nearest(str(key), known)}")
    return cls(**settings)


class Product:
    """Sweeper over every combination of the values that the command line, or `params` of a file, gives to its keys."""

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = params or {}

    def run(self, whole: Expansion, launcher: Launcher) -> tuple[SweepStatus, int | None]:
        """Run all jobs; their status, and the signal that stopped the sweep, or None."""
        jobs = self.known_jobs(whole)
        name = whole.title(jobs[0])
        launcher.prepare(jobs, name)
        validation.check_finished(jobs)
        validation.check(jobs)
        status = SweepStatus(launcher.at_once)
        sweep_commands.add(common_folder(jobs), [*own_modules.options(), *whole.command])
        print(
            f"kdlab: {_jobs(len(jobs))} in {common_folder(jobs)}; the same command resumes those that are not finished",
            flush=True,
        )
        display = display_of(status, name, sys.stdout)
        try:
            preparation = preparation_of(launcher, whole, jobs)
            return status, Scheduler(launcher, status, display, preparation=preparation).run(jobs)
        finally:
            display.close()

    def known_jobs(self, whole: Expansion) -> list[SweepJob]:
        """All jobs."""
        return expansion.jobs(whole, self.params)


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"


def _outcome(status: SweepStatus, stopped: int | None) -> int:
    """Print the result of the sweep; its exit code."""
    done, failed = status.of("done"), status.of("failed")
    before = sum(one.before for one in done)
    for one in status.best():
        assert one.objective is not None
        print(f"kdlab: best {one.objective.task}: {one.objective}  {one.job.differs}  {one.job.folder}")
    if len(done) > 1 and status.best():
        print(
            f"kdlab: the best of {len(done)} was chosen by the score printed here, which is too high by that choice: score "
            "it on rows that no job was chosen by, or with other seeds"
        )
    if done:
        place = common_folder([one.job for one in done])
        print(
            f"kdlab: {_jobs(len(status.jobs))}, {len(done)} finished ({before} of them before); next:  {quoting.command([place], 'kdlab.compare')}",
            flush=True,
        )
    for line in keeping.tidy(status):
        print(f"kdlab: {line}", flush=True)
    if failed:
        print(f"kdlab: {_jobs(len(failed))} failed; the same command tries again:", file=sys.stderr)
        for one in failed:
            print(f"  {one.job.differs or one.job.folder}: {one.error}\n    log: {one.job.log}", file=sys.stderr)
    if status.unprepared:
        print(
            f"kdlab: what the jobs share could not be prepared, and none was started: {status.unprepared}",
            file=sys.stderr,
            flush=True,
        )
    if stopped is not None:
        left = len(status.jobs) - len(done) - len(failed)
        name = signal.Signals(stopped).name
        print(
            f"kdlab: stopped by {name} with {_jobs(left)} not finished; the same command resumes the sweep",
            file=sys.stderr,
            flush=True,
        )
        return 128 + stopped
    return 1 if failed or status.unprepared else 0
