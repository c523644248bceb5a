"""Numbers that the papers print (`published.csv`), and the rules by which one stands beside a run.

Papers in the file: `adads` (Zhou et al., AdaDS: adaptive data selection for knowledge distillation), `dynamic_kd` (Li et
al. 2021, Dynamic Knowledge Distillation for Pre-trained Language Models), `ksm` (Wang et al. 2023, Improved Knowledge
Distillation for Pre-trained Language Models via Knowledge Selection), `dekd` (Xu et al., Data-Efficient Knowledge
Distillation with Teacher Assistant-Based Dynamic Objective Alignment). `table` is the number of the table in the paper.

The settings always differ (BERT-base, full data, GPUs there), so a printed number is shown beside ours and not compared
with it. AdaDS Table 4 has a table of its own (`kdlab.reporting.glue_scoreboard`). The metric of each AdaDS number is the
transcriber's: the paper prints one number per task and refers to GLUE, where QQP, MRPC and STS-B have two metrics and
their mean counts (its Fig. 3 says "combined score" of QQP).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdlab.data.tasks import registry
from kdlab.reporting.seed_groups import Run

Rule = tuple[str, Mapping[str, str]]

PAPERS = {
    "adads": "Zhou et al., AdaDS: adaptive data selection for knowledge distillation",
    "dynamickd": "Li et al. 2021, Dynamic Knowledge Distillation for Pre-trained Language Models",
    "ksm": "Wang et al. 2023, Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection",
    "dekd": "Xu et al., Data-Efficient Knowledge Distillation with Teacher Assistant-Based Dynamic Objective Alignment",
}
_COLUMN = {"dynamickd": "dynamic_kd"}  # names in published.csv, where they differ
_APART = {("adads", "4")}  # students of the pre-training stage, in kdlab.reporting.glue_scoreboard
_ANY_RATIO = {"without data selection"}  # DeKD does not say whether that is all rows, or half of them at random
_PLAIN = {"knowledge": "response", "policy": "fixed", "adopt": "single"}


def _selects(names: Mapping[str, str]) -> list[Rule]:
    return [(method, {"select": name, **_PLAIN}) for method, name in names.items()]


_WHOLE = {"select": "all", **_PLAIN}
_STATIC = {"random": "random", "margin": "margin", "entropy": "entropy"}
_ADADS = {name: name for name in ("certainty", "cluster", "density", "ensemble", "randmix", "adads", "all")}

# a method's name in the paper, and the select, adopt, knowledge and policy of the runs that it stands beside
RULES: dict[str, list[Rule]] = {
    "adads": _selects({**_STATIC, "conf": "least_confidence", **_ADADS}),
    "dynamickd": [
        *_selects({**_STATIC, "lc": "least_confidence"}),
        ("vanilla kd", _WHOLE),
        ("tinybert", {"select": "all", "knowledge": "tinybert"}),
        ("uncertainty-hard", {**_PLAIN, "adopt": "hard"}),
        ("uncertainty-soft", {**_PLAIN, "adopt": "soft"}),
        ("kd ensemble", {**_PLAIN, "adopt": "ensemble"}),
        ("kd bert-large", {**_PLAIN, "adopt": "largest"}),
        ("kd bert-base", {**_PLAIN, "adopt": "smallest"}),
        ("no kd", {"select": "all", "knowledge": "labels"}),
        ("bert-pkd", {"select": "all", "knowledge": "pkd", "policy": "fixed"}),
        ("uncertainty", {"select": "all", "knowledge": "dynamickd_objective", "policy": "uncertainty"}),
    ],
    "ksm": [
        ("ksm-soft", {"policy": "ksm"}),
        ("ksm-hard", {"policy": "ksm_hard"}),
        ("random-soft", {"policy": "random_soft"}),
        ("random-hard", {"policy": "random_hard"}),
        ("random-one", {"policy": "random_one"}),
        ("fixed-all", {"knowledge": "ksm", "policy": "fixed"}),
        ("finetune", {"knowledge": "labels"}),
        ("vanilla kd", _WHOLE),
        ("pkd", {"knowledge": "pkd", "policy": "fixed"}),
        ("distilbert", {"knowledge": "distilbert", "policy": "fixed"}),
        ("tinybert", {"knowledge": "tinybert", "policy": "fixed"}),
        *(
            (method, {"knowledge": name, "policy": "fixed"})
            for method, name in {
                "FinK": "fink",
                "ResK": "resk",
                "FeaK": "feak",
                "RelK": "relk",
                "FinK+ResK": "fink_resk",
                "FinK+ResK+FeaK": "fink_resk_feak",
                "FinK+ResK+FeaK+RelK": "ksm",
            }.items()
        ),
    ],
    "dekd": [
        ("vanilla kd", _WHOLE),
        ("bert-pkd", {"knowledge": "pkd", "policy": "fixed"}),
        ("dfa", {"knowledge": "dfa"}),
        ("cfl", {"knowledge": "cfl"}),
        ("uhc", {"knowledge": "uhc"}),
        ("muki", {"knowledge": "muki"}),
        ("ksm", {"policy": "ksm"}),
        ("dekd", {"knowledge": "dekd", "select": "scaled_entropy", "adopt": "assistant"}),
        ("without data selection", {"knowledge": "dekd", "select": "random", "adopt": "assistant"}),
        ("without data selection", {"knowledge": "dekd", "select": "all", "adopt": "assistant"}),
        ("without teacher assistant", {"knowledge": "dekd", "select": "scaled_entropy", "adopt": "single"}),
        ("without objective alignment", {"knowledge": "dekd_no_alignment", "select": "scaled_entropy"}),
    ],
}


@dataclass(frozen=True)
class PublishedNumber:
    """One printed number.

    `ratio`: share of the data that queries the teacher (None: no teacher). `value`: as printed, in percent (GFLOPs as
    such). `task`: the task's title, or "average" for the paper's own average.
    """

    paper: str
    table: str
    method: str
    student: str
    ratio: float | None
    task: str
    metric: str
    value: float


@cache
def all_numbers() -> tuple[PublishedNumber, ...]:
    """All rows of published.csv, in the order of the papers' tables."""
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            PublishedNumber(
                **{**row, "ratio": float(row["ratio"]) if row["ratio"] else None, "value": float(row["value"])}
            )
            for row in csv.DictReader(file)
        )


def numbers_with(**columns: str | float | None) -> list[PublishedNumber]:
    """The numbers whose columns have these values: `numbers_with(paper="adads", table="4", task="RTE")`.

    AttributeError for an unknown column.
    """
    return [row for row in all_numbers() if all(getattr(row, name) == value for name, value in columns.items())]


def numbers_of_task(task: str, paper: str) -> list[PublishedNumber]:
    """All printed numbers of a paper (a key of `PAPERS`) for a task, in the order of its tables."""
    known = registry.TASKS.get(registry.plain_name(task))
    if known is None:
        return []
    titles = {known.title, *(f"MNLI-{part}" for part in ("m", "mm") if known.name == "mnli")}
    rows = numbers_with(paper=_COLUMN.get(paper, paper))
    return [row for row in rows if row.task in titles and (row.paper, row.table) not in _APART]


def numbers_beside(run: Run, paper: str) -> list[PublishedNumber]:
    """The printed numbers that a run stands beside: of the same method, task, ratio and use of augmented data.

    Where the paper has a student with as many layers, only that student's. Of a number in several tables, the first.
    """
    choices = _choices(run.result) | {"select": run.select}
    methods = [m for m, rule in RULES[paper] if all(choices.get(key) == value for key, value in rule.items())]
    rows = [
        row
        for row in numbers_of_task(run.task, paper)
        if row.method in methods and (row.ratio == run.ratio or row.method in _ANY_RATIO)
    ]
    augmented = run.facts.get("data.augment") is not None or any(key.startswith("data.augment.") for key in run.facts)
    rows = [row for row in rows if ("augmented" in row.table + row.student) == augmented]
    student = f"bert-{_layers(run.result)}"
    if any(row.student == student for row in rows):
        rows = [row for row in rows if row.student == student]
    return list({(row.method, row.student, row.task, row.metric, row.value): row for row in rows[::-1]}.values())[::-1]


def _choices(result: Mapping[str, Any]) -> dict[str, str]:
    policy = result.get("policy") or {}
    return {
        "adopt": str(result.get("adopt") or "single"),
        "knowledge": str(result.get("knowledge")),
        "policy": str(policy.get("name", "fixed")),
    }


def _layers(result: Mapping[str, Any]) -> int | None:
    layers = (result.get("student") or {}).get("layers")
    return len(layers) if isinstance(layers, list) else layers if isinstance(layers, int) else None
