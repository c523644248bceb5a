"""What a finished run says of itself: the table at its end, and the student's model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def table(result: dict[str, Any], folder: Path) -> str:
    """The closing table: quality of student and teacher, cost against all-data distillation, and where to go next."""
    student, teacher = result["metrics"]["student"], result["metrics"]["teacher"]
    ledger = result["ledger"]
    queries, flops, seconds, gain = (ledger[name] for name in ("teacher_queries", "flops", "seconds", "speedup"))
    lines = [
        "",
        "held-out text            loss   accuracy   (masked positions)",
        f"  teacher             {teacher['loss']:8.3f}   {teacher['accuracy']:8.1%}",
        f"  student             {student['loss']:8.3f}   {student['accuracy']:8.1%}",
        "",
        f"cost                     {'this run':>11}  {'all data':>11}  {'saved':>7}",
        f"  teacher queries        {queries['total']:>11,}  {ledger['rows_seen']:>11,}  {_times(gain['queries'])}",
        f"  model FLOPs            {_si(flops['total']):>11}  {_si(flops['all_data']):>11}  {_times(gain['flops'])}",
        f"  wall-clock             {_time(seconds['training']):>11}  {_time(seconds['all_data']):>11}  {_times(gain['wallclock'])}",
        "",
        f"run folder: {folder}   (figures/schedule.png, metrics.csv, selector.csv, result.json, student/)",
        f"next: the baseline of the same size:  python -m kdlab.run {_next(result)}",
    ]
    return "\n".join(lines)


def _next(result: dict[str, Any]) -> str:
    other = "random" if result["select"]["name"] != "random" else "all"
    kept = [
        o for o in result["command"][3:] if not o.startswith(("select=", "hydra.run.dir=", "overwrite=", "resume="))
    ]
    return " ".join([*kept, f"select={other}"])


def _times(value: float | None) -> str:
    return "      -" if value is None else f"{value:6.2f}x"


def _si(value: float) -> str:
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def card(result: dict[str, Any]) -> str:
    """A model card for the student folder."""
    student, teacher, ledger = result["metrics"]["student"], result["metrics"]["teacher"], result["ledger"]
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [knowledge-distillation, kdlab]
---

# A student of {result["teacher"]["name"]}

Distilled with kdlab {result["versions"].get("kdlab", "")} at the pre-training stage: {result["steps"]} steps, data selection
`{result["select"]["name"]}` at ratio {result["select"]["ratio"]:g}, seed {result["seed"]}, teacher layers {result["student"]["layers"]}.

| held-out text | masked-LM loss | accuracy |
|---|---|---|
| teacher | {teacher["loss"]:.3f} | {teacher["accuracy"]:.3f} |
| student | {student["loss"]:.3f} | {student["accuracy"]:.3f} |

Teacher queries {ledger["teacher_queries"]["total"]:,} of {ledger["rows_seen"]:,} rows seen. Trained on: {result["data"]["source"]}
(fingerprint {result["data"]["fingerprint"][:16]}). The licences of the teacher and of the text apply.

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer
model, tokenizer = AutoModelForMaskedLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```
"""
