"""The summary that a finished run prints: scores, costs, and the next command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdlab.config import quoting
from kdlab.config.saved import read_config
from kdlab.errors import UserError
from kdlab.models.head import head_of_result
from kdlab.runs.closing import costs
from kdlab.runs.closing.costs import RunCost
from kdlab.runs.finished import read_result
from kdlab.runs.folders import IRRELEVANT_KEYS
from kdlab.runs.settings_used import below, settings_used

SHOWN = ("loss", "accuracy", "f1", "matthews", "pearson", "spearman", "score")


def table(result: dict[str, Any], folder: Path, beside: str = "") -> str:
    """The closing table: scores of the student, its teachers and baselines; costs against all-data distillation; the next
    command. `beside`: the comparison with random selection (`beside_random`)."""
    ledger = result["ledger"]
    queries, flops, seconds, gain = (ledger[name] for name in ("teacher_queries", "flops", "seconds", "speedup"))
    lines = ["", *quality(result), ""]
    if taught(result):
        lines += [
            f"cost                     {'this run':>11}  {'all data':>11}  {'saved':>7}",
            f"  teacher queries        {queries['total']:>11,}  {ledger['rows_seen']:>11,}  {_times(gain['queries'])}",
            *([f"  answered from a cache  {queries['cached']:>11,}"] if queries["cached"] else []),
            f"  model FLOPs            {si(flops['total']):>11}  {si(flops['all_data']):>11}  {_times(gain['flops'])}",
            f"  wall-clock             {duration(seconds['training']):>11}  {duration(seconds['all_data']):>11}  {_times(gain['wallclock'])}",
        ]
    else:
        lines.append(f"cost: no teacher, {si(flops['total'])}FLOPs, {duration(seconds['training'])}")
    if kept := result.get("checkpoints"):  # results of an older kdlab have none
        lines.append(
            f"checkpoints: {kept['written']:,} written in {duration(kept['seconds'])}, {kept['share']:.1%} of the run"
        )
    lines += preparation(result)
    lines += [beside] if beside else []
    figures = "figures/schedule.png, " if result["select"]["ratio"] < 1 else ""
    figures += "figures/knowledge.png, " if (folder / "figures" / "knowledge.png").is_file() else ""
    lines += ["", f"run folder: {folder}   ({figures}metrics.csv, selector.csv, result.json, student/)"]
    if taught(result):
        lines.append(f"next: the baseline of the same size:  {quoting.command(_next(result))}")
    elif head_of_result(result).per_row:
        teacher = quoting.override("teachers.path", folder / "student")
        lines.append(f"next: as a teacher:  {quoting.command(['+exp=adads_finetune', teacher])} ...")
    return "\n".join(lines)


def quality(result: dict[str, Any]) -> list[str]:
    """Lines of scores: a header, the baselines, the student, its teachers."""
    found = result["metrics"]
    columns = [name for name in found["student"] if name.split("_")[0] in SHOWN and name != "score"]
    if len(columns) > 2:
        columns.append("score")
    head, width = head_of_result(result), max(20, *(len(name) + 1 for name in found))
    rows = f" ({result['data']['splits']['dev']['rows']:,} rows)" if head.per_row else ""
    theirs = sorted((name for name in found if teaches(name)), key=lambda name: name == "teacher")  # the main one last
    order = [name for name in found if name not in ("student", *theirs)] + ["student", *theirs]
    lines = [
        f"{head.heldout + rows:<{width + 2}}" + "".join(f"{name.replace('_mismatched', ' mm'):>12}" for name in columns)
    ]
    lines[0] += "" if head.per_row else "   (masked positions)"
    lines[0] += "   (a module was rewarded on these rows)" if rewarded_on_dev(result) else ""
    for name in order:
        cells = (f"{_shown(column, found[name].get(column)):>12}" for column in columns)
        lines.append(f"  {name:<{width}}" + "".join(cells))
    return lines


def rewarded_on_dev(result: dict[str, Any]) -> bool:
    """True if the module that weighs the terms was rewarded on the rows that the student is scored on."""
    return (result.get("policy") or {}).get("reward_data") == "dev"


def teaches(name: str) -> bool:
    """True if a row of scores is a teacher's: "teacher", "teacher NAME" or "assistant"."""
    return name == "assistant" or name.split(" ")[0] == "teacher"


def taught(result: Mapping[str, Any]) -> bool:
    """True if the run has a teacher, by its configuration: a run without one adopts none. Results of an older kdlab, which
    do not say, have the teachers' scores."""
    if "adopt" in result or "teachers" in result:
        return bool(result.get("adopt") or result.get("teachers"))
    return any(teaches(name) for name in result["metrics"])


def preparation(result: dict[str, Any]) -> list[str]:
    """Lines of what was trained before the run and its cost, one per stage, with totals; none without such a stage.

    A dash stands for a value that was not measured (a stage made by an older kdlab); totals leave it out, and the baseline
    without a teacher, which is trained for the comparison.
    """
    stages = result.get("preparation") or []
    if not stages:
        return []
    rows: list[tuple[str, Any, Any, Any]] = []
    for stage in stages:
        aside = ", not in the total" if costs.is_baseline(stage) else ""
        name = f"{stage['what']} ({'now' if stage['made_now'] else 'found'}{aside})"
        rows.append((name, stage["queries"], stage["flops"], stage["seconds"]))
    for name, cost in (("total", costs.prepared(result)), ("with this run", costs.total(result))):
        rows.append((name, cost.queries, cost.flops, cost.seconds))
    width = max(len("cost of preparation, paid once"), *(len(name) + 2 for name, *_ in rows)) + 1
    lines = ["", f"{'cost of preparation, paid once':<{width}}{'queries':>11}  {'model FLOPs':>11}  {'wall-clock':>11}"]
    for name, queries, flops, seconds in rows:
        shown = "-" if queries is None else f"{queries:,}"
        lines.append(
            f"{'  ' + name:<{width}}{shown:>11}  {'-' if flops is None else si(flops):>11}  {duration(seconds):>11}"
        )
    return lines


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.3f}"
        if name.startswith("loss")
        else f"{value:.1%}"
        if name.startswith("accuracy")
        else f"{100 * value:.1f}"
    )


def headline(result: dict[str, Any]) -> str:
    """The student's main score: the task's, in percent, or the masked-LM loss."""
    student = result["metrics"]["student"]
    return f"score {100 * student['score']:.1f}" if "score" in student else f"loss {student['loss']:.3f}"


def beside_random(result: dict[str, Any], folder: Path) -> str:
    """Compare with random selection at the same ratio: the newest finished run in the same output folder with the same
    seed, else any seed, that used the same settings but for the selection. "" without such a run."""
    if result["select"]["name"] == "random" or result["select"]["ratio"] == 1:
        return ""
    mine = _comparable(folder, result)
    found = []
    for other in sorted(folder.parent.iterdir()):
        theirs, _ = read_result(other) if other != folder and other.is_dir() else (None, "")
        if theirs is None or theirs["select"]["name"] != "random":
            continue
        if theirs["select"]["ratio"] == result["select"]["ratio"] and mine == _comparable(other, theirs) is not None:
            found.append((theirs["seed"] == result["seed"], other.name, theirs))
    if not found:
        return ""
    _, name, theirs = max(found, key=lambda one: one[:2])
    lines = [f"beside random at the same ratio ({name}, seed {theirs['seed']})"]
    for who, one in (("this run", result), ("random", theirs)):
        lines.append(f"  {who:<16} {headline(one):<12} {_costs(costs.own(one))}")
        if costs.needed_stages(one):
            lines.append(f"  {'with preparation':<16} {'':<12} {_costs(costs.total(one))}")
    return "\n" + "\n".join(lines)


def _costs(cost: RunCost) -> str:
    least = "" if cost.measured else ">="
    return f"{f'{least}{cost.queries:,}':>9} queries  {least + si(cost.flops):>9}FLOPs  {duration(cost.seconds)}"


def _comparable(folder: Path, result: dict[str, Any]) -> dict[str, Any] | None:
    """The settings that a run used, without those that may differ within a comparison; None if they cannot be read."""
    try:
        found = settings_used(read_config(folder), result, taught(result))
    except (UserError, TypeError, ValueError, AttributeError):
        return None
    apart = (*IRRELEVANT_KEYS, "seed", "select", "name", "artifacts", "no_kd_baseline")
    return {key: value for key, value in found.items() if not any(below(key, name) for name in apart)}


def _next(result: dict[str, Any]) -> list[str]:
    """Overrides of the baseline to run next: constant term weights, random selection, or all data."""
    weighed = (result.get("policy") or {}).get("name", "fixed")
    if result["select"]["ratio"] == 1 and weighed != "fixed":
        own = ("weigh=", "weigh.", "policy=", "policy.", "hydra.run.dir=", "overwrite=", "resume=")
        return [*(o for o in result["command"][3:] if not o.startswith(own)), "weigh=fixed"]
    other = "random" if result["select"]["name"] != "random" else "all"
    own = ("select=", "hydra.run.dir=", "overwrite=", "resume=", *(("select.ratio=",) if other == "all" else ()))
    kept = [override for override in result["command"][3:] if not override.startswith(own)]
    return [*kept, f"select={other}"]


def _times(value: float | None) -> str:
    return "      -" if value is None else f"{value:6.2f}x"


def si(value: float) -> str:
    """A count with an SI prefix, e.g. "14.38 T"; below a million without."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as text: "90.0 s", "2.5 min"; "-" for None."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
