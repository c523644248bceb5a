"""What every job of a sweep needs, looked at before the first of them begins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.runs import folders
from kdlab.sweeps.expansion import SweepJob, job_error

# What no check of inputs reads: jobs that differ in these alone are looked at once.
ALIKE = ("seed", "optim")


def check(jobs: Sequence[SweepJob]) -> None:
    """UserError, which names the job, for the first that a run of its own would refuse before it loads or writes
    anything: inputs that are missing or damaged, settings that contradict each other, a folder that is taken.

    Finished jobs are left out. Writes nothing.
    """
    for job in jobs:
        if job.config.overwrite:
            raise UserError(
                "overwrite=true: a sweep skips what is finished and goes on with the rest; to begin anew remove "
                f"{job.folder.parent}, or choose another hydra.sweep.dir="
            )
    waiting = [job for job in jobs if folders.status(job.folder) != "finished"]
    if not waiting:
        return
    print(f"kdlab: checking the inputs of {len(waiting)} job{'s' * (len(waiting) > 1)}", flush=True)
    from kdlab.runs.loggers import base
    from kdlab.stages.base import Stage
    from kdlab.stages.registry import stage_of
    from kdlab.stages.validation import check
    from kdlab.sweeps import suite  # heavy: after the mistakes that need nothing but the configuration

    looked: set[str] = set()
    stages: dict[str, Stage] = {}
    for job in waiting:
        try:
            if job.config.suite is not None:
                suite.plan(job.config, job.resolved, job.folder, True, job.overrides)
                continue
            folders.choose(job.resolved, job.folder, True, False, job.config.resume)
            if (alike := _told(job.config, ALIKE)) not in looked:
                base.check(job.config)
                stage = stage_of(job.config, lambda line: None)
                stage.share(stages.setdefault(_inputs(job.config), stage))
                check(stage)
                looked.add(alike)
        except UserError as error:
            raise job_error(str(error), job.differs, len(jobs) > 1) from error


def _told(config: Config, without: Sequence[str]) -> str:
    told = {key: value for key, value in asdict(config).items() if key not in without}
    told["select"]["ratio"] = config.select.ratio < 1
    return json.dumps(told, sort_keys=True, default=str)


def _inputs(config: Config) -> str:
    return json.dumps([asdict(config.data), asdict(config.teachers), config.artifacts], sort_keys=True, default=str)
