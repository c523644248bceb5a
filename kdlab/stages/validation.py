"""Everything that can be checked of a run before anything is loaded or written."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from kdlab.errors import UserError
from kdlab.methods.knowledge.logits import mean_squared_error
from kdlab.methods.marks import function_of, marks_of
from kdlab.models import loading, packing
from kdlab.models.student import check_width, pick_layers, transformer_layers
from kdlab.stages import cache_plan, components, ksm_training
from kdlab.stages.dry_run import rehearse

if TYPE_CHECKING:
    from kdlab.stages.base import Stage


def check(bench: Stage) -> None:
    """UserError for inputs that are missing, damaged or contradict each other. Reads little, writes nothing."""
    bench.selection()
    bench.terms()
    bench.source.check()
    _ = bench.tokenizer
    loading.has_head(bench.teacher_source, bench.teacher_config, bench.head)  # names a damaged file
    _student(bench)
    longest, max_length = getattr(bench.teacher_config, "max_position_embeddings", None), bench.config.data.max_length
    if longest and max_length > longest:
        raise UserError(f"data.max_length={max_length}: the teacher reads at most {longest} tokens")
    bench.check_data()
    if bench.asks_teacher:
        bench.teacher_pool.check()
        _mixed(bench)
        cache_plan.check(bench)
        _shared(bench)
    outputs, label = bench.answer
    members = bench.teacher_pool.members if bench.asks_teacher else [bench.teacher_pool.main]
    rehearse([w.term for w in bench.terms().values()], bench.student_cast, members, outputs, label, bench.head)
    ksm_training.check(bench)
    if bench.config.select.scoring == "early_exit":
        components.exit_layer(bench.config.select, bench.student_cast.layers)
    kinds = {config.model_type for config in (bench.student_cast.config, *(member.config for member in members))}
    for kind in sorted(kinds - set(packing.PACKED)) if bench.config.exec == "packed" else ():
        bench.say(
            f"{kind} models cannot run packed: their texts of similar length run together instead (exec=bucketed)"
        )


def _mixed(bench: Stage) -> None:
    """Specialists' answers become one answer as probabilities, 0 for a class that nobody who speaks knows: no logits."""
    adoption, members = bench.adoption(), bench.teacher_pool.members
    arms = {} if adoption is None else adoption.arms
    mixes = any(marks_of(rule).mixes == "answers" for rule in arms.values())
    numbers = [name for name, w in bench.terms().items() if function_of(w.term) is mean_squared_error]
    if mixes and numbers and any(member.classes is not None for member in members):
        raise UserError(
            f"adopt={bench.config.adopt.name} makes one answer of what specialists say, as probabilities, and "
            f"knowledge.terms.{numbers[0]} compares logits: adopt=every, or knowledge=muki"
        )


def _shared(bench: Stage) -> None:
    """The layers of a teacher are shared out, so there must be a list of them."""
    members = bench.teacher_pool.members if bench.config.trainer.shard_teacher else []
    for member in members:
        with torch.device("meta"):
            transformer_layers(bench.head.from_config(copy.deepcopy(member.config)))


def _student(bench: Stage) -> None:
    given, teacher = bench.config.student, bench.teacher_config
    if given.path is not None:
        theirs, ours = loading.load_tokenizer(given.path).get_vocab(), bench.tokenizer.get_vocab()
        if theirs != ours:
            raise UserError(
                f"the student in {given.path} and the teacher {bench.teacher_name} have different tokenizers "
                f"({len(theirs)} and {len(ours)} tokens, not the same): distillation needs the same vocabulary"
            )
    elif given.hidden is not None:
        check_width(teacher, given.hidden)
    else:
        pick_layers(given.layers, teacher.num_hidden_layers, given.pick)
