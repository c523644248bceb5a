"""Groups of runs by task, each tested against its baseline over the seeds that both have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdlab.errors import UserError, nearest
from kdlab.models.head import head_of_result
from kdlab.reporting import statistics
from kdlab.reporting.seed_groups import Group, Run, distance, grouped
from kdlab.reporting.statistics import Paired

DEFAULT = "random selection at the same ratio, else vanilla KD, else the first group"
# Kinds of baselines, and the kinds that a group of each kind is compared with.
RANDOM, VANILLA, WHOLE = 0, 1, 2
_ALLOWED = {None: (RANDOM, VANILLA, WHOLE), RANDOM: (VANILLA, WHOLE), VANILLA: (), WHOLE: (VANILLA,)}


@dataclass
class ComparisonLine:
    """A group: `values` of the metric by seed, and `found`, its test against `baseline` (None: no common seed).

    `holm`: p adjusted for all tests made together; None where there was no test."""

    group: Group
    values: dict[int, float]
    baseline: Group | None = None
    found: Paired | None = None
    holm: float | None = None


@dataclass
class Comparison:
    """The groups of one task, by one metric."""

    task: str
    metric: str
    lines: list[ComparisonLine]

    @property
    def lower(self) -> bool:
        """True for losses, where lower is better."""
        return self.metric.startswith("loss")

    @property
    def unit(self) -> str:
        """The unit of tables and figures: losses unscaled, scores times 100."""
        return self.metric if self.lower else f"{self.metric} x 100"

    @property
    def described(self) -> str:
        """The unit, and the direction of improvement."""
        return f"{self.unit}, {'lower' if self.lower else 'higher'} is better"

    @property
    def tested(self) -> list[Paired]:
        """The tests that were possible."""
        return [line.found for line in self.lines if line.found is not None and line.found.p is not None]


def compare(
    runs: Sequence[Run],
    metric: str | None = None,
    baseline: str | None = None,
    notify: Callable[[str], None] = print,
) -> list[Comparison]:
    """A comparison for each task, in the order of their first runs, by `metric` (default: score; on text: loss).

    `baseline`: part of the name of the group that all are compared with (default: DEFAULT). `notify` receives
    a message for each run that is left out. UserError where runs, names or metric do not fit together.
    """
    stages = {run.stage: run for run in reversed(runs)}
    if len(stages) > 1:
        found = ", ".join(f"{stage} ({run.folder})" for stage, run in sorted(stages.items()))
        raise UserError(f"runs of different stages cannot be compared: {found}; name the folders of one stage")
    metric = metric or head_of_result(runs[0].result).metric
    tasks: dict[str, list[Run]] = {}
    for run in _measured(runs, metric, notify):
        tasks.setdefault(run.task, []).append(run)
    found = [_comparison(task, members, metric, baseline) for task, members in tasks.items()]
    tested = [(line, p) for one in found for line in one.lines if line.found and (p := line.found.p) is not None]
    for (line, _), adjusted in zip(tested, statistics.holm([p for _, p in tested]), strict=True):
        line.holm = adjusted
    return found


def _measured(runs: Sequence[Run], metric: str, notify: Callable[[str], None]) -> list[Run]:
    """The runs whose student has a number for the metric."""
    known = {name for run in runs for name in run.result["metrics"]["student"]}
    if metric not in known:
        raise UserError(f"no run has a metric called {metric!r}; {nearest(metric, known)}")
    measured = []
    for run in runs:
        value = run.result["metrics"]["student"].get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            measured.append(run)
        else:
            notify(f"left out, {f'no {metric}' if value is None else f'{metric} is {value}'}: {run.folder}")
    if not measured:
        raise UserError(f"no run has a number as its {metric}")
    return measured


def _comparison(task: str, runs: Sequence[Run], metric: str, baseline: str | None) -> Comparison:
    groups = grouped(runs)
    lines = [
        ComparisonLine(
            group, {seed: float(run.result["metrics"]["student"][metric]) for seed, run in sorted(group.runs.items())}
        )
        for group in groups
    ]
    chosen = _defaults(groups) if baseline is None else [_named(baseline, groups, task)] * len(groups)
    for line, place in zip(lines, chosen, strict=True):
        if place is None or lines[place] is line:
            continue
        line.baseline = groups[place]
        theirs = lines[place].values
        common = [seed for seed in line.values if seed in theirs]
        if common:
            line.found = statistics.paired([line.values[seed] for seed in common], [theirs[seed] for seed in common])
    return Comparison(task, metric, lines)


def _named(what: str, groups: Sequence[Group], task: str) -> int:
    """The place of the group whose name is `what`, or has it in it."""
    names = [group.name for group in groups]
    found = [name for name in names if name == what] or [name for name in names if what in name]
    if not found:
        raise UserError(f"--baseline {what!r}: {task} has no such group; {nearest(what, names)}")
    if len(found) > 1:
        raise UserError(f"--baseline {what!r} could be {' or '.join(found)} ({task}): give more of the name")
    return names.index(found[0])


def _defaults(groups: Sequence[Group]) -> list[int | None]:
    """The place of each group's baseline, by DEFAULT; of several the one that differs least from the group.

    Where there is no vanilla KD, whole batches with other knowledge or teachers take its place. A group that others are compared
    with, and that has no better one itself, is not compared with the first: that would repeat a result.
    """
    places: list[int | None] = []
    for group in groups:
        kinds = [_kind(other, group.one.ratio) if other is not group else None for other in groups]
        allowed = _ALLOWED[_kind(group, group.one.ratio)]
        found = [(kind, distance(group, groups[i]), i) for i, kind in enumerate(kinds) if kind in allowed]
        places.append(min(found)[2] if found else None)
    used = set(places)
    return [0 if place is None and i > 0 and i not in used else place for i, place in enumerate(places)]


def random_counterpart(group: Group, groups: Sequence[Group]) -> Group | None:
    """The group that differs only by random selection at the same ratio; None for random and full-data groups."""
    if group.one.ratio == 1 or group.one.select == "random":
        return None
    found = [other for other in groups if _kind(other, group.one.ratio) == RANDOM and not distance(group, other)]
    return found[0] if found else None


def full_data_counterpart(group: Group, groups: Sequence[Group]) -> Group | None:
    """The full-data group (ratio 1, with a teacher) that differs least in its settings; None for a full-data group."""
    if group.one.ratio == 1:
        return None
    kinds = [(_kind(other, 1.0), distance(group, other), i) for i, other in enumerate(groups) if other.one.ratio == 1]
    found = [(away, kind, i) for kind, away, i in kinds if kind is not None]
    return groups[min(found)[2]] if found else None


def _kind(group: Group, ratio: float) -> int | None:
    """The kind of baseline that a group is for one that selects `ratio` of its rows; None: no baseline."""
    run = group.one
    if run.ratio < 1:
        return RANDOM if run.select == "random" and run.ratio == ratio else None
    if not run.taught:
        return None
    policy = (run.result.get("policy") or {}).get("name", "fixed")
    one_teacher = run.result.get("adopt", "single") == "single"
    return VANILLA if (run.result.get("knowledge"), policy) == ("response", "fixed") and one_teacher else WHOLE
