"""`hydra/sweeper=optuna`: Optuna proposes the values of the next job from the scores of those before.

What is searched is written as Hydra's Optuna plugin has it, so commands carry over: `select.ratio=interval(0.1,0.5)`,
`tag(log, interval(1e-5, 1e-3))`, `int(interval(1, 10))`, `range(1, 5)`, `choice(a, b)` or `a,b`. (The plugin itself asks
for Optuna 2, and would run the jobs in one process.) The study lies in the sweep's folder: the same command goes on.
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

from kdlab.config import spellings
from kdlab.errors import UserError
from kdlab.sweeps import validation
from kdlab.sweeps.display import display_of
from kdlab.sweeps.expansion import Expansion, SweepJob, parsed
from kdlab.sweeps.job_status import JobStatus, SweepStatus
from kdlab.sweeps.scheduler import Launcher, Scheduler

STUDY = "optuna.journal"
DIRECTIONS = ("minimize", "maximize")
SAMPLERS = "optuna.samplers."  # code that hydra.sweeper.sampler may name


class Search:
    """`n_trials` jobs whose values a sampler of Optuna's proposes, `n_jobs` of them at a time.

    `direction` is minimize or maximize; null takes it from the objective: the score of a task's dev set is maximised,
    the loss on held-out text minimised. `storage` is a URL of Optuna's; null keeps a journal in the sweep's folder.
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
        """Run all trials; what has become of them, and the signal that stopped the search, if one did."""
        space, fixed = self._space(whole)
        first = _corners(whole, space, fixed)
        name = whole.title(first[0])
        launcher.prepare(first, name)
        try:
            import optuna
        except ImportError as error:
            raise UserError('hydra/sweeper=optuna needs Optuna: pip install "kdlab[optuna]"') from error
        validation.check(first)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        direction = self.direction or DIRECTIONS[first[0].config.data.stage == "finetune"]
        home = first[0].folder.parent
        study = optuna.create_study(
            storage=self.storage or _journal(optuna, home / STUDY),
            study_name=self.study_name or f"{name}-{_digest(direction, space)}",
            direction=direction,  # pyright: ignore[reportArgumentType]
            load_if_exists=True,
        )
        if type(self.sampler.get("seed")) is int:  # one seed would propose the first values again when a study goes on
            self.sampler["seed"] += len(study.trials)
        study.sampler = instantiate(self.sampler)
        trials = Trials(optuna, study, whole, space, fixed, self.n_trials)
        status = SweepStatus(launcher.at_once, expected=self.n_trials)
        print(
            f"kdlab: {self.n_trials} trials in {home}; the same command goes on with those that are not finished",
            flush=True,
        )
        display = display_of(status, name, sys.stdout)
        try:
            jobs = trials.first(self.n_jobs or launcher.at_once or 1)
            stopped = Scheduler(launcher, status, display, trials.next).run(jobs)
        finally:
            display.close()
        return status, stopped

    def _space(self, whole: Expansion) -> tuple[list[Override], list[str]]:
        """What is searched over, and the overrides that all jobs share."""
        if len(whole.grids) > 1:
            raise UserError(
                f"+sweep={whole.name} has {len(whole.grids)} grids, and a search has one: give its overrides themselves"
            )
        lines = parsed([*(f"{spellings.key(key)}={value}" for key, value in self.params.items()), *whole.grids[0]])
        last = {one.get_key_element(): one for one in lines}
        space = [one for one in last.values() if one.is_sweep_override()]
        if not space:
            raise UserError(
                "hydra/sweeper=optuna: nothing is searched over; for example 'select.ratio=interval(0.1,0.5)'"
            )
        return space, [str(one.input_line) for one in last.values() if not one.is_sweep_override()]


class Trials:
    """The jobs of a study: those that an earlier command began or that failed first, then new ones until `wanted`."""

    def __init__(
        self, optuna: Any, study: Any, whole: Expansion, space: Sequence[Override], fixed: Sequence[str], wanted: int
    ) -> None:
        self.optuna, self.study, self.whole, self.fixed, self.wanted = optuna, study, whole, list(fixed), wanted
        self.space = {one.get_key_element(): _distribution(optuna, one) for one in space}
        self._asked: dict[int, int] = {}  # trial by job
        self._again: list[Any] = []
        self._failed = 0

    def first(self, at_once: int) -> list[SweepJob]:
        """The jobs to begin with; all that are finished already are among them."""
        state = self.optuna.trial.TrialState
        known = [trial for trial in self.study.trials if trial.state in (state.COMPLETE, state.RUNNING)]
        self._again = [trial for trial in known if trial.state == state.RUNNING]
        settled = {tuple(sorted(trial.params.items())) for trial in known}
        for trial in self.study.trials:
            if trial.state == state.FAIL and tuple(sorted(trial.params.items())) not in settled:
                settled.add(tuple(sorted(trial.params.items())))
                self.study.enqueue_trial(trial.params)
        done = [self._job(trial) for trial in known if trial.state == state.COMPLETE][: self.wanted]
        return [*done, *(job for _ in range(at_once) for job in self._new())]

    def next(self, ended: JobStatus) -> list[SweepJob]:
        """Tell the study what became of a job; the next one, if there is one to do."""
        number = self._asked.pop(ended.job.number, None)
        if number is None:
            return []  # known to be finished
        if ended.state == "done" and ended.objective is not None:
            self.study.tell(number, ended.objective.value, skip_if_finished=True)
        elif ended.state != "stopped":
            self._failed += 1  # else a search whose jobs all fail would never end
            self.study.tell(number, state=self.optuna.trial.TrialState.FAIL, skip_if_finished=True)
        return self._new() if ended.state != "stopped" else []

    def _new(self) -> list[SweepJob]:
        if self._again:
            trial = self._again.pop(0)
            missing = [name for name in self.space if name not in trial.params]
            if missing:  # killed between asking and beginning
                self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
                return self._new()
        else:
            states = self.optuna.trial.TrialState
            counted = [t for t in self.study.trials if t.state in (states.COMPLETE, states.RUNNING)]
            if len(counted) + self._failed >= self.wanted:
                return []
            trial = self.study.ask(self.space)
        try:
            job = self._job(trial)
        except UserError as error:  # values that do not go together: each was tried beside the first ones of the others
            print(f"kdlab: a trial is left out: {error}", file=sys.stderr, flush=True)
            self._failed += 1
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            return self._new()
        self._asked[job.number] = trial.number
        return [job]

    def _job(self, trial: Any) -> SweepJob:
        values = [f"{name}={trial.params[name]}" for name in self.space]
        return self.whole.job(trial.number, [*self.fixed, *values])[0]


def _digest(direction: str, space: Sequence[Override]) -> str:
    """Another search, over other ranges, is another study: Optuna refuses to mix them."""
    lines = [direction, *sorted(str(one.input_line) for one in space)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def _journal(optuna: Any, path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def _distribution(optuna: Any, one: Override) -> Any:
    """The distribution of Optuna's that a sweep of Hydra's asks for; a choice is among the texts of overrides."""
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
    """Jobs at both ends, or at each choice, of every search range: what is wrong with one shows before the first."""
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
