"""The model card of the student folder."""

from __future__ import annotations

from typing import Any

from kdlab.runs.summary import rewarded_on_dev, taught


def card(result: dict[str, Any]) -> str:
    """The text of student/README.md, from the result.json of the run."""
    ledger, text = result["ledger"], result["stage"] == "pretrain"
    scores = [name for name in result["metrics"]["student"] if name != "score"]
    rows = [
        f"| {who} | " + " | ".join(f"{found[name]:.3f}" if name in found else "-" for name in scores) + " |"
        for who, found in result["metrics"].items()
    ]
    queries = (
        f"Teacher queries {ledger['teacher_queries']['total']:,} of {ledger['rows_seen']:,} rows seen. "
        if taught(result)
        else ""
    )
    auto = "AutoModelForMaskedLM" if text else "AutoModelForSequenceClassification"
    head = "| held-out text |" if text else "| dev set |"
    how = f"Distilled from {result['teacher']['name']}" if taught(result) else "Trained on labels alone"
    return f"""---
library_name: transformers
pipeline_tag: {"fill-mask" if text else "text-classification"}
tags: [knowledge-distillation, kdlab]
---

# {"A student of " + result["teacher"]["name"] if taught(result) else "A fine-tuned encoder"}

{how} with kdlab {result["versions"].get("kdlab", "")} at the {"pre-training" if text else "fine-tuning"} stage: {result["steps"]} steps,
knowledge `{result["knowledge"]}`, data selection `{result["select"]["name"]}` at ratio {result["select"]["ratio"]:g}, seed {result["seed"]},
layers {result["student"]["layers"]} of the teacher's backbone.

{head} {" | ".join(scores)} |
|---|{"---|" * len(scores)}
{chr(10).join(rows)}

{queries}{"What weighs the knowledge terms was rewarded on these rows. " if rewarded_on_dev(result) else ""}Trained on: {result["data"]["source"]} {result["data"].get("task") or ""}
(fingerprint {result["data"]["fingerprint"][:16]}). The licences of the teacher and of the data apply.

```python
from transformers import {auto}, AutoTokenizer
model, tokenizer = {auto}.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```
"""
