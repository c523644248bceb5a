"""Caveats of a student that learnt nothing, or less than without a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdlab.data.tasks.metrics import hardly_better
from kdlab.errors import UserError
from kdlab.models.head import head_of_result
from kdlab.plotting.run_tables import number_in, rows_of
from kdlab.runs.closing.scores import NOTHING, UNTAUGHT, taught, teaches
from kdlab.types import Caveat

NO_CORRELATION = 0.1  # correlations up to this are about 0
COLLAPSED = "collapsed"
MIX = "select.explore=0.5, select.warmup=0.2 or student.start=teacher may prevent it (docs/choosing.md)"
TRY = "try a longer training (trainer.max_steps, trainer.max_epochs), another optim.lr, or more rows (select.ratio)"


def caveats(result: Mapping[str, Any], unigram: float | None, first: float | None) -> list[Caveat]:
    """Caveats of the student's held-out scores. `unigram`: loss of the tokens' frequencies, `first`: of the student at its
    start, both on text."""
    weak: list[Caveat] = []
    if not head_of_result(result).per_row:
        lines = [_text(result["metrics"]["student"]["loss"], unigram, first)]
        weak = _weak_teachers(result["metrics"], unigram)
    else:
        lines = [_task(result["metrics"], (result["data"].get("shape") or {}).get("labels") is None)]
    weak_student = next((line for line in lines if line), "")
    found = [Caveat(NOTHING, f"{weak_student}; {TRY}")] if weak_student else []
    if (
        collapsed := result.get("collapsed")
    ) is not None:  # says when; beside it the same score needs no line of its own
        found = [Caveat(NOTHING if weak_student else COLLAPSED, f"{collapsed['text']}; {MIX}")]
    return weak + found + _without_teacher(result)


def first_loss(folder: Path) -> float | None:
    """The student's held-out loss before its first step, from metrics.csv; None if it is not known."""
    try:
        rows = rows_of(folder / "metrics.csv", ("step",))
    except UserError:
        return None
    losses = (number_in(row, "heldout_loss") for row in rows if number_in(row, "step") == 0)
    return next((loss for loss in losses if math.isfinite(loss)), None)


def _text(loss: float, unigram: float | None, first: float | None) -> str:
    if unigram is not None and not loss < unigram:
        return (
            f"the student learnt nothing: its held-out loss {loss:.3f} is no better than that of the tokens' frequencies "
            f"({unigram:.3f})"
        )
    if first is not None and not loss < first:
        return f"the student learnt nothing: its held-out loss {loss:.3f} is no better than at its start ({first:.3f})"
    return ""


def _weak_teachers(metrics: Mapping[str, Mapping[str, float]], unigram: float | None) -> list[Caveat]:
    """Caveats of teachers on text whose loss is no better than that of the tokens' frequencies."""
    return [
        Caveat(
            "weak_teacher",
            f"the {who} has a held-out loss of {scores['loss']:.3f}, no better than that of the tokens' frequencies "
            f"({unigram:.3f}): it has nothing to teach; prepare it longer (teachers.prepare.max_steps), or take another",
        )
        for who, scores in metrics.items()
        if teaches(who) and unigram is not None and not scores["loss"] < unigram
    ]


def _task(metrics: Mapping[str, Mapping[str, float]], regression: bool) -> str:
    score, majority = metrics["student"].get("score"), metrics.get("majority class", {}).get("score")
    if score is None or majority is None:
        return ""
    if regression:
        about = not score > NO_CORRELATION
        return f"the student learnt nothing: its correlation with the labels is {score:.2f}, about 0" if about else ""
    if not score > majority:
        return (
            f"the student learnt nothing: its score {score:.3f} is no better than always answering the majority class "
            f"({majority:.3f})"
        )
    if hardly_better(score, majority):
        return (
            f"the student learnt next to nothing: its score {score:.3f} is hardly better than always answering the majority "
            f"class ({majority:.3f})"
        )
    return ""


def _without_teacher(result: Mapping[str, Any]) -> list[Caveat]:
    score = result["metrics"]["student"].get("score")
    alone = result["metrics"].get("no KD", {}).get("score")
    if not taught(result) or score is None or alone is None or not score < alone:
        return []
    return [
        Caveat(
            UNTAUGHT,
            f"the student's score {score:.3f} is below that of the same student trained on labels alone ({alone:.3f}): the "
            f"teacher's answers did not help; {TRY}, or other knowledge (knowledge=)",
        )
    ]
