"""`hydra/sweeper=optuna`: Optuna proposes the values of the next job from the scores of earlier jobs.

Search spaces have the syntax of Hydra's Optuna plugin: `select.ratio=interval(0.1,0.5)`,
`tag(log, interval(1e-5, 1e-3))`, `int(interval(1, 10))`, `range(1, 5)`, `choice(a, b)` or `a,b`. (The plugin itself needs
Optuna 2, and would run the jobs in one process.) The study is saved in the sweep's folder: the same command resumes it.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from hydra.utils import instantiate

from kdlab.errors import UserError, install
from kdlab.models.head import STAGE_HEADS
from kdlab.sweeps import validation
from kdlab.sweeps.display import display_of
from kdlab.sweeps.expansion import Expansion, SweepJob, lines_of, parsed
from kdlab.sweeps.job_status import JobStatus, SweepStatus
from kdlab.sweeps.preparation import preparation_of
from kdlab.sweeps.scheduler import Launcher, Scheduler

STUDY = "optuna.journal"
DIRECTIONS = ("minimize", "maximize")
SAMPLERS = "optuna.samplers."  # accepted targets of hydra.sweeper.sampler


class Search:
    """Sweeper of `n_trials` jobs whose values an Optuna sampler proposes, `n_jobs` of them at a time.

    `direction`: minimize or maximize; null decides by the objective: maximize the dev score of a task, minimize the loss
    on held-out text. `storage`: a URL for Optuna; null: a journal in the sweep's folder. UserError for invalid values.
    """

    def __init__(
        self,
        sampler: dict[str, Any],
        n_trials: int = 20,
        n_jobs: int | None = None,
        direction: str | None = None,
        storage: str | None = None,
        study_name: str | None = None,
        params: dict[str, Any] | None = None,
    ) -> None:
        for name, value in (("n_trials", n_trials), ("n_jobs", 1 if n_jobs is None else n_jobs)):
            if type(value) is not int or value < 1:
                raise UserError(f"hydra.sweeper.{name}={value}: at least 1")
        if direction not in (None, *DIRECTIONS):
            raise UserError(f"hydra.sweeper.direction={direction}: minimize, maximize or null")
        target = str(sampler.get("_target_"))
        if not target.startswith(SAMPLERS):
            raise UserError(f"hydra.sweeper.sampler._target_={target}: only {SAMPLERS}* may be named here")
        self.sampler, self.n_trials, self.n_jobs, self.direction = sampler, n_trials, n_jobs, direction
        self.storage, self.study_name, self.params = storage, study_name, params or {}

    def run(self, whole: Expansion, launcher: Launcher) -> tuple[SweepStatus, int | None]:
        """Run all trials; their status, and the signal that stopped the search, or None."""
        whole.searched = True
        space, fixed = self._space(whole)
        first = self.known_jobs(whole)
        name = whole.title(first[0])
        launcher.prepare(first, name)
        try:
            import optuna
        except ImportError as error:
            raise UserError(f"hydra/sweeper=optuna needs Optuna: {install('optuna')}") from error
        validation.check(first)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        direction = self.direction or STAGE_HEADS[first[0].config.data.stage].direction
        home = first[0].folder.parent
        study = optuna.create_study(
            storage=self.storage or _journal(optuna, home / STUDY),
            study_name=self.study_name or f"{name}-{_digest(direction, space)}",
            direction=direction,  # pyright: ignore[reportArgumentType]
            load_if_exists=True,
        )
        if (
            type(self.sampler.get("seed")) is int
        ):  # the same seed would propose the first values again when a study is resumed
            self.sampler["seed"] += len(study.trials)
        study.sampler = instantiate(self.sampler)
        trials = Trials(optuna, study, whole, space, fixed, self.n_trials)
        status = SweepStatus(launcher.at_once, expected=self.n_trials)
        print(
            f"kdlab: {self.n_trials} trials in {home}; the same command resumes those that are not finished",
            flush=True,
        )
        display = display_of(status, name, sys.stdout)
        try:
            jobs = trials.first(self.n_jobs or launcher.at_once or 1)
            preparation = preparation_of(launcher, whole, first)
            stopped = Scheduler(launcher, status, display, trials.next, preparation).run(jobs)
        finally:
            display.close()
        return status, stopped

    def known_jobs(self, whole: Expansion) -> list[SweepJob]:
        """Jobs at the ends of the ranges: no trial is known before the first has ended."""
        return _corners(whole, *self._space(whole))

    def _space(self, whole: Expansion) -> tuple[list[Override], list[str]]:
        """The overrides to search over, and those that all jobs share."""
        if len(whole.grids) > 1:
            raise UserError(
                f"+sweep={whole.name} has {len(whole.grids)} grids, and a search has one: give its overrides themselves"
            )
        lines = parsed([*lines_of(self.params), *whole.grids[0]])
        last = {one.get_key_element(): one for one in lines}
        space = [one for one in last.values() if one.is_sweep_override()]
        if not space:
            raise UserError("hydra/sweeper=optuna: no search space; for example 'select.ratio=interval(0.1,0.5)'")
        return space, [str(one.input_line) for one in last.values() if not one.is_sweep_override()]


class Trials:
    """The jobs of a study, at most `total`: unfinished and failed trials of earlier commands first, then new ones."""

    def __init__(
        self, optuna: Any, study: Any, whole: Expansion, space: Sequence[Override], fixed: Sequence[str], total: int
    ) -> None:
        self.optuna, self.study, self.whole, self.fixed, self.total = optuna, study, whole, list(fixed), total
        self.space = {one.get_key_element(): _distribution(optuna, one) for one in space}
        self._trials: dict[int, int] = {}  # trial by job
        self._unfinished: list[Any] = []
        self._failed = 0

    def first(self, at_once: int) -> list[SweepJob]:
        """The finished jobs of the study, and the first `at_once` others."""
        state = self.optuna.trial.TrialState
        known = [trial for trial in self.study.trials if trial.state in (state.COMPLETE, state.RUNNING)]
        self._unfinished = [trial for trial in known if trial.state == state.RUNNING]
        settled = {tuple(sorted(trial.params.items())) for trial in known}
        for trial in self.study.trials:
            if trial.state == state.FAIL and tuple(sorted(trial.params.items())) not in settled:
                settled.add(tuple(sorted(trial.params.items())))
                self.study.enqueue_trial(trial.params)
        done = [self._job(trial) for trial in known if trial.state == state.COMPLETE][: self.total]
        return [*done, *(job for _ in range(at_once) for job in self._new())]

    def next(self, ended: JobStatus) -> list[SweepJob]:
        """Report an ended job to the study; the next job, in a list, or []."""
        number = self._trials.pop(ended.job.number, None)
        if number is None:
            return []  # finished before
        if ended.state == "done" and ended.objective is not None:
            self.study.tell(number, ended.objective.value, skip_if_finished=True)
        elif ended.state != "stopped":
            self._failed += 1  # else a search whose jobs all fail would never end
            self.study.tell(number, state=self.optuna.trial.TrialState.FAIL, skip_if_finished=True)
        return self._new() if ended.state != "stopped" else []

    def _new(self) -> list[SweepJob]:
        if self._unfinished:
            trial = self._unfinished.pop(0)
            missing = [name for name in self.space if name not in trial.params]
            if missing:  # the sweep was killed between proposing and starting it
                self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
                return self._new()
        else:
            states = self.optuna.trial.TrialState
            counted = [t for t in self.study.trials if t.state in (states.COMPLETE, states.RUNNING)]
            if len(counted) + self._failed >= self.total:
                return []
            trial = self.study.ask(self.space)
        try:
            job = self._job(trial)
        except UserError as error:  # values that contradict each other: `_corners` has checked each only with the first values of the others
            print(f"kdlab: a trial is skipped: {error}", file=sys.stderr, flush=True)
            self._failed += 1
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            return self._new()
        self._trials[job.number] = trial.number
        return [job]

    def _job(self, trial: Any) -> SweepJob:
        values = [f"{name}={trial.params[name]}" for name in self.space]
        return self.whole.job(trial.number, [*self.fixed, *values])[0]


def _digest(direction: str, space: Sequence[Override]) -> str:
    """A hash of direction and ranges in the study's name: Optuna refuses other ranges in one study."""
    lines = [direction, *sorted(str(one.input_line) for one in space)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def _journal(optuna: Any, path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def _distribution(optuna: Any, one: Override) -> Any:
    """The Optuna distribution of a Hydra sweep; the choices of a categorical one are the texts of overrides."""
    value, kinds = one.value(), optuna.distributions
    log = isinstance(value, Sweep) and "log" in value.tags
    if isinstance(value, IntervalSweep):
        whole = type(value.start) is int and type(value.end) is int  # int(interval(1, 10))
        return (kinds.IntDistribution if whole else kinds.FloatDistribution)(value.start, value.end, log=log)
    if isinstance(value, RangeSweep):
        steps = list(value.range())
        if all(type(number) is int for number in steps) and len(steps) > 1:
            return kinds.IntDistribution(min(steps), max(steps), step=abs(steps[1] - steps[0]))
    return kinds.CategoricalDistribution(list(one.sweep_string_iterator()))


def _corners(whole: Expansion, space: Sequence[Override], fixed: Sequence[str]) -> list[SweepJob]:
    """Jobs at both ends, or at each choice, of every search range, to find errors before the first trial."""
    ends: list[list[str]] = []
    for one in space:
        value, key = one.value(), one.get_key_element()
        if isinstance(value, IntervalSweep):
            ends.append([f"{key}={v}" for v in (value.start, value.end)])
        else:
            ends.append([f"{key}={v}" for v in one.sweep_string_iterator()])
    base = [lines[0] for lines in ends]
    found = []
    for i, lines in enumerate(ends):
        for line in lines:
            found.append(whole.job(len(found), [*fixed, *base[:i], line, *base[i + 1 :]])[0])
    return found
