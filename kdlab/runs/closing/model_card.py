"""The model card of the student folder."""

from __future__ import annotations

from typing import Any

from kdlab.data.names import name_in
from kdlab.models.head import head_of_result
from kdlab.runs.closing import costs
from kdlab.runs.closing.further_scores import sentence
from kdlab.runs.closing.scores import rewarded_on_dev, taught
from kdlab.runs.closing.size_lines import size_markdown
from kdlab.storage.escaping import markdown_code, markdown_text

_STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning", "causal": "causal language modelling"}


def card(result: dict[str, Any]) -> str:
    """The text of student/README.md, from the result.json of the run."""
    ledger, head = result["ledger"], head_of_result(result)
    queries = (
        f"Teacher queries {ledger['teacher_queries']['total']:,} of {ledger['rows_seen']:,} rows seen"
        f"{_with_preparation(result)}. "
        if taught(result)
        else ""
    )
    teacher = markdown_text(str(result["teacher"]["name"]))
    how = f"Distilled from {teacher}" if taught(result) else "Trained on labels alone"
    return f"""---
library_name: transformers
pipeline_tag: {head.pipeline_tag}
tags: [knowledge-distillation, kdlab]
---

# {"A student of " + teacher if taught(result) else "A fine-tuned model"} on {markdown_text(name_in(result["data"]))}

{how} with kdlab {result["versions"].get("kdlab", "")} at the {_STAGES[result["stage"]]} stage: {result["steps"]} steps,
knowledge {markdown_code(str(result["knowledge"]))}, data selection {markdown_code(result["select"]["name"])} at ratio {result["select"]["ratio"]:g}{_positions(result)}, seed {result["seed"]},
{_origin(result)}.

{_scores(head.heldout, result["metrics"])}
{_scores("test set", result["test"]) if result.get("test") else ""}{_of_teacher(result)}{size_markdown(result)}
{_caveats(result)}{queries}{"What weighs the knowledge terms was rewarded on these rows. " if rewarded_on_dev(result) else ""}Trained on: {markdown_text(name_in(result["data"]))}
(fingerprint {result["data"]["fingerprint"][:16]}). The licences of the teacher and of the data apply.

```python
from transformers import {head.auto_class}, AutoTokenizer
model, tokenizer = {head.auto_class}.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```
"""


def _origin(result: dict[str, Any]) -> str:
    """The initial weights of the student."""
    student = result["student"]
    if student.get("made_of"):
        return "initial weights from a model of its own, not from the teacher"
    if student.get("hidden"):
        return (
            f"{student['layers']} layers of width {student['hidden']} from random weights: narrower than the teacher, and "
            "pre-trained on nothing but the text of this run" if not head_of_result(result).per_row else
            f"{student['layers']} layers of width {student['hidden']} from random weights: narrower than the teacher, and not "
            "pre-trained"
        )  # fmt: skip
    model = "fine-tuned teacher, with its classifier" if student.get("start") == "teacher" else "teacher's backbone"
    return f"layers {student['layers']} of the {model}"


def _scores(title: str, found: dict[str, dict[str, float]]) -> str:
    """A table of scores, and an empty line."""
    names = [name for name in found["student"] if name != "score"]
    lines = [f"| {title} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for who, of in found.items():
        cells = " | ".join(f"{of[name]:.3f}" if name in of else "-" for name in names)
        lines.append(f"| {markdown_text(who)} | {cells} |")
    return "\n".join(lines) + "\n"


def _of_teacher(result: dict[str, Any]) -> str:
    """A paragraph on the student's share of the teacher's score, and the calibration of its probabilities; "" for none."""
    said = [f"{text[0].upper()}{text[1:]}."] if (text := sentence(result)) else []
    for split, of in (result.get("scores") or {}).items():
        if (error := of.get("student", {}).get("ece")) is not None:
            said.append(f"Expected calibration error (15 bins) on {split.replace('_', ' ')}: {error:.3f}.")
    return f"\n{' '.join(said)}\n\n" if said else "\n"


def _with_preparation(result: dict[str, Any]) -> str:
    total = costs.total(result)
    least = "" if total.measured else "at least "
    more = total.queries > costs.own(result).queries or not total.measured
    return f", with the preparation of teachers and modules {least}{total.queries:,}" if more else ""


def _caveats(result: dict[str, Any]) -> str:
    """A section of the card; "" without a caveat."""
    found = "\n".join(f"- {markdown_text(one['text'])}" for one in result.get("caveats") or [])
    return f"Caveats:\n\n{found}\n\n" if found else ""


def _positions(result: dict[str, Any]) -> str:
    """The share of the positions that the student learnt from; "" where it learnt all of its rows."""
    found = costs.positions_kept(result)
    return "" if found is None else f" ({found[0]:,} of {found[1]:,} positions learnt)"
