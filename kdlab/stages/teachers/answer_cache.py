"""Open the answer cache of a teacher: key, folder and size; for the run and for the training of an assistant."""

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

KIND = "answers"  # a folder of the artifact store; caches grow, so they are no artifacts of the store
FORMAT = 1
GIGABYTE = 10**9


def within_limit(inputs: Inputs, total: int, content: str, remedy: str = "") -> bool:
    """True if answers of `total` bytes fit within teachers.cache_limit; reports the size of `content`.

    If they do not fit: UserError with teachers.cache_over=refuse, else False; `remedy` names another way to fit.
    """
    settings = inputs.config.teachers
    place = "memory" if settings.cache == "memory" else str(Path(inputs.config.artifacts) / KIND)
    message = f"teacher cache: about {readable_size(total)} for {content} in {place}"
    if total > settings.cache_limit * GIGABYTE:
        message += f", over the limit of {settings.cache_limit:g} GB"
        if settings.cache_over == "refuse":
            raise UserError(
                f"{message}: raise teachers.cache_limit, or {remedy}teachers.cache=off, teachers.cache_over=without"
            )
        inputs.notify(f"{message}: the run continues without")
        return False
    free = free_bytes(Path(inputs.config.artifacts))
    if settings.cache == "disk" and total > free:
        message += f" ({readable_size(free)} are free: if that is not enough, the run continues without writing)"
    inputs.notify(message)
    return True


def outputs_of(inputs: Inputs, member: TeacherSpec) -> int:
    """Logits per prediction of a teacher: number of classes C, or vocabulary size V."""
    if not inputs.head.per_row:
        return int(member.config.vocab_size)
    return inputs.example[0] if member.classes is None else len(member.classes)


def row_bytes(
    inputs: Inputs, spec: CacheSpec, member: TeacherSpec, units: float, length: float, squared: float, precision: str
) -> float:
    """Approximate bytes of the answer to a row; mean `units` (predictions), `length` and `squared` length in tokens."""
    shape = flops.shape_of(member.config)
    dimensions = (shape.layers, shape.hidden, shape.heads)
    return spec.bytes(
        units, length, squared, outputs_of(inputs, member), dimensions, 4 if precision == "32-true" else 2
    )


def attach_cache(
    inputs: Inputs,
    member: TeacherSpec,
    weights: Mapping[str, Any],
    teacher: Teacher,
    spec: CacheSpec,
    rows: int,
    rows_parts: Mapping[str, Any],
    precision: str,
    ledger: Ledger,
    run: str,
) -> None:
    """Attach to `teacher` a cache of its answers to the `rows` training rows that the key parts `rows_parts` identify.

    `weights`: key parts of the teacher's weights; `spec`: the parts of an answer to store; `precision`: of the training
    that queries the teacher; `run`: an identifier that stays the same over resumes. Trainings in one process share the
    answers in memory. A disk cache that cannot be opened is left out.
    """
    settings = inputs.config.teachers
    parts = {
        "format": FORMAT,
        **weights,
        "config": _config_of(teacher),
        "classes_known": member.classes and list(member.classes),
        "rows": dict(rows_parts),
        "mask_seed": None if inputs.fixed_inputs else inputs.config.seed,
        "precision": precision,
        **({"held": str(teacher_dtype(precision))} if teacher_dtype(precision) else {}),
        "keeps": asdict(spec),
    }
    key = key_of(parts)
    store = inputs.memory_stores.setdefault(key, MemoryStore())
    if settings.cache == "disk":
        data = inputs.config.data.path or inputs.config.data.task or inputs.data_name
        folder = Path(inputs.config.artifacts) / KIND / f"{key}{SUFFIX}"
        store = DiskStore(folder, key, rows, parts, {"teacher": member.name, "data": data})
    cache = AnswerCache(
        store, spec, outputs_of(inputs, member), key, inputs.fixed_inputs, ledger, settings.cache_fill == "alone",
        settings.cache_trouble, inputs.notify,
    )  # fmt: skip
    cache.run = int.from_bytes(hashlib.sha256(run.encode()).digest()[:4], "little")
    if isinstance(store, DiskStore):
        if not _opened(cache, store):
            return
        inputs.store.used[f"{KIND}/{store.folder.name}"] = None
        inputs.notify(f"teacher cache of {member.name}: {readable_size(store.size)} already stored in {store.folder}")
    teacher.cache = cache


def _config_of(teacher: Teacher) -> dict[str, Any]:
    """The config of a teacher's model without names and versions: the use of its weights, for the key."""
    config = json.loads(teacher.encoder.model.config.to_json_string())
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}


def _opened(cache: AnswerCache, store: DiskStore) -> bool:
    """Open the store on disk; False if it is unusable."""
    try:
        store.open(cache.handle_fault)
    except CacheUnusable:
        return False
    except OSError as error:
        cache.handle_error(error, "it")
        return False
    return True
