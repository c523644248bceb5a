"""Rules by which a printed number (`kdlab.reporting.papers`) stands beside a run, or the reason why none does.

A number stands beside the runs of its own method alone: each rule names every setting that makes the method, and rows of
augmented data, of narrower students and of the pre-training stage stand beside such runs only. `tests/nightly`
walks every printed number: an arm of a sweep has it, or `why_none` says why no run does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdlab.reporting.papers import PublishedNumber, numbers_of_task
from kdlab.reporting.seed_groups import Run

Choices = Mapping[str, Any]

_PLAIN = {"knowledge": "response", "policy": "fixed", "adopt": "single"}
_WHOLE = {"select": "all", **_PLAIN}
_ANY_RATIO = {"without data selection"}  # DeKD does not say whether that is all rows, or half of them at random
_UNCERTAIN = {"random": "random", "margin": "margin", "entropy": "entropy"}
_STATIC = {**_UNCERTAIN, "conf": "least_confidence", **{name: name for name in ("certainty", "cluster", "density")}}
_ADADS = {**_STATIC, "all": "all", **{name: name for name in ("ensemble", "randmix", "adads")}}
_DYNAMICKD = {**_UNCERTAIN, "lc": "least_confidence"}
_FIXED = {"select": "all", "policy": "fixed", "adopt": "single"}
_SETS = {
    "FinK": "fink",
    "ResK": "resk",
    "FeaK": "feak",
    "RelK": "relk",
    "FinK+ResK": "fink_resk",
    "FinK+ResK+FeaK": "fink_resk_feak",
    "FinK+ResK+FeaK+RelK": "ksm",
}
_KSM = {"select": "all", "knowledge": "ksm", "adopt": "single"}
_MODULE = {**_KSM, "reward": "loss", "module": "whole"}
_DEKD = {"knowledge": "dekd", "select": "scaled_entropy", "adopt": "assistant"}


@dataclass(frozen=True)
class Arm:
    """A printed method and the choices that a run of it has; `tables`: of the paper (empty: all that have the method).

    A choice is one value or a tuple of the values allowed.
    """

    method: str
    needs: Choices
    tables: tuple[str, ...] = ()


def _selecting(names: Mapping[str, str], needs: Choices, *tables: str) -> list[Arm]:
    return [Arm(method, {"select": name, **needs}, tables) for method, name in names.items()]


# by the paper's name in published.csv
ARMS: dict[str, list[Arm]] = {
    "adads": [
        *_selecting(_ADADS, _PLAIN, "1", "2", "3", "5"),
        *(
            Arm(">".join(pair), {"select": "schedule", "stages": ">".join(pair), **_PLAIN}, ("3",))
            for pair in (("entropy", "certainty"), ("certainty", "entropy"))
        ),
        *_selecting(_ADADS, {"stage": "pretrain", "knowledge": "distilbert"}, "4"),
    ],
    "dynamic_kd": [
        *_selecting(_DYNAMICKD, _PLAIN, "2"),
        *_selecting(_DYNAMICKD, {"knowledge": "tinybert", "policy": "fixed", "adopt": "single"}, "4"),
        Arm("vanilla kd", _WHOLE),
        Arm("tinybert", {**_FIXED, "knowledge": "tinybert"}, ("4",)),
        *(
            Arm(method, {**_WHOLE, "adopt": adopt}, ("1",))
            for method, adopt in {
                "kd ensemble": "ensemble",
                "kd bert-large": "largest",
                "kd bert-base": "smallest",
                "uncertainty-hard": "hard",
                "uncertainty-soft": "soft",
            }.items()
        ),
        Arm("no kd", {**_FIXED, "knowledge": "labels"}, ("1",)),
        Arm("bert-pkd", {**_FIXED, "knowledge": "pkd"}, ("5",)),
        Arm("uncertainty", {**_FIXED, "knowledge": "dynamickd_objective", "policy": "uncertainty"}, ("5",)),
        Arm("kd 12 x 256", {**_WHOLE, "adopt": "smallest"}, ("C",)),
        Arm("kd 12 x 768", {**_WHOLE, "adopt": "largest"}, ("C",)),
    ],
    "ksm": [
        *(Arm(method, {**_FIXED, "knowledge": name}, ("1",)) for method, name in _SETS.items()),
        Arm("random-all", {**_KSM, "policy": "random_hard"}, ("2",)),
        Arm("random-one", {**_KSM, "policy": "random_one"}, ("2",)),
        Arm("random-hard", {**_KSM, "policy": "random_hard"}, ("3",)),
        Arm("random-soft", {**_KSM, "policy": "random_soft"}, ("3",)),
        Arm("ksm-soft", {**_MODULE, "policy": "ksm"}, ("3", "4")),
        Arm("ksm-hard", {**_MODULE, "policy": "ksm_hard"}, ("3",)),
        Arm("finetune", {**_FIXED, "knowledge": "labels"}, ("3",)),
        Arm("vanilla kd", _WHOLE, ("3", "4")),
        Arm("pkd", {**_FIXED, "knowledge": "pkd"}, ("3",)),
        Arm("dynamic kd", {"select": "entropy", **_PLAIN}, ("3",)),
        Arm("tinybert", {**_FIXED, "knowledge": "tinybert"}, ("4",)),
        *(
            Arm(f"ksm-soft, reward {name}", {**_MODULE, "policy": "ksm", "reward": name}, ("6",))
            for name in ("loss", "f1", "accuracy")
        ),
    ],
    "dekd": [
        *(
            Arm(f"kd bert-{size}", {**_WHOLE, "select": ("all", "random", "scaled_entropy"), "adopt": adopt}, ("1",))
            for size, adopt in (("base", "smallest"), ("large", "largest"))
        ),
        Arm("vanilla kd", _WHOLE, ("3",)),
        Arm("bert-pkd", {**_FIXED, "knowledge": "pkd"}, ("3",)),
        *(Arm(name, {**_FIXED, "knowledge": name, "adopt": "every"}, ("3", "5")) for name in ("dfa", "cfl", "uhc")),
        Arm("muki", {**_FIXED, "knowledge": "muki", "adopt": ("muki_hard", "muki_soft")}, ("3", "5")),
        Arm("ksm", {**_MODULE, "policy": "ksm"}, ("3", "5")),
        Arm("dekd", {**_DEKD, "policy": "fixed"}),
        Arm("without data selection", {**_DEKD, "policy": "fixed", "select": ("all", "random")}),
        Arm("without teacher assistant", {**_DEKD, "policy": "fixed", "adopt": "single"}),
        Arm("without objective alignment", {**_DEKD, "policy": "fixed", "knowledge": "dekd_no_alignment"}),
    ],
    "sekd": [
        Arm("full kd", {"stage": "causal", "select": "all", "policy": "fixed", "adopt": "single"}),
        Arm(
            "se-kd", {"stage": "causal", "select": "entropy", "unit": "position", "policy": "fixed", "adopt": "single"}
        ),
    ],
}

# columns of a printed number, and the reason why no run stands beside it
NO_ARM: list[tuple[Mapping[str, str], str]] = [
    (
        {"paper": "ksm", "table": "2", "method": "fixed-all"},
        "the extremes of Table 1's seven fixed sets: each set's own number stands beside its run",
    ),
    (
        {"paper": "ksm", "table": "3", "method": "distilbert"},
        "a student that was pre-trained elsewhere, quoted from Jiao et al. 2020; student.path= takes one",
    ),
    (
        {"paper": "ksm", "table": "4", "method": "finetune"},
        "fine-tuned on the labels of augmented rows, which here have no label but the teacher's",
    ),
    *(
        (
            {"paper": "ksm", "table": "6", "method": "ksm-soft, reward f1", "task": task},
            "F1 is no metric of RTE and QNLI in GLUE; the sweep rewards by it on MRPC",
        )
        for task in ("RTE", "QNLI", "average")
    ),
    (
        {"paper": "sekd", "method": "se-kd 3x"},
        "rows, positions and sampled answers together, whose share of rows its source does not print; select.unit=both with "
        "teachers.cache_vocabulary=sampled is its method",
    ),
    ({"paper": "dynamic_kd", "method": "tinybert (Jiao et al.)"}, "a row that the paper quotes from Jiao et al. 2020"),
]
TEACHER = "a teacher: each run prints the score of its own beside its student"


def numbers_beside(run: Run, paper: str) -> list[PublishedNumber]:
    """The printed numbers that a run stands beside (`stands_beside`), of its task.

    Where the paper has a student with as many layers, only that student's. Of a number in several tables, the first.
    """
    rows = [row for row in numbers_of_task(run.task, paper) if stands_beside(row, run)]
    depth = depth_of(run)
    if any(student_depth(row) == depth for row in rows):
        rows = [row for row in rows if student_depth(row) == depth]
    return list({(row.method, row.student, row.task, row.metric, row.value): row for row in rows[::-1]}.values())[::-1]


def stands_beside(number: PublishedNumber, run: Run) -> bool:
    """True if the run has the number's method, ratio, stage, kind of data and kind of student; the task is not read."""
    if why_none(number):
        return False
    choices = choices_of(run)
    if choices["augmented"] != ("augmented" in number.student) or choices["narrow"] != (" x " in number.student):
        return False
    if number.method not in _ANY_RATIO and run.ratio != (1.0 if number.ratio is None else number.ratio):
        return False
    arms = [arm for arm in ARMS[number.paper] if arm.method == number.method]
    return any(_fits(arm, choices) for arm in arms if not arm.tables or number.table in arm.tables)


def why_none(number: PublishedNumber) -> str | None:
    """The reason why no run stands beside a number; None where a run can."""
    if number.method.endswith("teacher"):
        return TEACHER
    return next((why for of, why in NO_ARM if all(getattr(number, key) == value for key, value in of.items())), None)


def choices_of(run: Run) -> dict[str, Any]:
    """The choices of a run that make its method.

    stage, select, unit, stages (of a schedule, "a>b"), adopt, knowledge, policy, reward and module ("whole", or "reduced"
    without exploration or phases) of a KSM; augmented and narrow (a student of another width) are True or False.
    """
    policy, facts = run.result.get("policy") or {}, run.facts
    name = str(policy.get("name", "fixed"))
    explores = facts.get(f"weigh.arms.{name}.alpha") != 0 and facts.get("weigh.phase") != 1
    return {
        "stage": run.stage,
        "select": run.select,
        "unit": "row" if run.select == "all" else str(facts.get("select.unit") or "row"),
        "stages": ">".join(re.findall(r"\w+", str(facts.get("select.policy.stages")))),
        "adopt": str(run.result.get("adopt") or "single"),
        "knowledge": str(run.result.get("knowledge")),
        "policy": name,
        "reward": str(facts.get("weigh.reward") or "loss"),
        "module": "whole" if explores else "reduced",
        "augmented": facts.get("data.augment") is not None or any(key.startswith("data.augment.") for key in facts),
        "narrow": facts.get("student.hidden") is not None or "_H-256_" in str(facts.get("student.path")),
    }


def depth_of(run: Run) -> int | None:
    """Number of layers of the student; of a folder or Hub model where its name has it ("4L", "L-6"), else None."""
    if path := run.facts.get("student.path"):
        found = re.search(r"(?<![A-Za-z0-9])(?:L-(\d+)|(\d+)L)(?![A-Za-z0-9])", str(path).replace("_", " "))
        return int(found[1] or found[2]) if found else None
    layers = (run.result.get("student") or {}).get("layers")
    return len(layers) if isinstance(layers, list) else layers if isinstance(layers, int) else None


def student_depth(number: PublishedNumber) -> int | None:
    """Layers of the student of a number: 6 of "bert-6 x 256"; None for teachers."""
    digits = number.student.replace(",", " ").split()[0].rpartition("-")[2]
    return int(digits) if digits.isdigit() else None


def _fits(arm: Arm, choices: Choices) -> bool:
    needs = {"stage": "finetune", "unit": "row", **arm.needs}
    return all(
        choices[key] in value if isinstance(value, tuple) else choices[key] == value for key, value in needs.items()
    )
