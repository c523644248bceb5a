"""Groups of runs by task, each tested over the seeds that both have against a baseline in the same settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdlab.errors import UserError, nearest
from kdlab.models.head import head_of_result
from kdlab.plotting.metrics import MetricScale, metric_scale, scored_by
from kdlab.reporting import baselines, statistics
from kdlab.reporting.comparability import check_across
from kdlab.reporting.seed_groups import Group, Run, grouped
from kdlab.reporting.statistics import Paired
from kdlab.runs.closing.question import QUESTION


@dataclass
class ComparisonLine:
    """A group: `values` of the metric by seed, and `found`, its test against `baseline` (None: no common seed).

    `unlike`: settings beyond those in question in which the baseline differs, so that nothing was tested; "" if none.
    `holm`: p adjusted for all tests made together; None where there was no test."""

    group: Group
    values: dict[int, float]
    baseline: Group | None = None
    found: Paired | None = None
    holm: float | None = None
    unlike: str = ""

    @property
    def sure(self) -> bool:
        """True if the difference from the baseline is more than chance."""
        return self.holm is not None and self.holm < statistics.ALPHA


@dataclass
class Comparison:
    """The groups of one task, by one metric; `across`: the settings in which a group and its baseline may differ."""

    task: str
    metric: str
    lines: list[ComparisonLine]
    across: tuple[str, ...] = QUESTION

    @property
    def lower(self) -> bool:
        """True for losses, where lower is better."""
        return self.metric.startswith("loss")

    @property
    def scale(self) -> MetricScale:
        """The metric as tables and figures print it: losses unscaled, scores times 100."""
        runs = [line.group.one for line in self.lines]
        by = {scored_by(run.result, run.facts.get("data.metric")) for run in runs}
        return metric_scale(self.metric, by.pop() if len(by) == 1 else ())

    @property
    def unit(self) -> str:
        """The metric's own name and unit, such as "accuracy (%)"."""
        return self.scale.unit

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
    across: Sequence[str] = (),
) -> list[Comparison]:
    """A comparison for each task, in the order of their first runs, by `metric` (default: score; on text: loss).

    `baseline`: part of the name of the groups to compare with (default: `question.BASELINE`). `across`: settings that may
    differ from the baseline's, beside `QUESTION`. `notify` receives a message for each run that is left out. UserError
    where runs, names, settings or metric do not fit together.
    """
    stages = {run.stage: run for run in reversed(runs)}
    if len(stages) > 1:
        found = ", ".join(f"{stage} ({run.folder})" for stage, run in sorted(stages.items()))
        raise UserError(f"runs of different stages cannot be compared: {found}; name the folders of one stage")
    metric = metric or head_of_result(runs[0].result).metric
    tasks: dict[str, list[Run]] = {}
    for run in _measured(runs, metric, notify):
        tasks.setdefault(run.task, []).append(run)
    groups = {task: grouped(members) for task, members in tasks.items()}
    check_across(across, [group for members in groups.values() for group in members])
    asked = (*QUESTION, *across)
    found = [_comparison(task, members, metric, baseline, asked) for task, members in groups.items()]
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


def _comparison(
    task: str, groups: Sequence[Group], metric: str, baseline: str | None, across: tuple[str, ...]
) -> Comparison:
    lines = [
        ComparisonLine(
            group, {seed: float(run.result["metrics"]["student"][metric]) for seed, run in sorted(group.runs.items())}
        )
        for group in groups
    ]
    chosen = baselines.defaults(groups, across) if baseline is None else baselines.named(baseline, groups, task, across)
    for line, choice in zip(lines, chosen, strict=True):
        if choice is None:
            continue
        line.baseline, line.unlike = groups[choice.place], choice.unlike
        theirs = lines[choice.place].values
        common = [seed for seed in line.values if seed in theirs]
        if common and not line.unlike:
            line.found = statistics.paired([line.values[seed] for seed in common], [theirs[seed] for seed in common])
    return Comparison(task, metric, lines, across)
