"""Plan the teacher caches of a run: contents, location, size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import Term, on_logits, queries_teacher
from kdlab.methods.marks import marks_of
from kdlab.methods.selection.top_k import selection_size
from kdlab.runtime.ledger import Ledger
from kdlab.stages import ksm_training
from kdlab.stages.base import Stage
from kdlab.stages.teachers import answer_cache
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher


@dataclass(frozen=True)
class CachePlan:
    """The caches of a run before its teachers are loaded: what they keep, and about how many bytes of how many rows."""

    keeps: CacheSpec
    rows: int
    bytes: int


def keeps_of(stage: Stage) -> CacheSpec:
    """What the run's terms and rules read of a teacher's answer. UserError where the wanted vocabulary cannot give it."""
    given, row = stage.config.teachers, stage.inputs.fixed_inputs
    taught = [w for w in stage.inputs.terms().values() if queries_teacher(w.term)]
    on = [w for w in taught if on_logits(w.term)]
    reads = frozenset().union(*(marks_of(w.term).needs for w in taught))
    adoption = stage.adoption()
    marks = [] if adoption is None else [marks_of(rule) for rule in adoption.arms.values()]
    theirs = any("teachers" in one.needs for one in marks)
    logits = None
    if on or theirs:
        logits = "row" if row else "tokens" if any(w.at != "labelled" for w in on) else "labelled"
    hidden = "all" if "hidden" in reads else "first" if "features" in ksm_training.looks(stage) else None
    others = tuple(sorted(reads - {"logits", "hidden"}))
    if given.cache_vocabulary == "full":
        return CacheSpec(logits, hidden=hidden, others=others)
    where = f"teachers.cache_vocabulary={given.cache_vocabulary}"
    if row:
        raise UserError(f"{where}: a task's classes are few and kept whole; this is for text (cache_vocabulary=full)")
    if given.cache_k > stage.inputs.main_source.config.vocab_size:
        raise UserError(
            f"teachers.cache_k={given.cache_k}: the vocabulary has {stage.inputs.main_source.config.vocab_size} tokens"
        )
    if theirs:
        raise UserError(
            f"{where}: adopt={stage.config.adopt.name} goes by the teachers' uncertainty, which takes cache_vocabulary=full"
        )
    temperatures = {name: _temperature(w.term) for name, w in stage.inputs.terms().items() if w in on}
    if None in temperatures.values():
        name = next(name for name, found in temperatures.items() if found is None)
        raise UserError(f"{where}: knowledge.terms.{name} compares all logits: cache_vocabulary=full")
    if given.cache_vocabulary == "topk":
        return CacheSpec(logits, "topk", given.cache_k, hidden=hidden, others=others)
    if any(one.mixes == "answers" for one in marks):
        raise UserError(
            f"{where}: adopt={stage.config.adopt.name} mixes answers, which takes cache_vocabulary=full or topk"
        )
    found = sorted({t for t in temperatures.values() if t is not None})
    if len(found) > 1:
        raise UserError(
            f"{where}: it draws at one temperature, and the terms have {found}: cache_vocabulary=full or topk"
        )
    return CacheSpec(logits, "sampled", given.cache_k, found[0] if found else 1.0, hidden, others)


def check(stage: Stage) -> None:
    """UserError where a cache could not keep what the run's terms and rules read."""
    if stage.config.teachers.cache != "off":
        keeps_of(stage)


def _temperature(term: Term) -> float | None:
    parameter = inspect.signature(term).parameters.get("temperature")
    return None if parameter is None else float(parameter.default)


def plan(stage: Stage, data: Any, batches: int, world: int) -> CachePlan | None:
    """Plan the caches and report their approximate size; None without caches. Nothing is loaded yet.

    UserError where it is more than teachers.cache_limit, unless the run may continue without.
    """
    given = stage.config.teachers
    if given.cache == "off" or not stage.inputs.queries_teacher:
        return None
    keeps = keeps_of(stage)
    rows = rows_asked(stage, len(data.train), batches, world)
    members = stage.teacher_pool.members
    size = sum(_row_bytes(stage, keeps, member, data) * rows for member in members)
    epochs = 1 if stage.inputs.fixed_inputs else -(-batches // data.sampler(0, world).per_epoch)
    total = int(size + (32 * len(data.train) * epochs * len(members) if given.cache == "disk" else 0))
    less = "" if stage.inputs.fixed_inputs or keeps.vocabulary != "full" else "teachers.cache_vocabulary=sampled, "
    if not answer_cache.affordable(stage.inputs, total, f"{rows:,} rows of {len(members)} teacher(s)", less):
        return None
    return CachePlan(keeps, rows, total)


def rows_asked(stage: Stage, rows: int, batches: int, world: int) -> int:
    """How many answers of a teacher a run will keep, at most."""
    select, size = stage.config.select, stage.config.data.batch_size
    each = (
        selection_size(size * world, select.ratio)
        if select.scope == "global"
        else world * selection_size(size, select.ratio)
    )
    trainings = 1 + (
        stage.config.weigh.episodes if stage.inputs.fixed_inputs and stage.config.weigh.path is None else 0
    )
    asked = trainings * batches * each + (select.evaluation_rows if select.observe == "kd" and select.ratio < 1 else 0)
    return min(rows, asked) if stage.inputs.fixed_inputs else asked


def _row_bytes(stage: Stage, keeps: CacheSpec, member: TeacherSpec, data: Any) -> float:
    lengths = np.asarray(data.lengths, dtype=np.float64)
    units = 1.0
    if keeps.logits == "tokens":
        units = float(lengths.mean())
    elif keeps.logits == "labelled":
        units = float(np.maximum(1, np.round(stage.config.data.mask_probability * (lengths - 2))).mean())
    return answer_cache.row_bytes(
        stage.inputs, keeps, member, units, float(lengths.mean()), float((lengths**2).mean()), stage.inputs.precision
    )


def attach(
    stage: Stage, found: CachePlan | None, teachers: Sequence[Teacher], ledger: Ledger, rows: int, run: str
) -> None:
    """Give each teacher its cache; `rows` of the training set, `run` what names this run over its interruptions."""
    if found is not None:
        for member, teacher in zip(stage.teacher_pool.members, teachers, strict=True):
            answer_cache.remember(
                stage.inputs,
                member,
                stage.teacher_pool.weights(member),
                teacher,
                found.keeps,
                rows,
                stage.inputs.rows_parts,
                stage.inputs.precision,
                ledger,
                run,
            )
