"""`keep=` of a sweep: once all jobs are finished, remove checkpoints, and the students that are not the best of comparable jobs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.runs import keeping
from kdlab.runs.keeping import CHECKPOINTS, STUDENT, RemovedPart
from kdlab.storage import locks
from kdlab.sweeps.job_status import JobStatus, SweepStatus

# keys of data that change no score of a given student on the held-out rows
_TRAINING_ONLY = ("batch_size", "order", "workers", "train_rows", "augment", "heldout_rows")


def tidy(status: SweepStatus) -> list[str]:
    """Remove what `keep=best` and `keep=none` of the finished jobs do not keep; lines that say what went.

    Does nothing before every job of the sweep is done: only then is the best known. A job that another process has locked
    is left alone. Of equal scores the first job's student stays.
    """
    every = list(status.jobs.values())
    asked = [one for one in every if one.job.config.keep != "all"]
    if not asked:
        return []
    if any(one.state != "done" for one in every):
        return ["keep=: students stay until all jobs are finished; the same command removes them then"]
    best = best_of_comparable([one for one in asked if one.job.config.keep == "best"])
    totals = {part: RemovedPart(part) for part in (CHECKPOINTS, STUDENT)}
    lines = []
    for one in asked:
        loses = one.job.config.keep == "none" or one.job.number not in best
        try:
            for part in (CHECKPOINTS, STUDENT) if loses else (CHECKPOINTS,):
                totals[part] += _removed(one, part)
        except UserError as error:
            lines.append(str(error))
    if gone := [str(found) for found in totals.values() if found.pieces]:
        lines.append(f"removed {' and '.join(gone)}")
    kept = [one for one in asked if one.job.number in best and one.objective is not None]
    return [*lines, *(f"kept the student of {one.job.differs or one.job.folder} ({one.objective})" for one in kept)]


def best_of_comparable(jobs: Sequence[JobStatus]) -> set[int]:
    """The numbers of the jobs whose students stay: of each group that was scored on the same rows by the same measure the
    best, and every job without a score."""
    groups: dict[str, list[JobStatus]] = defaultdict(list)
    for one in jobs:
        groups[_measure(one.job.config) if one.objective is not None else str(one.job.number)].append(one)
    best = set()
    for group in groups.values():
        first = group[0]
        for one in group[1:]:
            assert one.objective is not None and first.objective is not None
            first = one if one.objective.better_than(first.objective) else first
        best.add(first.job.number)
    return best


def _measure(config: Config) -> str:
    """The settings that decide by what and on which rows a student is scored; text also by its teacher's vocabulary."""
    data = {key: value for key, value in asdict(config.data).items() if key not in _TRAINING_ONLY}
    teacher = [config.teachers.name, config.teachers.path] if config.data.stage != "finetune" else []
    return json.dumps([data, teacher], sort_keys=True, default=str)


def _removed(one: JobStatus, part: str) -> RemovedPart:
    folder = one.job.folder
    if not (folder / part).is_dir() or (lock := locks.lock_folder(folder)) is None:
        return RemovedPart(part)
    try:
        return keeping.remove(folder, part)
    finally:
        lock.release()
