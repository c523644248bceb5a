"""Scores of a finished run's student beyond the metrics of its task, and its share of the teacher's score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# title and key of `scores` in result.json, for each kind of task; the first is shown as a share of rows
OF_CLASSES = (
    ("macro F1", "macro_f1"),
    ("balanced accuracy", "balanced_accuracy"),
    ("Matthews correlation", "matthews"),
    ("calibration error, 15 bins", "ece"),
)
OF_NUMBERS = (("root mean squared error", "rmse"), ("mean absolute error", "mae"))


def of_teacher(scores: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """The student's score as a share of the main teacher's, on text the accuracy's; None without such a teacher, and for
    scores of which none is a share (negative ones, a teacher at 0)."""
    student, teacher = scores.get("student", {}), scores.get("teacher", {})
    name = "score" if "score" in student else "accuracy"
    own, theirs = student.get(name), teacher.get(name)
    if own is None or theirs is None or not math.isfinite(own) or not math.isfinite(theirs):
        return None
    return own / theirs if theirs > 0 and own >= 0 else None


def shares(result: Mapping[str, Any]) -> dict[str, float]:
    """`of_teacher` by "dev" and "test"; without those that there are not."""
    found = {part: of_teacher(result.get(key) or {}) for part, key in (("dev", "metrics"), ("test", "test"))}
    return {part: share for part, share in found.items() if share is not None}


def sentence(result: Mapping[str, Any]) -> str:
    """The student's share of the teacher's score in words; "" where there is none."""
    found, which = shares(result), "score" if "score" in result["metrics"]["student"] else "accuracy"
    if not found:
        return ""
    if which == "accuracy":
        return f"the student has {found['dev']:.1%} of the teacher's accuracy"
    said = " and ".join(f"{share:.1%} on {part}" for part, share in found.items())
    return f"the student has {said} of the teacher's score"


def further(result: Mapping[str, Any]) -> list[str]:
    """Lines of a table of the student's further scores, a column for each split; none on text, where `sentence` says all."""
    scores = {split: of["student"] for split, of in (result.get("scores") or {}).items() if "student" in of}
    if not scores:
        said = sentence(result)
        return [said] if said else []
    parts = shares(result)
    rows = [("of the teacher's score", [f"{parts[split]:.1%}" if split in parts else "-" for split in scores])]
    numbers = "rmse" in next(iter(scores.values()))
    agrees = "correlation with the teacher" if numbers else "same class as the teacher"
    agreed = [one.get("agreement") for one in scores.values()]
    rows.append((agrees, ["-" if one is None else f"{one:.3f}" if numbers else f"{one:.1%}" for one in agreed]))
    rows.append(("95% interval over rows", [_interval(one["interval"]) for one in scores.values()]))
    for title, name in OF_NUMBERS if numbers else OF_CLASSES:
        rows.append((title, [_shown(name, one.get(name)) for one in scores.values()]))
    rows = [(title, cells) for title, cells in rows if any(cell != "-" for cell in cells)]
    heads = [split.replace("_mismatched", " mm") for split in scores]
    lines = ["", f"{'the student':<30}" + "".join(f"{head:>15}" for head in heads)]
    return lines + [f"  {title:<28}" + "".join(f"{cell:>15}" for cell in cells) for title, cells in rows]


def _interval(ends: tuple[float, float]) -> str:
    return " to ".join(f"{100 * end:.1f}" for end in ends)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if name in ("rmse", "mae") else f"{100 * value:.1f}"
