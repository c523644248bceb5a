"""What a finished run writes into result.json: scores, costs, and all that would be needed to repeat it."""

from __future__ import annotations

from typing import Any

from kdlab.callbacks.cost import training_seconds
from kdlab.modules.distiller import Distiller
from kdlab.runs import environment
from kdlab.runtime.ledger import speedup
from kdlab.stages import ksm_training
from kdlab.stages.base import Stage
from kdlab.teachers import specs

DISTILLATION = ("scoring", "observation", "teacher_forward", "teacher_cache", "student_forward", "student_backward")


def result_of(
    bench: Stage,
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
        "policy": {"name": config.weigh.name, "reward_data": ksm_training.reward_data(bench)},
        "stage": config.data.stage,
        "knowledge": config.knowledge.name,
        "data": bench.facts(),
        "teacher": {
            "name": bench.teacher_name,
            "sha256": bench.teacher_hash() if taught else None,
            "layers": bench.teacher_config.num_hidden_layers,
        },
        "teachers": [
            {
                "name": teacher.name,
                "layers": teacher.encoder.model.config.num_hidden_layers,
                "classes": teacher.classes,
                "made_of": member.source.sha256(),
            }
            for teacher, member in zip(module.teachers, bench.teacher_pool.members, strict=bool(module.teachers))
        ],
        "student": {
            "layers": config.student.layers,
            "made_of": specs.weights_of(config.student.path) if config.student.path else None,
            "parameters": sum(p.numel() for p in module.student.parameters()),
        },
        "versions": environment.versions(),
        "git": environment.revision(),
        "command": ["python", "-m", "kdlab.run", *overrides],
        "devices": {
            "world": world,
            "kind": str(module.device),
            "precision": bench.precision,
            **environment.machine(module.device),
        },
        "artifacts": list(bench.store.used),
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
