"""Plan the teacher caches of a run (contents and size) and attach them to its teachers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import is_joint, on_logits, queries_teacher, temperature_of
from kdlab.methods.marks import marks_of
from kdlab.methods.selection.top_k import selection_size
from kdlab.runtime.ledger import Ledger
from kdlab.stages import ksm_training
from kdlab.stages.base import Stage
from kdlab.stages.teachers import answer_cache, teacher_reading
from kdlab.teachers.cache.cache import AnswerCache
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.teachers.cache.memory_store import MemoryStore
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher


@dataclass(frozen=True)
class CachePlan:
    """Plan of the caches before teachers are loaded: stored parts `spec`, `rows` per teacher, total `bytes` (estimate)."""

    spec: CacheSpec
    rows: int
    bytes: int


def cache_spec(stage: Stage) -> CacheSpec:
    """The parts of an answer that terms and rules read. UserError if the vocabulary setting cannot provide them."""
    settings, row = stage.config.teachers, stage.inputs.head.per_row
    named = stage.inputs.terms()  # new objects at each call
    terms = [w for w in named.values() if queries_teacher(w.term)]
    logit_terms = [w for w in terms if on_logits(w.term)]
    reads = frozenset().union(*(marks_of(w.term).needs for w in terms))
    adoption = stage.adoption()
    marks = [] if adoption is None else [marks_of(rule) for rule in adoption.arms.values()]
    adoption_reads_logits = any("teachers" in one.needs for one in marks)
    logits = None
    selection_reads = teacher_reading.reads_teacher(stage.config.select, stage.selection())
    if logit_terms or adoption_reads_logits or selection_reads:
        logits = "row" if row else "tokens" if any(w.at != "labelled" for w in logit_terms) else "labelled"
    hidden = "all" if "hidden" in reads else "first" if "features" in ksm_training.needed_fields(stage) else None
    others = tuple(sorted(reads - {"logits", "hidden"}))
    if settings.cache_vocabulary == "full":
        return CacheSpec(logits, hidden=hidden, others=others)
    where = f"teachers.cache_vocabulary={settings.cache_vocabulary}"
    if row:
        raise UserError(f"{where}: a task's classes are few and kept whole; this is for text (cache_vocabulary=full)")
    if settings.cache_k > stage.inputs.main_source.config.vocab_size:
        size = stage.inputs.main_source.config.vocab_size
        raise UserError(f"teachers.cache_k={settings.cache_k}: the vocabulary has {size} tokens")
    if adoption_reads_logits:
        raise UserError(
            f"{where}: adopt={stage.config.adopt.name} goes by the teachers' uncertainty, which takes cache_vocabulary=full"
        )
    if selection_reads:
        raise UserError(
            f"{where}: select={stage.config.select.name} compares all logits of the teacher: cache_vocabulary=full"
        )
    temperatures = {name: temperature_of(w.term) for name, w in named.items() if w in logit_terms}
    whole = [name for name, w in named.items() if w in logit_terms and marks_of(w.term).whole]
    if whole or None in temperatures.values():
        name = next(iter([*whole, *(name for name, temperature in temperatures.items() if temperature is None)]))
        raise UserError(f"{where}: knowledge.terms.{name} compares all logits: cache_vocabulary=full")
    if joint := [name for name, w in named.items() if w in logit_terms and is_joint(w.term)]:
        raise UserError(
            f"{where}: knowledge.terms.{joint[0]} joins the teachers' logits, which takes cache_vocabulary=full"
        )
    if settings.cache_vocabulary == "topk":
        return CacheSpec(logits, "topk", settings.cache_k, hidden=hidden, others=others)
    if any(one.mixes == "answers" for one in marks):
        raise UserError(
            f"{where}: adopt={stage.config.adopt.name} mixes answers, which takes cache_vocabulary=full or topk"
        )
    distinct = sorted({t for t in temperatures.values() if t is not None})
    if len(distinct) > 1:
        raise UserError(
            f"{where}: it draws at one temperature, and the terms have {distinct}: cache_vocabulary=full or topk"
        )
    return CacheSpec(logits, "sampled", settings.cache_k, distinct[0] if distinct else 1.0, hidden, others)


def check(stage: Stage) -> None:
    """UserError if a cache cannot store the parts of an answer that the run's terms and rules read."""
    if stage.config.teachers.cache != "off":
        cache_spec(stage)


def plan(stage: Stage, data: Any, batches: int, world: int) -> CachePlan | None:
    """Plan the caches and report their approximate size; None without caches. Nothing is loaded yet.

    UserError where it is more than teachers.cache_limit, unless the run may continue without.
    """
    settings = stage.config.teachers
    if settings.cache == "off" or not stage.inputs.queries_teacher:
        return None
    spec = cache_spec(stage)
    rows = max_rows(stage, len(data.train), batches, world)
    members = stage.teacher_pool.members
    units = _units_of_row(stage, spec, data) * _written(stage, spec, len(data.train), batches, world)
    size = sum(_row_bytes(stage, spec, member, data, units) * rows for member in members)
    epochs = 1 if stage.inputs.fixed_inputs else -(-batches // data.sampler(0, world).per_epoch)
    total = int(size + (32 * len(data.train) * epochs * len(members) if settings.cache == "disk" else 0))
    remedy = "" if stage.inputs.head.per_row or spec.vocabulary != "full" else "teachers.cache_vocabulary=sampled, "
    if not answer_cache.within_limit(stage.inputs, total, f"{rows:,} rows of {len(members)} teacher(s)", remedy):
        return None
    return CachePlan(spec, rows, total)


def max_rows(stage: Stage, rows: int, batches: int, world: int) -> int:
    """Upper bound on the answers of a teacher that a run stores; `rows` in the training set, `batches` per training."""
    queries = _queries(stage, batches, world)
    return min(rows, queries) if stage.inputs.fixed_inputs else queries


def _queries(stage: Stage, batches: int, world: int) -> int:
    """Upper bound on the queries of a teacher, each of them of a row."""
    select, size = stage.config.select, stage.config.data.batch_size
    ratio = select.ratio_choices()[-1]  # none is above
    selected = (
        size * world
        if select.unit == "position" or teacher_reading.reads_teacher(select, stage.selection())
        else selection_size(size * world, ratio)
        if select.scope == "global"
        else world * selection_size(size, ratio)
    )
    trainings = 1 + (
        stage.config.weigh.episodes if stage.inputs.fixed_inputs and stage.config.weigh.path is None else 0
    )
    return trainings * batches * selected + (
        select.evaluation_rows if select.observe == "kd" and select.ratio < 1 else 0
    )


def _written(stage: Stage, spec: CacheSpec, rows: int, batches: int, world: int) -> float:
    """Share of a row's positions that is written to its answer, at most: an answer about some is written anew, with those
    that it had, when others are asked for."""
    select = stage.config.select
    share = select.position_share(most=True)
    if share == 1 or spec.logits != "labelled" or teacher_reading.reads_teacher(select, stage.selection()):
        return 1.0
    visits = -(-_queries(stage, batches, world) // rows) if stage.inputs.fixed_inputs else 1
    return sum(min(1.0, visit * share) for visit in range(1, max(1, visits) + 1))


def _units_of_row(stage: Stage, spec: CacheSpec, data: Any) -> float:
    """Mean number of the units of a row of the training set whose logits a cache stores."""
    lengths = np.asarray(data.lengths, dtype=np.float64)
    if spec.logits == "tokens":
        return float(lengths.mean())
    if spec.logits == "labelled":
        masked = stage.config.data.mask_probability * (lengths - 2)
        shares = np.asarray(data.train.labels, np.float64) if stage.inputs.head.causal else masked
        return float(np.maximum(1, np.round(shares)).mean())
    return 1.0


def _row_bytes(stage: Stage, spec: CacheSpec, member: TeacherSpec, data: Any, units: float) -> float:
    """Approximate bytes of an answer to a row of the training set, about so many units."""
    lengths = np.asarray(data.lengths, dtype=np.float64)
    return answer_cache.row_bytes(
        stage.inputs, spec, member, units, float(lengths.mean()), float((lengths**2).mean()), stage.inputs.precision
    )


def attach(
    stage: Stage, caches: CachePlan | None, teachers: Sequence[Teacher], ledger: Ledger, rows: int, run: str
) -> None:
    """Attach each teacher's cache (None: none); `rows` in the training set, `run`: an identifier kept over resumes."""
    if caches is not None:
        for member, teacher in zip(stage.teacher_pool.members, teachers, strict=True):
            answer_cache.attach_cache(
                stage.inputs,
                member,
                stage.teacher_pool.weights(member),
                teacher,
                caches.spec,
                rows,
                stage.inputs.rows_parts,
                stage.inputs.precision,
                ledger,
                run,
            )


@contextmanager
def kept_in_memory(stage: Stage, teachers: Sequence[Teacher], ledger: Ledger) -> Iterator[None]:
    """Caches of these teachers for the block, of which nothing is left: rows that come again in it are no queries."""
    members, inputs = stage.teacher_pool.members, stage.inputs
    for member, teacher in zip(members, teachers, strict=False):  # no teacher where no term reads one
        outputs = answer_cache.outputs_of(inputs, member)
        teacher.cache = AnswerCache(MemoryStore(), cache_spec(stage), outputs, "", inputs.fixed_inputs, ledger)
    try:
        yield
    finally:
        for teacher in teachers:
            teacher.cache = None
