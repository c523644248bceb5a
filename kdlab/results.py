"""What a finished run writes into result.json: scores, costs, and all that would be needed to repeat it."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from kdlab import episodes
from kdlab.bench import Bench
from kdlab.callbacks import training_seconds
from kdlab.distill import Distiller
from kdlab.ledger import speedup

DISTILLATION = ("scoring", "observation", "teacher_forward", "teacher_cache", "student_forward", "student_backward")


def result_of(
    bench: Bench,
    module: Distiller,
    metrics: dict[str, dict[str, float]],
    totals: dict[str, Any],
    probes: list[list[float]],
    world: int,
    overrides: list[str],
) -> dict[str, Any]:
    """The whole of it. `metrics`: scores by who has them; `totals` of the ledger; `probes`: seconds of whole steps by rank."""
    config = bench.config
    taught = bool(module.teachers)
    return {
        "status": "finished",
        "name": config.name,
        "scale": config.scale.name,
        "steps": module.total_steps,
        "metrics": metrics,
        "ledger": _ledger(totals, probes, module.total_steps),
        "preparation": bench.preparation,
        "seed": config.seed,
        "select": {"name": config.select.name, "ratio": config.select.ratio},
        "adopt": config.adopt.name if taught else None,
        "policy": {"name": config.policy.name, "reward_data": episodes.reward_data(bench)},
        "stage": config.data.stage,
        "knowledge": config.knowledge.name,
        "data": bench.facts(),
        "teacher": {
            "name": bench.teacher_name,
            "sha256": bench.teacher_hash() if taught else None,
            "layers": bench.teacher_config.num_hidden_layers,
        },
        "teachers": [
            {"name": teacher.name, "layers": teacher.encoder.model.config.num_hidden_layers, "classes": teacher.classes}
            for teacher in module.teachers
        ],
        "student": {
            "layers": config.student.layers,
            "parameters": sum(p.numel() for p in module.student.parameters()),
        },
        "versions": _versions(),
        "git": _git(),
        "command": ["python", "-m", "kdlab.run", *overrides],
        "devices": {"world": world, "kind": str(module.device), "precision": bench.precision},
    }


def _ledger(totals: dict[str, Any], probes: list[list[float]], steps: int) -> dict[str, Any]:
    """The ledger of result.json: totals, the all-data comparison that the probes measured, and the speed-ups."""
    seconds = dict(totals["seconds"])
    training = training_seconds(seconds)
    all_data = None
    if probes:
        slowest = [max(at_once) for at_once in zip(*probes, strict=False)]
        around = training - sum(
            seconds.get(part, 0.0) for part in DISTILLATION
        )  # data, optimizer, loop: spent either way
        all_data = sorted(slowest)[len(slowest) // 2] * steps + around
    gains = speedup(totals, None)
    gains["wallclock"] = all_data / training if all_data and training else None
    return {**totals, "seconds": {**seconds, "training": training, "all_data": all_data}, "speedup": gains}


def _versions() -> dict[str, str]:
    names = (
        "kdlab",
        "torch",
        "pytorch-lightning",
        "transformers",
        "tokenizers",
        "datasets",
        "numpy",
        "hydra-core",
        "omegaconf",
        "faiss-cpu",
        "faiss-gpu",
    )
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> str | None:
    """The revision of the checkout kdlab runs from, marked where files differ from it; None outside a checkout."""
    top = Path(__file__).resolve().parent.parent
    if not (top / ".git").exists():
        return None
    command = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
