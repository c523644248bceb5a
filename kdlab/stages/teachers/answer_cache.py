"""Open a teacher's answer cache: its key, its folder, its size; for the run and for the training of an assistant."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.models import flops
from kdlab.runtime.ledger import Ledger
from kdlab.stages.inputs import Inputs
from kdlab.storage.artifacts import key_of
from kdlab.storage.files import free_bytes, readable_size
from kdlab.teachers.cache.cache import AnswerCache, CacheUnusable
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.teachers.cache.disk_store import DiskStore
from kdlab.teachers.cache.maintenance import SUFFIX
from kdlab.teachers.cache.memory_store import MemoryStore
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher, teacher_dtype

KIND = "answers"  # a folder of the artifact store; what is in it grows, so it is none of the store's artifacts
FORMAT = 1
GIGABYTE = 10**9


def affordable(inputs: Inputs, total: int, said: str, mend: str = "") -> bool:
    """Whether answers of `total` bytes are within teachers.cache_limit, which `said` and the rest of the line tells.

    UserError where they are not, unless the run may continue without; `mend`: what else would help.
    """
    given = inputs.config.teachers
    place = "memory" if given.cache == "memory" else str(Path(inputs.config.artifacts) / KIND)
    said = f"teacher cache: about {readable_size(total)} for {said} in {place}"
    if total > given.cache_limit * GIGABYTE:
        said += f", over the limit of {given.cache_limit:g} GB"
        if given.cache_over == "refuse":
            raise UserError(
                f"{said}: raise teachers.cache_limit, or {mend}teachers.cache=off, teachers.cache_over=without"
            )
        inputs.notify(f"{said}: the run continues without")
        return False
    free = free_bytes(Path(inputs.config.artifacts))
    if given.cache == "disk" and total > free:
        said += f" ({readable_size(free)} are free: if that is not enough, the run continues without writing)"
    inputs.notify(said)
    return True


def outputs_of(inputs: Inputs, member: TeacherSpec) -> int:
    """C or V of a teacher's logits."""
    if not inputs.fixed_inputs:
        return int(member.config.vocab_size)
    return inputs.example[0] if member.classes is None else len(member.classes)


def row_bytes(
    inputs: Inputs, keeps: CacheSpec, member: TeacherSpec, units: float, length: float, squared: float, precision: str
) -> float:
    """About how many bytes the answer to a row takes; of rows with `units` units and `length` tokens on average."""
    shape = flops.shape_of(member.config)
    cast = (shape.layers, shape.hidden, shape.heads)
    return keeps.bytes(units, length, squared, outputs_of(inputs, member), cast, 4 if precision == "32-true" else 2)


def remember(
    inputs: Inputs,
    member: TeacherSpec,
    weights: Mapping[str, Any],
    teacher: Teacher,
    keeps: CacheSpec,
    rows: int,
    rows_parts: Mapping[str, Any],
    precision: str,
    ledger: Ledger,
    run: str,
) -> None:
    """Give `teacher` its cache of answers to a training set of `rows` rows, which `rows_parts` name.

    `precision` of the training that asks; `run` names it over its interruptions. What trains in one process shares what
    is remembered in memory.
    """
    given = inputs.config.teachers
    parts = {
        "format": FORMAT,
        **weights,
        "config": _config_of(teacher),
        "classes_known": member.classes and list(member.classes),
        "rows": dict(rows_parts),
        "mask_seed": None if inputs.fixed_inputs else inputs.config.seed,
        "precision": precision,
        **({"held": str(teacher_dtype(precision))} if teacher_dtype(precision) else {}),
        "keeps": asdict(keeps),
    }
    key = key_of(parts)
    store = inputs.memory_stores.setdefault(key, MemoryStore())
    if given.cache == "disk":
        data = inputs.config.data.path or inputs.config.data.task or type(inputs.source).__name__
        folder = Path(inputs.config.artifacts) / KIND / f"{key}{SUFFIX}"
        store = DiskStore(folder, key, rows, parts, {"teacher": member.name, "data": data})
    cache = AnswerCache(
        store, keeps, outputs_of(inputs, member), key, inputs.fixed_inputs, ledger, given.cache_fill == "alone",
        given.cache_trouble, inputs.notify,
    )  # fmt: skip
    cache.run = int.from_bytes(hashlib.sha256(run.encode()).digest()[:4], "little")
    if isinstance(store, DiskStore):
        if not _opened(cache, store):
            return
        inputs.store.used[f"{KIND}/{store.folder.name}"] = None
        inputs.notify(f"teacher cache of {member.name}: {readable_size(store.size)} are there, in {store.folder}")
    teacher.cache = cache


def _config_of(teacher: Teacher) -> dict[str, Any]:
    """How a teacher's weights are used."""
    found = json.loads(teacher.encoder.model.config.to_json_string())
    return {key: value for key, value in found.items() if key not in ("_name_or_path", "transformers_version")}


def _opened(cache: AnswerCache, store: DiskStore) -> bool:
    try:
        store.open(cache.handle_fault)
    except CacheUnusable:
        return False
    except OSError as error:
        cache.handle_error(error, "it")
        return False
    return True
