"""Scores of a finished run as lines: those of the student, its teachers and baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdlab.data.names import name_in
from kdlab.data.tasks.metric_names import OF_CLASSES, OF_NUMBERS
from kdlab.models.head import head_of_result

NOTHING, UNTAUGHT = "learnt_nothing", "below_no_kd"  # kinds of caveats of a student that no saving is claimed for
SHOWN = ("loss", "perplexity", *OF_CLASSES, *OF_NUMBERS, "agreement")


def quality(result: dict[str, Any]) -> list[str]:
    """Lines of scores on dev, and on test where that has labels: a header, the baselines, the student, its teachers."""
    found, test = result["metrics"], result.get("test") or {}
    columns = [("", name) for name in found["student"] if name.removesuffix("_mismatched") in SHOWN]
    columns += [("", "score")] if len(columns) > 2 and "score" in found["student"] else []
    columns += [("test ", name) for _, name in columns if test and not name.startswith("loss")]
    titles = [part + name.replace("_mismatched", " mm").replace("_", " ") for part, name in columns]
    widths = [max(12, len(title) + 2) for title in titles]
    head, width = head_of_result(result), max(20, *(len(name) + 1 for name in found))
    sizes = (
        {part: result["data"]["splits"][part]["rows"] for part in ("dev", "test")[: 1 + bool(test)]}
        if head.per_row
        else {}
    )
    rows = f" ({sizes['dev']:,} rows)" if head.per_row else ""
    rows += f", test set ({sizes['test']:,})" if test else ""
    width = max(width, len(head.heldout + rows))
    theirs = sorted((name for name in found if teaches(name)), key=lambda name: name == "teacher")  # the main one last
    order = [name for name in found if name not in ("student", *theirs)] + ["student", *theirs]
    lines = [f"{head.heldout + rows:<{width + 2}}" + "".join(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True))]
    lines[0] += "" if head.per_row else f"   ({head.unit}s)"
    lines[0] += "   (a module was rewarded on these rows)" if rewarded_on_dev(result) else ""
    for name in order:
        line = f"  {name:<{width}}"
        for (part, column), w in zip(columns, widths, strict=True):
            line += f"{shown(column, (test if part else found).get(name, {}).get(column)):>{w}}"
        lines.append(line)
    return lines


def about(result: Mapping[str, Any]) -> str:
    """The data set, metric and seed of a run, in one line."""
    return f"{name_in(result['data'])}, {metric_of(result)}, seed {result['seed']}"


def metric_of(result: Mapping[str, Any]) -> str:
    """The metric that a run's student is compared by: data.metric, else those whose mean is its score; on text the loss."""
    data, student = result["data"], result["metrics"]["student"]
    names = (data.get("shape") or {}).get("metrics") or [
        name for name in student if not name.startswith(("loss", "score")) and "_" not in name
    ]
    if "score" not in student:
        return head_of_result(result).loss
    return data.get("metric") or " and ".join(names) or "score"


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


def headline(result: dict[str, Any]) -> str:
    """The student's main score: the task's, in percent, or the masked-LM loss."""
    student = result["metrics"]["student"]
    return f"score {100 * student['score']:.1f}" if "score" in student else f"loss {student['loss']:.3f}"


def shown(name: str, value: float | None) -> str:
    """A score by the name of its metric as tables show it: losses in nats, others in percent; "-" for None."""
    if value is None:
        return "-"
    if name.startswith(("loss", "perplexity")):
        return f"{value:.3f}"
    return f"{value:.1%}" if "accuracy" in name else f"{100 * value:.1f}"


def is_saving(result: Mapping[str, Any]) -> bool:
    """False for a student that learnt nothing, or less than without a teacher: fewer queries for it are no saving."""
    return not any(one["kind"] in (NOTHING, UNTAUGHT) for one in result.get("caveats") or [])
