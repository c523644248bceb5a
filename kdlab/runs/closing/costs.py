"""Costs of a finished run from its result.json: its own, those of its preparation, and both together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

NO_TEACHER = "student without a teacher"  # stage of the baseline in results that do not mark it
NEVER = "never"  # in place of the run from which on a preparation pays
MAIN_TEACHER = "teacher,"  # begins the stage of the main teacher, which distillation on all data needs as well


@dataclass(frozen=True)
class RunCost:
    """Teacher queries (rows), model FLOPs and seconds (None: not recorded). `measured`: False if a part recorded no cost,
    so that the numbers are lower bounds."""

    queries: float
    flops: float
    seconds: float | None
    measured: bool = True

    def __add__(self, other: RunCost) -> RunCost:
        seconds = None if self.seconds is None or other.seconds is None else self.seconds + other.seconds
        whole = self.measured and other.measured
        return RunCost(self.queries + other.queries, self.flops + other.flops, seconds, whole)


def own(result: Mapping[str, Any]) -> RunCost:
    """Cost of the run itself, by its ledger."""
    ledger = result["ledger"]
    return RunCost(ledger["teacher_queries"]["total"], ledger["flops"]["total"], ledger["seconds"].get("training"))


def cached(result: Mapping[str, Any]) -> int:
    """Answers that the run took from a teacher cache; they are in no cost."""
    return int(result["ledger"]["teacher_queries"].get("cached") or 0)


def positions_kept(result: Mapping[str, Any]) -> tuple[int, int] | None:
    """Positions of text that a run learnt from, and those that its rows had, where it chose positions; else None."""
    found = result["ledger"].get("positions")
    if not found or result["select"].get("unit", "row") == "row":
        return None
    return int(found["kept"]), int(found["seen"])


def prepared(result: Mapping[str, Any]) -> RunCost:
    """Cost of what was trained for the run before it: teachers, assistants, knowledge selection modules.

    The baseline without a teacher is trained for a comparison and is no part of it. `measured` is False where a stage,
    or the result of an older kdlab, recorded no cost.
    """
    return RunCost(0, 0, 0.0, "preparation" in result) + _sum(needed_stages(result))


def total(result: Mapping[str, Any]) -> RunCost:
    """Cost of the run with all of its preparation, as if nothing of it had been there."""
    return own(result) + prepared(result)


def needed_stages(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages of preparation without which the run could not have been made."""
    return [stage for stage in result.get("preparation") or [] if not is_baseline(stage)]


def is_baseline(stage: Mapping[str, Any]) -> bool:
    """True if a stage of preparation trained a student to compare with."""
    return bool(stage.get("baseline", stage["what"] == NO_TEACHER))


def gains(result: Mapping[str, Any], with_preparation: bool) -> dict[str, float | None]:
    """Times by which the run was cheaper than distillation on all data, in "queries", "flops" and "wallclock".

    With preparation, that of the main teacher counts on both sides, all other stages on the run's. None: not known.
    """
    ledger = result["ledger"]
    recorded: dict[str, Any] = dict(ledger.get("speedup") or {})
    if not with_preparation:
        return {name: recorded.get(name) for name in ("queries", "flops", "wallclock")}
    mine = total(result)
    teacher = _sum([stage for stage in needed_stages(result) if stage["what"].startswith(MAIN_TEACHER)])
    seconds = ledger["seconds"].get("all_data")
    whole = (ledger.get("rows_seen"), ledger["flops"].get("all_data"), seconds)
    pairs = zip(
        whole, (teacher.queries, teacher.flops, teacher.seconds), (mine.queries, mine.flops, mine.seconds), strict=True
    )
    values = [(full + (more or 0)) / cost if full and cost and mine.measured else None for full, more, cost in pairs]
    return dict(zip(("queries", "flops", "wallclock"), values, strict=True))


def beyond_teacher(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The needed stages of preparation that distillation on all data does without: assistants, other teachers, modules."""
    return [stage for stage in needed_stages(result) if not stage["what"].startswith(MAIN_TEACHER)]


def pays_from(*results: Mapping[str, Any]) -> int | None:
    """The number of runs from which on an assistant or a module, made once for all of them, is paid by the FLOPs that each
    saves against distillation on all data: 1 where there is nothing to pay, 0 where it never is.

    Of several runs (seeds) by the means of both. None: not known.
    """
    extra = [_sum(beyond_teacher(result)) for result in results]
    flops = [result["ledger"]["flops"] for result in results]
    if not all(cost.measured for cost in extra) or not all(each.get("all_data") for each in flops):
        return None
    spent = fmean(cost.flops for cost in extra)
    saved = fmean(each["all_data"] - each["total"] for each in flops)
    if spent <= 0:
        return 1
    return math.ceil(spent / saved) if saved > 0 else 0


def saved_with_preparation(result: Mapping[str, Any]) -> dict[str, float | int | str | None]:
    """The entry `saved_with_preparation` of result.json: `gains` with preparation, and `pays_from_run`, a number of runs or
    `NEVER`. None: not known."""
    runs = pays_from(result)
    return {**gains(result, with_preparation=True), "pays_from_run": NEVER if runs == 0 else runs}


def mean(costs: Sequence[RunCost]) -> RunCost:
    """The mean of the costs of runs; of their seconds over those that recorded them."""
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    return RunCost(
        fmean(cost.queries for cost in costs),
        fmean(cost.flops for cost in costs),
        fmean(seconds) if seconds else None,
        all(cost.measured for cost in costs),
    )


def _sum(stages: Sequence[Mapping[str, Any]]) -> RunCost:
    cost = RunCost(0, 0, 0.0)
    for stage in stages:
        found = [stage.get(name) for name in ("queries", "flops", "seconds")]
        queries, flops, seconds = (value or 0 for value in found)
        cost += RunCost(queries, flops, seconds, None not in found)
    return cost
