"""Costs of a finished run as lines: its own, and those of its preparation."""

from __future__ import annotations

from typing import Any

from kdlab.runs.closing import costs
from kdlab.runs.closing.scores import is_saving, taught


def cost(result: dict[str, Any]) -> list[str]:
    """Lines of the run's own costs beside those of distillation on all data, and of its checkpoints."""
    ledger = result["ledger"]
    queries, flops, seconds, gain = (ledger[name] for name in ("teacher_queries", "flops", "seconds", "speedup"))
    if not is_saving(result):
        gain = dict.fromkeys(gain)
    if taught(result):
        lines = [
            f"cost                     {'this run':>11}  {'all data':>11}  {'saved':>7}",
            f"  teacher queries        {queries['total']:>11,}  {ledger['rows_seen']:>11,}  {_times(gain['queries'])}",
            *([f"  answered from a cache  {queries['cached']:>11,}"] if queries["cached"] else []),
            *(
                [f"  read, and not kept     {queries['unkept']:>11,}  teacher answers of rows that selection left out"]
                if queries.get("unkept")
                else []
            ),
            *_positions(result),
            f"  model FLOPs            {si(flops['total']):>11}  {si(flops['all_data']):>11}  {_times(gain['flops'])}",
            f"  wall-clock             {duration(seconds['training']):>11}  {duration(seconds['all_data']):>11}  {_times(gain['wallclock'])}",
        ]
        lines += paid(result)
    else:
        lines = [f"cost: no teacher, {si(flops['total'])}FLOPs, {duration(seconds['training'])}"]
    lines += within_budget(result)
    if kept := result.get("checkpoints"):  # results of an older kdlab have none
        lines.append(
            f"checkpoints: {kept['written']:,} written in {duration(kept['seconds'])}, {kept['share']:.1%} of the run"
        )
    return lines


def _positions(result: dict[str, Any]) -> list[str]:
    """A line on the positions that selection has kept of all with a label; none where whole rows are chosen."""
    found = costs.positions_kept(result)
    if found is None:
        return []
    kept, seen = found
    return [f"  positions learnt       {kept:>11,}  {seen:>11,}  {kept / max(1, seen):7.1%} of them"]


def within_budget(result: dict[str, Any]) -> list[str]:
    """A line on what the budget allowed, and what of it was spent in how many steps; none without a budget."""
    budget = result.get("budget")
    if not budget:
        return []
    form = {"queries": "{:,.0f} queries", "price": "a price of {:,.4g}"}
    shown = {"flops": lambda v: f"{si(v)}FLOPs", "seconds": duration}
    parts = []
    for kind, amount in budget["asked"].items():
        words = shown.get(kind, form.get(kind, "{}").format)
        parts.append(f"{words(budget['spent'][kind])} of {words(amount)}")
    steps = f"{budget['spent']['steps']:,} of {budget['planned']['steps']:,} planned steps"
    counted = " with preparation" if budget["preparation"] else ""
    return [f"budget: {', '.join(parts)} spent{counted}, in {steps}"]


def paid(result: dict[str, Any]) -> list[str]:
    """A line on what the run saved once an assistant or a module is counted, and from which run on that pays; none
    without one."""
    if not is_saving(result) or not costs.beyond_teacher(result):
        return []
    runs = costs.pays_from(result)
    gain = _times(costs.gains(result, with_preparation=True)["flops"]).strip()
    when = {None: "no cost recorded", 0: "it never pays", 1: "it pays in this run"}.get(
        runs, f"it pays from run {runs} on"
    )
    return [f"  FLOPs saved with the preparation beyond the teacher: {gain}; {when}"]


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
