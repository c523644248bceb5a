"""Many runs in one table: how good students are against the ratio of rows that query the teacher, or its temperature.

Runs are compared that differ in nothing but what is asked about, and the seed: any other difference in their
configurations makes another panel, which says what differs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.config import spellings
from kdlab.errors import UserError, nearest, one_line
from kdlab.plotting import style
from kdlab.reporting import seed_groups
from kdlab.reporting.score_columns import score_on_test
from kdlab.reporting.seed_groups import Facts, Run
from kdlab.runs.closing import costs

if TYPE_CHECKING:
    from kdlab.reporting.analyses.one_run import AnalysisResult

COSTS = ("queries", "flops", "seconds")
MEASURED = ("seeds", "mean", "std", *COSTS, *(f"total_{name}" for name in COSTS), "preparation_measured")


def ratio(paths: Sequence[Path], notify: Callable[[str], None] = print) -> AnalysisResult:
    """Score against selection ratio, one line a strategy, mean over seeds. AdaDS Fig. 3, Dynamic KD Fig. 3.

    Runs at ratio 1 select nothing: they are the level that the lines are read against. Table: task, setting (what sets
    a panel apart), select, ratio, seeds, mean and std (sample, empty for one seed) of the score (of the masked-LM loss
    for runs on text), and means of queries, flops and seconds, of the runs alone and (total) with their preparation.
    """
    table = by_ratio(read(paths, notify))
    columns = ("task", "setting", "select", "ratio", *MEASURED)
    title = "How good the student is, by the share of the rows that query the teacher"
    return analysis(columns, table, "ratio", title, "selection ratio")


def by_ratio(runs: Sequence[Run], metric: str | None = None) -> list[dict[str, Any]]:
    """The table of `ratio`, of a metric that all runs have (default: as there), with its `values`, (seed, value), and those `on_test` by seed; `loss`: whether they are losses."""
    select = [_select(run) for run in runs]
    at = [run.result["select"]["ratio"] for run in runs]
    return _table(runs, _without(runs, "select"), select, "ratio", at, metric)


def by_budget(runs: Sequence[Run], kind: str, metric: str | None = None) -> list[dict[str, Any]]:
    """The table of the runs with a budget of a `kind`, in the column "budget", one line a strategy; as `by_ratio`.

    Seeds of one `budget.like` may cost as much as different runs: they stand at the mean of their budgets.
    """
    some = [run for run in runs if kind in _asked(run)]
    own = (f"budget.{kind}", "budget.like", "budget.by")
    bare = [replace(run, facts=_except(run.facts, *own), used=_except(run.used, *own)) for run in some]
    seeds: dict[str, list[float]] = {}
    for run in some:
        seeds.setdefault(run.key, []).append(_asked(run)[kind])
    at = [statistics.fmean(seeds[run.key]) for run in some]
    ratios = {run.ratio for run in some} - {1.0}
    names = [f"{_name(run)} {100 * run.ratio:g} %" if len(ratios) > 1 and run.ratio < 1 else _name(run) for run in some]
    lines = list(zip(names, [_select(run)[1] for run in bare], strict=True))
    return _table(bare, _without(bare, "select"), lines, "budget", at, metric)


def temperature(paths: Sequence[Path], notify: Callable[[str], None] = print) -> AnalysisResult:
    """Score against the temperature of the distillation loss, mean over seeds. Dynamic KD, Fig. 7 (appendix B).

    The temperature is that of the first term with one. Table as `ratio`'s, with the temperature beside the ratio.
    """
    runs = read(paths, notify)
    warm = [(run, t) for run in runs if (t := _temperature(run)) is not None]
    if not warm:
        raise UserError("none of these runs has a temperature (knowledge.terms.<name>.term.temperature)")
    if len(warm) < len(runs):
        notify(f"{len(runs) - len(warm)} runs whose knowledge has no temperature are left out")
    runs, at = [run for run, _ in warm], [t for _, t in warm]
    names = [
        f"{name} {100 * run.result['select']['ratio']:g} %" for run, name in zip(runs, map(_name, runs), strict=True)
    ]
    lines = list(zip(names, [_below(run, "select") for run in runs], strict=True))
    table = _table(runs, _without(runs, "select", "temperature"), lines, "temperature", at)
    columns = ("task", "setting", "select", "ratio", "temperature", *MEASURED)
    return analysis(columns, table, "temperature", "How good the student is, by temperature", "temperature")


def against(paths: Sequence[Path], key: str, notify: Callable[[str], None] = print) -> AnalysisResult:
    """Score against the setting `key` (dotted, a number), one line for all that differs otherwise, mean over seeds.

    Dynamic KD Fig. 2 and KSM Fig. 4 (`student.layers`), KSM Fig. 3, 5 and 6 (`weigh.episodes`, `weigh.phase`), DeKD
    Fig. 3 (`adopt.assistant.layers`). Table as `ratio`'s, with the setting and the group, named as in `kdlab.compare`.
    """
    runs, key = read(paths, notify), spellings.key(key)
    some = [run for run in runs if _number(run.facts.get(key)) is not None]
    if not some:
        numbers = {k for run in runs for k, value in run.facts.items() if _number(value) is not None}
        raise UserError(f"--key {key}: none of these runs has a number there; {nearest(key, numbers)}")
    if len(some) < len(runs):
        notify(f"{len(runs) - len(some)} runs without a number in {key} are left out")
    bare = [replace(run, facts=_except(run.facts, key), used=_except(run.used, key)) for run in some]
    names: dict[tuple[str, str], str] = {}
    for task in {run.task for run in bare}:
        for group in seed_groups.grouped([run for run in bare if run.task == task]):
            names[task, group.key] = group.name
    lines: list[tuple[str, Facts]] = [(names[run.task, run.key], {}) for run in bare]
    table = _table(some, [{} for _ in some], lines, key, [float(run.facts[key]) for run in some])
    columns = ("task", "select", "ratio", key, *MEASURED)
    return analysis(columns, table, key, f"How good the student is, by {key}", key)


# ---- runs


def read(paths: Sequence[Path], notify: Callable[[str], None]) -> list[Run]:
    """The finished runs among `paths` and in the folders below them (`seed_groups.read`) whose score is a number; each
    run that is left out is named with the reason."""
    runs, left = seed_groups.read(paths)
    for folder, why in left.items():
        notify(one_line(f"left out, {why}: {folder}"))
    scored = []
    for run in runs:
        value = run.result["metrics"]["student"].get(_metric(run))
        if value is not None and math.isfinite(value):
            scored.append(run)
        else:
            notify(
                one_line(
                    f"left out, {f'no {_metric(run)}' if value is None else f'{_metric(run)} is {value}'}: {run.folder}"
                )
            )
    if not scored:
        raise UserError("no run has a number as its score or loss")
    return scored


def _metric(run: Run) -> str:
    """The task's score, or the masked-LM loss."""
    return "score" if "score" in run.result["metrics"]["student"] else "loss"


def _number(value: Any) -> float | None:
    """A setting that is a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _below(run: Run, group: str) -> Facts:
    return {key: value for key, value in run.used.items() if key.startswith(f"{group}.")}


def _except(facts: Facts, *keys: str) -> Facts:
    return {k: v for k, v in facts.items() if k not in keys}


def _asked(run: Run) -> Mapping[str, float]:
    """The budget of a run by kind; that of `budget.like` as read from its run."""
    return (run.result.get("budget") or {}).get("asked") or {}


def _without(runs: Sequence[Run], *apart: str) -> list[Facts]:
    """Each run's facts, as they are shown, without groups or last parts of keys called as in `apart`."""
    return [
        {k: v for k, v in facts.items() if not {k.split(".")[0], k.split(".")[-1]} & set(apart)}
        for facts in seed_groups.shown_facts(runs)
    ]


def _name(run: Run) -> str:
    return "all" if run.result["select"]["ratio"] == 1 else str(run.result["select"]["name"])


def _select(run: Run) -> tuple[str, Facts]:
    """The line a run stands on: its selection's name and settings, which mean nothing at ratio 1."""
    settings = {key: value for key, value in _below(run, "select").items() if key != "select.ratio"}
    return _name(run), {} if _name(run) == "all" else settings


def _temperature(run: Run) -> float | None:
    terms = [
        key[: -len(".weight")] for key in run.used if key.startswith("knowledge.terms.") and key.endswith(".weight")
    ]
    values = [_number(run.used.get(f"{term}.term.temperature")) for term in terms]  # terms of weight 0 are not used
    return next((value for value in values if value is not None and value > 0), None)


# ---- groups


def _told_apart(named: Sequence[tuple[str, Facts]]) -> list[str]:
    """For each (name, facts) what sets it apart from others of that name: "key=value, ...", or "". Where two groups'
    `name` differs, that alone is said of the group."""
    of: dict[str, list[Facts]] = {}
    for name, facts in named:
        of.setdefault(name, []).append(facts)
    differ: dict[str, list[str]] = {}
    for name, members in of.items():
        keys = [k for k in dict.fromkeys(k for m in members for k in m) if len({repr(m.get(k)) for m in members}) > 1]
        groups = {key.removesuffix(".name") for key in keys if key.endswith(".name")}
        differ[name] = [k for k in keys if k.endswith(".name") or k.split(".")[0] not in groups]
    return [", ".join(f"{key}={facts.get(key)}" for key in differ[name]) for name, facts in named]


def _table(
    runs: Sequence[Run],
    settings: Sequence[Facts],
    lines: Sequence[tuple[str, Facts]],
    x: str,
    at: Sequence[float],
    metric: str | None = None,
) -> list[dict[str, Any]]:
    """One row for each task, setting, line and place `at` on the x axis, over the seeds."""
    panels = _told_apart([(run.task, facts) for run, facts in zip(runs, settings, strict=True)])
    apart = _told_apart(
        [(f"{run.task} {panel} {name}", facts) for run, panel, (name, facts) in zip(runs, panels, lines, strict=True)]
    )
    cells: dict[tuple[str, str, str, float], list[Run]] = {}
    for run, panel, (name, _), more, place in zip(runs, panels, lines, apart, at, strict=True):
        line = f"{name} ({more})" if more else name
        cells.setdefault((run.task, panel, line, float(place)), []).append(run)

    def by_seed(members: Sequence[Run]) -> list[tuple[int, float]]:
        return [(run.seed, float(run.result["metrics"]["student"][metric or _metric(run)])) for run in members]

    def on_test(members: Sequence[Run]) -> dict[int, float]:
        found = {run.seed: score_on_test(run, metric or _metric(run)) for run in members}
        return {seed: value for seed, value in found.items() if value is not None}

    return [
        {
            "task": task,
            "setting": panel,
            "select": line,
            "ratio": members[0].result["select"]["ratio"],
            x: place,
            "seeds": len(members),
            "mean": statistics.mean([value for _, value in values]),
            "std": statistics.stdev([value for _, value in values]) if len(values) > 1 else None,
            "values": values,
            "on_test": on_test(members),
            **_costs(members),
            "loss": (metric or _metric(members[0])).startswith("loss"),
        }
        for (task, panel, line, place), members in sorted(cells.items())
        for values in (by_seed(members),)
    ]


def _costs(members: Sequence[Run]) -> dict[str, float | bool | None]:
    """Mean costs of runs, alone and (total) with their preparation; a dear part of it may have recorded no cost."""
    own, total = costs.mean([run.own for run in members]), costs.mean([run.total for run in members])
    return {
        **{name: getattr(own, name) for name in COSTS},
        **{f"total_{name}": getattr(total, name) for name in COSTS},
        "preparation_measured": total.measured,
    }


def analysis(columns: Sequence[str], table: list[dict[str, Any]], x: str, title: str, below: str) -> AnalysisResult:
    """The result of an analysis: the table, and its figure against the column `x`, labelled `below`.

    A panel of the figure needs two places on the x axis; the others are in the table alone. Without a panel it shows nothing.
    """
    from kdlab.reporting.analyses.one_run import AnalysisResult  # brings torch, which tables do without

    places: dict[tuple[str, str], set[float]] = {}
    for row in table:
        places.setdefault((row["task"], row["setting"]), set()).add(row[x])
    few = [panel for panel, found in places.items() if len(found) < 2]
    drawn = [row for row in table if (row["task"], row["setting"]) not in few]
    if not drawn:
        found = ", ".join(f"{place:g}" for place in sorted({row[x] for row in table}))
        alike = "" if len(places) == 1 else " that differ in nothing else"
        nothing = f"a figure against the {below} needs runs at two or more of it{alike}; found {found}"
        return AnalysisResult(columns, table, _drawn(table, x, title, below), nothing)
    remarks = [
        f"not drawn, at one {below} ({places[panel].copy().pop():g}): {' · '.join(filter(None, panel))}"
        for panel in few
    ]
    return AnalysisResult(columns, table, _drawn(drawn, x, title, below), "", remarks)


def _drawn(table: Sequence[Mapping[str, Any]], x: str, title: str, below: str) -> Any:
    panels = list(dict.fromkeys((row["task"], row["setting"]) for row in table))
    each = 2.75
    figure = style.canvas(0.45 + each * len(panels), title, "mean over seeds; bars: one standard deviation")
    for i, panel in enumerate(panels):
        rows = [row for row in table if (row["task"], row["setting"]) == panel]
        scale, what = (1, "masked-LM loss (nats)") if rows[0]["loss"] else (100, "score x 100")
        axes = style.panel(figure, 0.55 + each * (len(panels) - 1 - i), each - 0.95)
        curves: dict[str, list[tuple[float, float]]] = {}
        spread: dict[str, list[float]] = {}
        levels: dict[str, float] = {}
        for row in rows:
            if x == "ratio" and row["ratio"] == 1:
                levels["full data"] = scale * row["mean"]
                continue
            curves.setdefault(row["select"], []).append((row[x], scale * row["mean"]))
            spread.setdefault(row["select"], []).append(math.nan if row["std"] is None else scale * row["std"])
        style.lines(axes, curves, levels, spread)
        style.caption(axes, "   ·   ".join(part for part in (panel[0], panel[1], what) if part))
        places = sorted({place for points in curves.values() for place, _ in points})
        if x == "ratio":
            style.shares(axes, places)
        elif places:
            if x == "temperature":
                axes.set_xscale("log")
            axes.set_xticks(places, [f"{place:g}" for place in places])
            axes.set_xticks([], minor=True)
        axes.set_xlabel(below)
    return figure
