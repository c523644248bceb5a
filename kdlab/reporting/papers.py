"""Which printed row of a paper a run of ours stands beside: the papers' names of methods, and what they are called here.

The settings are never the same (BERT-base, full data, GPUs there), so a printed number is shown beside ours and not
compared with it. AdaDS Table 4 has a table of its own (`kdlab.reporting.glue_scoreboard`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdlab.data.tasks import registry
from kdlab.reporting import published
from kdlab.reporting.published import Published
from kdlab.reporting.seed_groups import Run

Rule = tuple[str, Mapping[str, str]]

PAPERS = {
    "adads": "Zhou et al., AdaDS: adaptive data selection for knowledge distillation",
    "dynamickd": "Li et al. 2021, Dynamic Knowledge Distillation for Pre-trained Language Models",
    "ksm": "Wang et al., Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection",
    "dekd": "Xu et al., Data-Efficient Knowledge Distillation with Teacher Assistant-Based Dynamic Objective Alignment",
}
_COLUMN = {"dynamickd": "dynamic_kd"}  # as published.csv calls it
_APART = {("adads", "4")}  # students of the pre-training stage, in kdlab.reporting.glue_scoreboard
_ANY_RATIO = {"without data selection"}  # DeKD does not say whether that is all rows, or half of them at random
_PLAIN = {"knowledge": "response", "policy": "fixed", "adopt": "single"}


def _selects(names: Mapping[str, str]) -> list[Rule]:
    return [(method, {"select": name, **_PLAIN}) for method, name in names.items()]


_WHOLE = {"select": "all", **_PLAIN}
_STATIC = {"random": "random", "margin": "margin", "entropy": "entropy"}
_ADADS = {name: name for name in ("certainty", "cluster", "density", "ensemble", "randmix", "adads", "all")}

# the paper's name of a method, and what a run's select, adopt, knowledge and policy must be to stand beside it
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


def beside(run: Run, paper: str) -> list[Published]:
    """The printed numbers that a run stands beside: of the same method, task and ratio, with augmented data or without,
    and of the student with as many layers where there is one. Of a number that several tables print, the first."""
    names = _names(run.result) | {"select": run.select}
    methods = [m for m, wanted in RULES[paper] if all(names.get(key) == value for key, value in wanted.items())]
    found = [
        row
        for row in of_task(run.task, paper)
        if row.method in methods and (row.ratio == run.ratio or row.method in _ANY_RATIO)
    ]
    augmented = run.facts.get("data.augment") is not None or any(key.startswith("data.augment.") for key in run.facts)
    found = [row for row in found if ("augmented" in row.table + row.student) == augmented]
    own = f"bert-{_layers(run.result)}"
    if any(row.student == own for row in found):
        found = [row for row in found if row.student == own]
    return list({(row.method, row.student, row.task, row.metric, row.value): row for row in found[::-1]}.values())[::-1]


def of_task(task: str, paper: str) -> list[Published]:
    """All printed numbers of a paper for a task, in the order of its tables."""
    known = registry.TASKS.get(registry.plain_name(task))
    if known is None:
        return []
    titles = {known.title, *(f"MNLI-{part}" for part in ("m", "mm") if known.name == "mnli")}
    rows = published.rows(paper=_COLUMN.get(paper, paper))
    return [row for row in rows if row.task in titles and (row.paper, row.table) not in _APART]


def _names(result: Mapping[str, Any]) -> dict[str, str]:
    policy = result.get("policy") or {}
    return {
        "adopt": str(result.get("adopt") or "single"),
        "knowledge": str(result.get("knowledge")),
        "policy": str(policy.get("name", "fixed")),
    }


def _layers(result: Mapping[str, Any]) -> int | None:
    layers = (result.get("student") or {}).get("layers")
    return len(layers) if isinstance(layers, list) else layers if isinstance(layers, int) else None
