"""The model card of the student folder."""

from __future__ import annotations

from typing import Any

from kdlab.models.head import head_of_result
from kdlab.runs.summary import rewarded_on_dev, taught


def card(result: dict[str, Any]) -> str:
    """The text of student/README.md, from the result.json of the run."""
    ledger, head = result["ledger"], head_of_result(result)
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
    how = f"Distilled from {result['teacher']['name']}" if taught(result) else "Trained on labels alone"
    return f"""---
library_name: transformers
pipeline_tag: {head.pipeline_tag}
tags: [knowledge-distillation, kdlab]
---

# {"A student of " + result["teacher"]["name"] if taught(result) else "A fine-tuned encoder"}

{how} with kdlab {result["versions"].get("kdlab", "")} at the {"fine-tuning" if head.per_row else "pre-training"} stage: {result["steps"]} steps,
knowledge `{result["knowledge"]}`, data selection `{result["select"]["name"]}` at ratio {result["select"]["ratio"]:g}, seed {result["seed"]},
layers {result["student"]["layers"]} of the teacher's backbone.

| {head.heldout} | {" | ".join(scores)} |
|---|{"---|" * len(scores)}
{chr(10).join(rows)}

{queries}{"What weighs the knowledge terms was rewarded on these rows. " if rewarded_on_dev(result) else ""}Trained on: {result["data"]["source"]} {result["data"].get("task") or ""}
(fingerprint {result["data"]["fingerprint"][:16]}). The licences of the teacher and of the data apply.

```python
from transformers import {head.auto_class}, AutoTokenizer
model, tokenizer = {head.auto_class}.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```
"""
