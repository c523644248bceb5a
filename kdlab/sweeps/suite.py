"""A suite: one model fine-tuned on several tasks and seeds, each an ordinary run in its own process and folder.

`+exp=glue` is one. A job is the suite's own command with `suite=null`, a task, a seed and a folder; all other overrides
hold for all jobs. The name of the suite's folder is a hash of what its jobs share: the same command resumes it, and one
with more tasks or seeds adds to it. The teacher's jobs are in a folder that the suites of all students share.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from kdlab.config import quoting, spellings
from kdlab.config.composition import composition
from kdlab.config.schema import Config, checked
from kdlab.config.targets import original_targets
from kdlab.data.tasks.registry import Task, find
from kdlab.errors import UserError, as_typed
from kdlab.models import head_keys, loading
from kdlab.models.families import WrongFamily
from kdlab.plugins import own_modules
from kdlab.reporting import glue_scoreboard
from kdlab.reporting.glue_scoreboard import RESULTS
from kdlab.runs import folders, keeping, single
from kdlab.runs.finished import finished_result
from kdlab.runs.process import run_unless_finished
from kdlab.stages.registry import stage_of
from kdlab.stages.task_inputs import folder_of
from kdlab.stages.validation import check
from kdlab.storage import locks
from kdlab.storage.files import atomic_write_json, atomic_write_text, sha256_of, user_errors, user_path

TEACHER_SEED = 1
TABLE = "glue.md"
# all files of a suite that was ended before it wrote its first glue.json
UNSTARTED_FILES = {TABLE, f".{TABLE}.tmp", f".{RESULTS}.tmp", locks.NAME}
# keys that each job sets, keys that only the student's jobs use, overrides of the teacher's jobs
OWN = ("suite", "seed", "overwrite", "hydra.run.dir")
STUDENT = (
    "student",
    "knowledge",
    "select",
    "adopt",
    "weigh",
    "teachers.others",
    "teachers.split",
    "data.augment",
    "augment",
)
WHOLE = (
    "knowledge=labels",
    "select=all",
    "data.augment=null",
    "student=whole",
    "student.path=null",
    "student.revision=null",
    "student.layers=all",
)


@dataclass(frozen=True)
class SuiteJob:
    """One run of a suite; `who` is "student" or "teacher"."""

    who: str
    task: Task
    seed: int
    folder: Path
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.task.title}, {self.who}, seed {self.seed}"


@dataclass(frozen=True)
class SuitePlan:
    """The plan of a suite: its jobs, its folder, a hash of its inputs, `foreign`: True if the folder has another suite."""

    jobs: list[SuiteJob]
    home: Path
    made_of: str
    foreign: bool


def start(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool, overrides: Sequence[str]) -> int:
    """Check the inputs of all jobs, run the unfinished ones, and print the table; exit code 1 if a job has failed.

    `folder` is that of a single run of this configuration, `chosen` True if the user named it. UserError, before
    anything is written, for missing or contradicting inputs.
    """
    single.check_machine(config)
    suite = plan(config, resolved, folder, chosen, overrides)
    if (lock := locks.lock_folder(suite.home)) is None:
        raise locks.busy(suite.home, locks.owner_of(suite.home))
    try:
        # once more: the process that had the lock may have begun another suite
        foreign = _check_home(suite.home, suite.made_of, config.overwrite)
        return _run(config, replace(suite, foreign=foreign), overrides)
    finally:
        lock.release()


def _run(config: Config, suite: SuitePlan, overrides: Sequence[str]) -> int:
    """Run the unfinished jobs in the suite's locked folder and print the table; the exit code."""
    jobs, home = suite.jobs, suite.home
    if config.overwrite:  # only now: a mistake in the new command must not delete the old runs
        _remove(suite)
    print(
        f"kdlab: {len(jobs)} run{'s' * (len(jobs) > 1)} in {home}; the same command resumes those that are not finished",
        flush=True,
    )
    about = {
        "made_of": suite.made_of,
        "command": ["python", "-m", "kdlab.run", *own_modules.options(), *overrides],
        "student": config.student.path,
        "teacher": config.teachers.path or config.teachers.name,
    }
    failed = []
    for number, job in enumerate(jobs, 1):
        _write(home, {"status": "running", **about}, jobs)
        if not run_unless_finished(f"{number} of {len(jobs)}: {job}", job.overrides, job.folder):
            failed.append(job)
    table = _write(home, {"status": "failed" if failed else "finished", **about}, jobs)
    print(
        f"\n{glue_scoreboard.text(table)}\n\nsuite folder: {home}   (glue.md, glue.json, a folder a task)", flush=True
    )
    submission = quoting.command([home, "--glue-submission", "OUT.zip"], "kdlab.evaluate")
    print(f"next: for the GLUE server:  {submission}", flush=True)
    for job in failed:
        print(f"kdlab: failed: {job}: {job.folder}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _remove(suite: SuitePlan) -> None:
    """Remove what overwrite=true replaces: the runs of this suite, or all of another one, its glue.json last.

    UserError, before anything is removed, where another process is at work in one of the runs.
    """
    for folder in [suite.home] if suite.foreign else [job.folder for job in suite.jobs]:
        if (found := locks.owner_below(folder)) is not None:
            raise locks.busy(*found)
    if not suite.foreign:
        for job in suite.jobs:
            if (lock := locks.lock_folder(job.folder)) is None:
                raise locks.busy(job.folder, locks.owner_of(job.folder))
            folders.clear(job.folder)
            lock.release()
        return
    with user_errors("removing the former suite", suite.home):
        for entry in suite.home.iterdir():
            if entry.name not in (RESULTS, locks.NAME):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def plan_only(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool, overrides: Sequence[str]) -> int:
    """Print the jobs of a suite, checked as by `start`, and write nothing. Returns the exit code 0."""
    suite = plan(config, resolved, folder, chosen, overrides)
    for job in suite.jobs:
        print(f"{job}: {folders.status(job.folder) or 'to run'}: {job.folder}")
    print(f"--dry-run: {len(suite.jobs)} valid jobs; nothing was trained or written")
    return 0


def forecast(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool, overrides: Sequence[str]) -> int:
    """Print the forecast of a suite's jobs, checked as by `start`, and write nothing. Returns the exit code 0."""
    from kdlab.sweeps.plan import PlannedJob, print_plan

    jobs = plan(config, resolved, folder, chosen, overrides).jobs
    configs = [checked(composition(job.overrides)[0]) for job in jobs]
    print_plan([PlannedJob(str(job), job.folder, one) for job, one in zip(jobs, configs, strict=True)], 1)
    return 0


def plan(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool, overrides: Sequence[str]) -> SuitePlan:
    """The jobs of a suite, with checked inputs; arguments and errors as `start`. Writes nothing."""
    suite = config.suite
    assert suite is not None
    tasks = [find(name) for name in suite.tasks]
    seeds = {"student": suite.seeds, "teacher": [TEACHER_SEED] if suite.teacher else []}
    given = _given(config, overrides)
    _check_folders(config.data.path, tasks)
    _check_student(config.student.path, config.student.revision)
    configs = {
        (who, task.name): checked(composition([*given[who], f"data.task={task.name}"])[0])
        for who in seeds
        for task in tasks
        if seeds[who]
    }
    made_of, homes = _homes(config, resolved, folder, chosen)
    jobs = [
        SuiteJob(who, task, seed, homes[who] / task.name / f"seed={seed}",
            (*given[who], f"data.task={task.name}", f"seed={seed}"))
        for task in tasks for who in seeds for seed in seeds[who]
    ]  # fmt: skip
    home = homes["student"]
    foreign = _check_home(home, made_of, config.overwrite)
    _check_inputs(jobs, configs, config.overwrite)
    return SuitePlan(jobs, home, made_of, foreign)


# ---- jobs


def _given(config: Config, overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides that all student jobs, and all teacher jobs, share. UserError for a suite that cannot be."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "a suite starts a process for each run: start it without torchrun; trainer.devices= is for each"
        )
    if config.data.stage != "finetune":
        raise UserError(
            f"suite: its tasks are labelled data, and data.stage is {config.data.stage}: choose data=glue, or suite=null"
        )
    if config.data.task is not None:
        raise UserError(
            f"data.task={config.data.task}: a suite names its tasks: {as_typed(f'suite.tasks=[{config.data.task}]')}"
        )
    parsed = [
        (str(one.key_or_group), str(one.input_line))
        for one in OverridesParser.create().parse_overrides(list(overrides))
    ]
    if any(key == "seed" for key, _ in parsed):
        raise UserError(f"seed=: a suite has its own: {as_typed('suite.seeds=[1,2,3]')}")

    if config.student.path is None and not any(key.startswith("student") for key, _ in parsed):
        raise UserError("student.path= is missing: the student/ in the folder of a pre-training run, or a Hub name")

    def without(keys: Sequence[str]) -> list[str]:
        return [line for name, line in parsed if not any(name == key or name.startswith(f"{key}.") for key in keys)]

    return {
        "student": [*without(OWN), "suite=null"],
        "teacher": [*without((*OWN, *STUDENT)), "suite=null", *WHOLE],
    }


def _homes(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool) -> tuple[str, dict[str, Path]]:
    """A hash of what the student's jobs share, and the folders of the student's and the teacher's jobs."""
    kept = {key: value for key, value in resolved.items() if key not in (*folders.IRRELEVANT_KEYS, "suite", "seed")}
    teacher = stage_of(config, print).inputs.main_source.sha256()
    student = _weights(config.student.path)
    made_of = _digest([_original(kept), student, teacher])
    if chosen:
        return made_of, {"student": folder, "teacher": folder / "teacher"}
    whole = _digest([_original({key: value for key, value in kept.items() if key not in STUDENT}), teacher])
    return made_of, {"student": folder.parent / f"suite-{made_of}", "teacher": folder.parent / f"teacher-{whole}"}


def _original(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration under the names with which suites were first hashed, so that their folders are found again."""
    return spellings.former_configuration(original_targets(config))


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _weights(path: str | None) -> str | None:
    weights = Path(path or "") / "model.safetensors"
    return sha256_of(weights) if path and weights.is_file() else path


# ---- checks before the first job


def _check_folders(path: str | None, tasks: Sequence[Task]) -> None:
    """UserError unless the folder `path` holds a folder for each task, or is the folder of the only one."""
    if path is None:
        return
    root = user_path(path)
    if not root.is_dir():
        raise UserError(f"data.path={path}: there is no such folder; it holds a folder for each task, such as RTE")
    lacking = [task for task in tasks if folder_of(path, task) == path]
    inside = sorted(place.name for place in root.iterdir() if place.is_dir())
    if not lacking or (len(tasks) == 1 and not inside):
        return
    there = [task.name for task in tasks if task not in lacking]
    names = ", ".join(task.title for task in lacking)
    right = (
        f"{as_typed('suite.tasks=[' + ','.join(there) + ']')} takes those that are there" if there
        else f"it holds {', '.join(inside[:8]) or 'no folder at all'}"
    )  # fmt: skip
    raise UserError(f"data.path={path}: no folder for {names}; {right}")


def _check_student(path: str | None, revision: str | None) -> None:
    if path is None:
        return
    keeping.check_model("student.path", path)
    folder = Path(path)
    if (folder / "config.json").is_file():
        head_keys.has_head(path, loading.load_config(path))  # names a damaged file
    elif folder.exists():
        raise UserError(f"student.path={path}: a model folder with a config.json was expected, such as RUN/student")
    else:
        try:
            loading.load_config(path, revision)
        except WrongFamily:
            raise
        except UserError as error:
            raise UserError(
                f"student.path={path}: there is no such folder, and no such model on the Hub; RUN/student of a "
                "pre-training run was expected"
            ) from error


def _check_home(home: Path, made_of: str, overwrite: bool) -> bool:
    """True if the folder has another suite, which `overwrite` replaces; UserError without `overwrite`, and for other files."""
    if home.exists() and not home.is_dir():
        raise UserError(f"hydra.run.dir={home} is a file: choose a folder")
    if not home.is_dir() or all(file.name in UNSTARTED_FILES for file in home.iterdir()):
        return False
    try:
        theirs = json.loads((home / RESULTS).read_text(encoding="utf-8"))["made_of"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{home} holds files that are not a suite of kdlab: choose an empty or new folder") from None
    if theirs != made_of and not overwrite:
        raise UserError(
            f"{home} holds a suite of another configuration or student, which is kept: choose another folder, or "
            "overwrite=true to replace it"
        )
    return theirs != made_of


def _check_inputs(jobs: Sequence[SuiteJob], configs: Mapping[tuple[str, str], Config], overwrite: bool) -> None:
    """UserError for inputs that a job cannot use, or that differ from those of a finished job."""
    read: set[str] = set()
    for job in jobs:
        stage = stage_of(configs[job.who, job.task.name], print)
        if not overwrite and folders.status(job.folder) == "finished":
            if (
                finished_result(job.folder, "data.fingerprint")["data"]["fingerprint"]
                != stage.inputs.source.fingerprint()
            ):
                raise UserError(
                    f"{job.folder} was made of other rows than those that {job.task.title} has now: overwrite=true "
                    "makes it again, hydra.run.dir= chooses another folder"
                )
        elif job.who not in read or job.task.name not in read:
            read |= {job.who, job.task.name}
            check(stage)


# ---- results


def _write(home: Path, about: dict[str, Any], jobs: Sequence[SuiteJob]) -> glue_scoreboard.Scoreboard:
    """Write glue.md and glue.json, the scores of the finished jobs, into the suite's folder; the scores."""
    runs = [(job, finished_result(job.folder)) for job in jobs if folders.status(job.folder) == "finished"]
    seeds = len({job.seed for job in jobs if job.who == "student"})
    names = {
        "student": f"student, {seeds} seed{'s' * (seeds > 1)}",
        "teacher": f"teacher, {Path(about['teacher']).name}",
    }
    students = [result for job, result in runs if job.who == "student"]
    if collapsed := sum(bool(result.get("collapsed")) for result in students):  # means over them say little
        names["student"] += f" [{collapsed} of {len(students)} runs collapsed]"
    found: dict[str, dict[tuple[str, int], dict[str, float]]] = {
        names[who]: {} for who in names if any(job.who == who for job in jobs)
    }
    for job, result in runs:
        found[names[job.who]][job.task.name, job.seed] = result["metrics"]["student"]
    table = glue_scoreboard.board(found, list({job.task.name: job.task for job in jobs}.values()))
    listed = [
        {"task": job.task.name, "who": job.who, "seed": job.seed, "folder": str(job.folder),
         "metrics": result["metrics"]["student"]}
        for job, result in runs
    ]  # fmt: skip
    atomic_write_text(home / TABLE, glue_scoreboard.markdown(table))
    atomic_write_json(home / RESULTS, {**about, **asdict(table), "runs": listed})  # last: it has the status
    return table
