"""A forecast as lines: what a run costs, its preparation, and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdlab.runs.closing.cost_lines import duration, si
from kdlab.storage.files import readable_size

if TYPE_CHECKING:
    from kdlab.runs.forecast.forecast import Forecast, TrainingCost

PARTS = {
    "student_forward": "student, forward",
    "student_backward": "student, backward",
    "teacher_forward": "teachers",
    "scoring": "scoring",
    "observation": "observation",
}


def lines(found: Forecast) -> list[str]:
    """The plan that `kdlab plan` prints."""
    run = found.run
    devices = found.timed["devices"]
    shown = [
        f"plan of {run.steps:,} steps on {devices} device{'s' * (devices > 1)}, by {found.timed['steps']} timed steps",
        *_table(["cost", "this run", *found.baselines], [run, *found.baselines.values()]),
        "FLOPs by part: " + ", ".join(f"{PARTS.get(name, name)} {si(v)}" for name, v in found.flops.items() if v),
        f"beside the training: evaluations {duration(found.evaluation)}, probes {duration(found.probes)}",
        f"memory at the peak: {readable_size(found.memory)} on each device; disk: {readable_size(found.disk)}",
    ]
    if found.rows:
        shown.append(found.rows)
    return [*shown, *_preparation(found), f"in all: {duration(found.whole)}"]


def _table(header: Sequence[str], costs: Sequence[TrainingCost]) -> list[str]:
    rows = [
        ["steps", *(f"{one.steps:,}" for one in costs)],
        ["teacher queries", *(f"{one.queries:,.0f}" for one in costs)],
        ["model FLOPs", *(si(one.flops) for one in costs)],
        ["training", *(duration(one.seconds) for one in costs)],
    ]
    if any(one.price is not None for one in costs):
        rows.append(["price", *("-" if one.price is None else f"{one.price:,.4g}" for one in costs)])
    widths = [max(len(row[i]) for row in [header, *rows]) + 2 for i in range(len(header))]
    return [
        "".join(f"{cell:<{width}}" if not i else f"{cell:>{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in [list(header), *rows]
    ]  # fmt: skip


def _preparation(found: Forecast) -> list[str]:
    if not found.preparation:
        return []
    shown = ["preparation"]
    for one in found.preparation:
        cost = f"{one.queries:,.0f} queries, {si(one.flops)}FLOPs, {duration(one.seconds)}"
        if one.bytes:
            cost += f", {readable_size(one.bytes)} on disk"
        shown.append(f"  {one.what}: {'found, costs nothing' if one.found else f'to be made: {cost}'}")
    return shown
