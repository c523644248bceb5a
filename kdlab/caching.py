"""Which of a run's teachers remember, what they keep, where, and how much that will be."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab import episodes, flops
from kdlab.adoption import marks_of
from kdlab.answerrows import Keeps
from kdlab.answerstore import DiskStore, MemoryStore
from kdlab.artifacts import key_of
from kdlab.cache import AnswerCache, Unusable
from kdlab.errors import UserError
from kdlab.files import free_bytes, readable_size
from kdlab.ledger import Ledger
from kdlab.strategies import kept
from kdlab.teacher import Teacher, held_in
from kdlab.teacherspecs import TeacherSpec
from kdlab.terms import Term, asks_teacher, function_of, on_logits

if TYPE_CHECKING:
    from kdlab.bench import Bench

KIND = "answers"  # a folder of the artifact store; what is in it grows, so it is none of the store's artifacts
FORMAT = 1
GIGABYTE = 10**9


@dataclass(frozen=True)
class Plan:
    """The caches of a run before its teachers are loaded: what they keep, and about how many bytes of how many rows."""

    keeps: Keeps
    rows: int
    bytes: int


def keeps_of(bench: Bench) -> Keeps:
    """What the run's terms and rules read of a teacher's answer. UserError where the wanted vocabulary cannot give it."""
    given, row = bench.config.teachers, bench.fixed_inputs
    taught = [w for w in bench.terms().values() if asks_teacher(w.term)]
    on = [w for w in taught if on_logits(w.term)]
    reads = frozenset().union(*(function_of(w.term).on for w in taught))
    adoption = bench.adoption()
    marks = [] if adoption is None else [marks_of(rule) for rule in adoption.arms.values()]
    theirs = any("theirs" in one.reads for one in marks)
    logits = None
    if on or theirs:
        logits = "row" if row else "tokens" if any(w.at != "labelled" for w in on) else "labelled"
    hidden = "all" if "hidden" in reads else "first" if "features" in episodes.looks(bench) else None
    others = tuple(sorted(reads - {"logits", "hidden"}))
    if given.cache_vocabulary == "full":
        return Keeps(logits, hidden=hidden, others=others)
    where = f"teachers.cache_vocabulary={given.cache_vocabulary}"
    if row:
        raise UserError(f"{where}: a task's classes are few and kept whole; this is for text (cache_vocabulary=full)")
    if given.cache_k > bench.teacher_config.vocab_size:
        raise UserError(
            f"teachers.cache_k={given.cache_k}: the vocabulary has {bench.teacher_config.vocab_size} tokens"
        )
    if theirs:
        raise UserError(
            f"{where}: adopt={bench.config.adopt.name} goes by the teachers' uncertainty, which takes cache_vocabulary=full"
        )
    temperatures = {name: _temperature(w.term) for name, w in bench.terms().items() if w in on}
    if None in temperatures.values():
        name = next(name for name, found in temperatures.items() if found is None)
        raise UserError(f"{where}: knowledge.terms.{name} compares all logits: cache_vocabulary=full")
    if given.cache_vocabulary == "topk":
        return Keeps(logits, "topk", given.cache_k, hidden=hidden, others=others)
    if any(one.mixes == "answers" for one in marks):
        raise UserError(
            f"{where}: adopt={bench.config.adopt.name} mixes answers, which takes cache_vocabulary=full or topk"
        )
    found = sorted({t for t in temperatures.values() if t is not None})
    if len(found) > 1:
        raise UserError(
            f"{where}: it draws at one temperature, and the terms have {found}: cache_vocabulary=full or topk"
        )
    return Keeps(logits, "sampled", given.cache_k, found[0] if found else 1.0, hidden, others)


def check(bench: Bench) -> None:
    """UserError where a cache could not keep what the run's terms and rules read."""
    if bench.config.teachers.cache != "off":
        keeps_of(bench)


def _temperature(term: Term) -> float | None:
    parameter = inspect.signature(term).parameters.get("temperature")
    return None if parameter is None else float(parameter.default)


def plan(bench: Bench, data: Any, batches: int, world: int) -> Plan | None:
    """What the caches will keep, said with about how much; None without any. Nothing is loaded yet.

    UserError where it is more than teachers.cache_limit, unless the run is to go on without.
    """
    given = bench.config.teachers
    if given.cache == "off" or not bench.asks_teacher:
        return None
    keeps = keeps_of(bench)
    rows = rows_asked(bench, len(data.train), batches, world)
    members = bench.teacher_pool.members
    size = sum(_row_bytes(bench, keeps, member, data) * rows for member in members)
    epochs = 1 if bench.fixed_inputs else -(-batches // data.sampler(0, world).per_epoch)
    total = int(size + (32 * len(data.train) * epochs * len(members) if given.cache == "disk" else 0))
    place = "memory" if given.cache == "memory" else str(Path(bench.config.artifacts) / KIND)
    said = f"teacher cache: about {readable_size(total)} for {rows:,} rows of {len(members)} teacher(s) in {place}"
    if total > given.cache_limit * GIGABYTE:
        said += f", over the limit of {given.cache_limit:g} GB"
        if given.cache_over == "refuse":
            less = "" if bench.fixed_inputs or keeps.vocabulary != "full" else "teachers.cache_vocabulary=sampled, "
            raise UserError(
                f"{said}: raise teachers.cache_limit, or {less}teachers.cache=off, teachers.cache_over=without"
            )
        bench.say(f"{said}: the run goes on without")
        return None
    free = free_bytes(Path(bench.config.artifacts))
    if given.cache == "disk" and total > free:
        said += f" ({readable_size(free)} are free: if that is not enough, the run goes on without writing)"
    bench.say(said)
    return Plan(keeps, rows, total)


def rows_asked(bench: Bench, rows: int, batches: int, world: int) -> int:
    """How many answers of a teacher a run will keep, at most."""
    select, size = bench.config.select, bench.config.data.batch_size
    each = kept(size * world, select.ratio) if select.scope == "global" else world * kept(size, select.ratio)
    asked = batches * each + (select.evaluation_rows if select.observe == "kd" and select.ratio < 1 else 0)
    return min(rows, asked) if bench.fixed_inputs else asked


def _row_bytes(bench: Bench, keeps: Keeps, member: TeacherSpec, data: Any) -> float:
    lengths = np.asarray(data.lengths, dtype=np.float64)
    units = 1.0
    if keeps.logits == "tokens":
        units = float(lengths.mean())
    elif keeps.logits == "labelled":
        units = float(np.maximum(1, np.round(bench.config.data.mask_probability * (lengths - 2))).mean())
    shape = flops.shape_of(member.config)
    outputs = _outputs(bench, member)
    width = 2 if bench.precision != "32-true" else 4
    cast = (shape.layers, shape.hidden, shape.heads)
    return keeps.bytes(units, float(lengths.mean()), float((lengths**2).mean()), outputs, cast, width)


def _outputs(bench: Bench, member: TeacherSpec) -> int:
    if not bench.fixed_inputs:
        return int(member.config.vocab_size)
    return bench.answer[0] if member.classes is None else len(member.classes)


def attach(bench: Bench, found: Plan | None, teachers: Sequence[Teacher], ledger: Ledger, rows: int, run: str) -> None:
    """Give each teacher its cache; `rows` of the training set, `run` what names this run over its interruptions."""
    given = bench.config.teachers
    for member, teacher in zip(bench.teacher_pool.members if found else [], teachers, strict=found is not None):
        assert found is not None
        parts = {
            "format": FORMAT,
            **bench.teacher_pool.weights(member),
            "config": _config_of(teacher),
            "classes_known": member.classes and list(member.classes),
            "rows": bench.rows_parts,
            "mask_seed": None if bench.fixed_inputs else bench.config.seed,
            "precision": bench.precision,
            **({"held": str(held_in(bench.precision))} if held_in(bench.precision) else {}),
            "keeps": asdict(found.keeps),
        }
        key = key_of(parts)
        store = MemoryStore()
        if given.cache == "disk":
            folder = Path(bench.config.artifacts) / KIND / f"{key}.answers"
            given_data = bench.config.data.path or bench.config.data.task or type(bench.source).__name__
            store = DiskStore(folder, key, rows, parts, {"teacher": member.name, "data": given_data})
        outputs = _outputs(bench, member)
        cache = AnswerCache(
            store, found.keeps, outputs, key, bench.fixed_inputs, ledger, given.cache_fill == "alone", given.cache_trouble,
            bench.say,
        )  # fmt: skip
        cache.run = int.from_bytes(hashlib.sha256(run.encode()).digest()[:4], "little")
        if isinstance(store, DiskStore) and not _opened(cache, store):
            continue
        teacher.cache = cache
        if isinstance(store, DiskStore):
            bench.store.used[f"{KIND}/{store.folder.name}"] = None
            bench.say(f"teacher cache of {member.name}: {readable_size(store.size)} are there, in {store.folder}")


def _config_of(teacher: Teacher) -> dict[str, Any]:
    """How a teacher's weights are used."""
    found = json.loads(teacher.encoder.model.config.to_json_string())
    return {key: value for key, value in found.items() if key not in ("_name_or_path", "transformers_version")}


def _opened(cache: AnswerCache, store: DiskStore) -> bool:
    try:
        store.open(cache.mind)
    except Unusable:
        return False
    except OSError as error:
        cache.failed(error, "it")
        return False
    return True
