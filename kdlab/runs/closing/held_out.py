"""Evaluation at the end of a run: scores and answers of student, teachers and baselines on dev and labelled test rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdlab.callbacks.evaluate import EvaluationCallback
from kdlab.data.tasks import details, metrics
from kdlab.modules.evaluation import Answers, with_answers
from kdlab.runs.prepare import PreparedRun
from kdlab.types import TaskShape

PARTS = ("dev", "test")
ByName = Mapping[
    str, Mapping[str, Answers]
]  # answers by "student", title of a teacher or name of a baseline; then by split


@dataclass
class HeldOut:
    """Scores by student, teachers and baselines, on dev (`metrics`) and on `test` (empty where it has no labels); their
    `answers` by part, name and split; none on text, and those of the baselines that are no models."""

    metrics: dict[str, dict[str, float]]
    test: dict[str, dict[str, float]]
    answers: dict[str, dict[str, dict[str, Answers]]]


def evaluate(prepared: PreparedRun, evaluation: EvaluationCallback) -> HeldOut:
    """Score dev, unless `evaluation` has done so after the last step, and, this once, labelled test rows; collective."""
    stage, module, data, teachers = prepared.stage, prepared.module, prepared.data, prepared.teachers
    splits = {part: data.final_splits(part) for part in PARTS}
    scored, dev = evaluation.last, evaluation.answers
    if not scored:  # resumed after the last step
        scored, dev = with_answers(module.evaluate, lambda: module.answers, splits["dev"])
    others = stage.teachers_on_heldout(module, teachers, data) if teachers else {}
    if teachers:
        scored = {**scored, **stage.beside_teacher(module, teachers, data)}
    answers = {"dev": {"student": dev, **stage.answers("dev", teachers)}} if dev else {}
    test: dict[str, dict[str, float]] = {}
    if splits["test"]:
        tested, own = with_answers(module.evaluate, lambda: module.answers, splits["test"])
        theirs = stage.answers("test", teachers)
        test = {"student": tested, **stage.scores_of_part("test", theirs)}
        answers["test"] = {"student": own, **theirs}
    return HeldOut({"student": scored, **others, **prepared.baselines}, test, answers)


def detailed(found: HeldOut, shapes: Mapping[str, TaskShape], metric: str | None) -> dict[str, Any]:
    """The entry `scores` of result.json: `details` by split ("dev", "test", "dev_mismatched"), then by name, with the
    `agreement` with the main teacher. `shapes`: of the task by the name of who answers, "student" for all others;
    `metric`: the one chosen as the score. Empty on text."""
    entry: dict[str, Any] = {}
    for part, by_name in found.answers.items():
        for who, splits in by_name.items():
            shape = shapes.get(who, shapes["student"])
            for split, answers in splits.items():
                scores = entry.setdefault(f"{part}_{split}" if split else part, {})
                scores[who] = _details(answers, shape, (metric,) if metric else shape.metrics)
                main = by_name.get("teacher", {}).get(split)
                if main is not None and who != "teacher" and main.rows.equal(answers.rows):
                    pair = metrics.predicted(answers.logits), metrics.predicted(main.logits)
                    scores[who]["agreement"] = details.agreement(*pair)
    return entry


def _details(answers: Answers, shape: TaskShape, headline: tuple[str, ...]) -> dict[str, Any]:
    probabilities = None if shape.regression else answers.logits.double().softmax(1)
    return details.details(metrics.predicted(answers.logits), answers.labels, shape, headline, probabilities)
