"""Build the result.json of a finished run: scores, costs, and all that is needed to repeat it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdlab.callbacks.cost import training_seconds
from kdlab.config.groups.select import SelectConfig
from kdlab.config.saved import STARTED_IN
from kdlab.models.student import pick_layers
from kdlab.modules.student import StudentModule
from kdlab.plugins import own_modules
from kdlab.runs import environment
from kdlab.runs.closing import held_out
from kdlab.runs.closing.held_out import HeldOut
from kdlab.runtime.ledger import speedup
from kdlab.stages import ksm_training
from kdlab.stages.base import Stage
from kdlab.teachers import specs

DISTILLATION = (
    "scoring",
    "observation",
    "generation",
    "teacher_forward",
    "teacher_cache",
    "student_forward",
    "student_backward",
)


def result_of(
    stage: Stage,
    module: StudentModule,
    found: HeldOut,
    totals: dict[str, Any],
    probes: list[list[float]],
    world: int,
    overrides: list[str],
    steps: int,
) -> dict[str, Any]:
    """The content of result.json.

    `found`: scores and answers of student, teachers and baselines; `totals`: of the ledger; `probes`: seconds of each
    all-data step, by rank; `overrides`: of the command line; `steps`: optimizer steps taken.
    """
    config = stage.config
    taught = bool(module.teachers)
    return {
        "status": "finished",
        "name": config.name,
        "scale": config.scale.name,
        "steps": steps,
        "metrics": found.metrics,
        **({"test": found.test} if found.test else {}),
        **({"scores": held_out.detailed(found, stage.shapes, config.data.metric)} if found.answers else {}),
        "ledger": _ledger(totals, probes, steps),
        "preparation": stage.inputs.prerequisites.stages(),
        "seed": config.seed,
        "select": _select(config.select),
        "adopt": config.adopt.name if taught else None,
        "policy": {"name": config.weigh.name, "reward_data": ksm_training.reward_data(stage)},
        "stage": config.data.stage,
        "head": stage.inputs.head.name,
        "knowledge": config.knowledge.name,
        "data": stage.inputs.facts(),
        "teacher": {
            "name": stage.inputs.teacher_name,
            "sha256": stage.teacher_hash() if taught or stage.starts_as_teacher else None,
            "layers": stage.inputs.main_source.config.num_hidden_layers,
        },
        "teachers": _teachers(stage, module),
        "student": _student(stage, module),
        "versions": environment.versions(),
        "git": environment.revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["python", "-m", "kdlab.run", *own_modules.options(), *overrides],
        STARTED_IN: str(Path.cwd()),
        "devices": {
            "world": world,
            "kind": str(module.device),
            "precision": stage.inputs.precision,
            **environment.machine(module.device),
        },
        "artifacts": list(stage.inputs.store.used),
    }


def _select(select: SelectConfig) -> dict[str, Any]:
    """The entry `select` of result.json; with a unit where positions are chosen."""
    unit = {} if select.unit == "row" else {"unit": select.unit, "per_row": select.per_row}
    more = {"positions": select.positions} if select.unit == "both" else {}
    return {"name": select.name, "ratio": select.ratio, **unit, **more}


def _student(stage: Stage, module: StudentModule) -> dict[str, Any]:
    """The entry `student` of result.json."""
    config = stage.config.student
    return {
        "layers": _student_layers(stage),
        "hidden": config.hidden,
        "start": "teacher" if stage.starts_as_teacher else None,
        "made_of": specs.weights_of(config.path, config.revision) if config.path else None,
        "parameters": sum(p.numel() for p in module.student.parameters()),
    }


def _student_layers(stage: Stage) -> Any:
    """`student.layers` as the configuration has it; a share as the list of the teacher's layers that it took."""
    student = stage.config.student
    if not isinstance(student.layers, float):
        return student.layers
    return pick_layers(student.layers, stage.inputs.main_source.config.num_hidden_layers, student.pick)


def _teachers(stage: Stage, module: StudentModule) -> list[dict[str, Any]]:
    """The teachers of result.json, from small to large, with the hash of the model each was made of."""
    return [
        {
            "name": teacher.name,
            "layers": teacher.encoder.model.config.num_hidden_layers,
            "classes": teacher.classes,
            "made_of": member.source.sha256(),
        }
        for teacher, member in zip(module.teachers, stage.teacher_pool.members, strict=bool(module.teachers))
    ]


def _ledger(totals: dict[str, Any], probes: list[list[float]], steps: int) -> dict[str, Any]:
    """The ledger of result.json: totals, the seconds of an all-data run estimated from the probes, and the speed-ups."""
    seconds = dict(totals["seconds"])
    training = training_seconds(seconds)
    all_data = None
    if probes:
        slowest = [max(of_ranks) for of_ranks in zip(*probes, strict=False)]
        # data, optimizer, loop: the same in an all-data run
        other = training - sum(seconds.get(part, 0.0) for part in DISTILLATION)
        all_data = sorted(slowest)[len(slowest) // 2] * steps + other
    gains = speedup(totals, None)
    gains["wallclock"] = all_data / training if all_data and training else None
    return {**totals, "seconds": {**seconds, "training": training, "all_data": all_data}, "speedup": gains}
