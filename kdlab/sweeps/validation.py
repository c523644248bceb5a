"""Check the inputs of every job of a sweep before the first one starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.runs import folders
from kdlab.sweeps.expansion import SweepJob, job_error

# Keys that no check of inputs reads: of jobs that differ only in these, one is checked.
UNCHECKED_KEYS = ("seed", "optim")
_PUT_BACK = "put that file back, or choose another hydra.sweep.dir="


def check(jobs: Sequence[SweepJob]) -> None:
    """UserError, which names the job, for the first one that a single run would refuse: missing or damaged inputs,
    contradicting settings, a folder of another run.

    Skips finished jobs. Writes nothing.
    """
    for job in jobs:
        if job.config.overwrite:
            raise UserError(
                "overwrite=true: a sweep skips what is finished and resumes the rest; to start anew remove "
                f"{job.folder.parent}, or choose another hydra.sweep.dir="
            )
    waiting = [job for job in jobs if folders.status(job.folder) != "finished"]
    if not waiting:
        return
    print(f"kdlab: checking the inputs of {len(waiting)} job{'s' * (len(waiting) > 1)}", flush=True)
    from kdlab.runs import budget, keeping
    from kdlab.runs.loggers import base
    from kdlab.runs.prepare import device_count
    from kdlab.stages.inputs import Inputs
    from kdlab.stages.registry import stage_of
    from kdlab.stages.validation import check
    from kdlab.sweeps import suite  # slow imports, after the checks of the configuration

    checked: set[str] = set()
    budgets: set[str] = set()
    shared: dict[str, Inputs] = {}
    for job in waiting:
        try:
            if job.config.suite is not None:
                suite.plan(job.config, job.resolved, job.folder, True, job.overrides)
                continue
            if folders.resumes_in(job.folder, job.resolved, False, job.config.resume):
                folders.check_own_code(job.folder, _PUT_BACK)
            if (alike := _checked_part(job.config, UNCHECKED_KEYS)) not in checked:
                base.check(job.config)
                stage = stage_of(job.config, lambda line: None)
                stage.inputs.share(shared.setdefault(_inputs(job.config), stage.inputs))
                keeping.check_models(job.config)
                check(stage)
                checked.add(alike)
            if job.config.budget.given and (alike := _checked_part(job.config, UNCHECKED_KEYS, True)) not in budgets:
                world = device_count(job.config.trainer.accelerator, job.config.trainer.devices)
                stage = stage_of(job.config, lambda line: None)
                stage.inputs.share(shared.setdefault(_inputs(job.config), stage.inputs))
                budget.check(stage, world * job.config.trainer.num_nodes)
                budgets.add(alike)
        except UserError as error:
            raise job_error(str(error), job.differs, len(jobs) > 1) from error


def check_finished(jobs: Sequence[SweepJob]) -> None:
    """UserError, which names the job, for a finished run of another configuration in the folder of a job: it would pass
    for the job's result."""
    for job in jobs:
        if folders.status(job.folder) != "finished":
            continue
        if (key := folders.other_run(job.folder, job.resolved)) is not None:
            line = (
                f"{job.folder} holds a finished run with another {key}: remove it, or choose another hydra.sweep.dir="
            )
            raise job_error(line, job.differs, len(jobs) > 1)
        try:
            folders.check_own_code(job.folder, _PUT_BACK)
        except UserError as error:
            raise job_error(str(error), job.differs, len(jobs) > 1) from error


def _checked_part(config: Config, without: Sequence[str], with_ratio: bool = False) -> str:
    part = {key: value for key, value in asdict(config).items() if key not in without}
    if not with_ratio and config.select.look == 1:
        part["select"]["ratio"] = config.select.ratio < 1
    return json.dumps(part, sort_keys=True, default=str)


def _inputs(config: Config) -> str:
    return json.dumps([asdict(config.data), asdict(config.teachers), config.artifacts], sort_keys=True, default=str)
