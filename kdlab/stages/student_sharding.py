"""Refuse what a student that is sharded over the ranks (`trainer.shard_student`) cannot do."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from kdlab.config.groups.select import PROBE
from kdlab.errors import UserError
from kdlab.methods.knowledge.base import is_joint, on_logits
from kdlab.models import flops, packing
from kdlab.models.student import transformer_layers
from kdlab.stages.base import Stage


def check(stage: Stage) -> None:
    """UserError for a sharded student with settings under which ranks would run different forwards of it, or parts of it
    would have to be whole."""
    if not stage.config.trainer.shard_student:
        return
    for setting, reason, instead in (*_selection(stage), *_training(stage)):
        raise UserError(f"trainer.shard_student=true {setting}: {reason}; {instead}")
    with torch.device("meta"):
        transformer_layers(stage.inputs.head.model_class.from_config(copy.deepcopy(stage.inputs.student_shape.config)))


def _selection(stage: Stage) -> Iterator[tuple[str, str, str]]:
    """Settings of selection that cannot go with it, each with the reason and what would go."""
    select, unequal = stage.config.select, "ranks would run different forwards of a student that needs all of them"
    if stage.config.trainer.trace_every is not None:
        yield f"trainer.trace_every={stage.config.trainer.trace_every}", unequal, "trainer.trace_every=null"
    if select.ratio == 1:
        return
    if select.scoring == "stale":
        yield "select.scoring=stale", unequal, "select.scoring=fresh select.look=0.3"
    if select.scoring == "early_exit":
        yield (
            "select.scoring=early_exit",
            "the first layers share the parameters of a whole student",
            "select.scoring=fresh",
        )
    if select.scope == "local":
        yield "select.scope=local", unequal, "select.scope=global"
    if select.probe_every is not None or (isinstance(select.reward, dict) and select.reward.get("_target_") == PROBE):
        yield (
            "select.probe_every or select.reward=probe",
            "probes set back the weights of a whole student",
            "leave them out",
        )


def _training(stage: Stage) -> Iterator[tuple[str, str, str]]:
    """Other settings that cannot go with it, as `_selection`."""
    config, inputs = stage.config, stage.inputs
    family = inputs.student_shape.config.model_type
    if config.exec == "bucketed":
        yield "exec=bucketed", "the number of buckets differs from rank to rank", "exec=packed or exec=padded"
    if config.exec == "packed" and family not in packing.PACKED and family not in packing.CAUSAL:
        reason = f"{family} models cannot run packed but in buckets, whose number differs from rank to rank"
        yield "exec=packed", reason, "exec=padded"
    if config.student.lora.rank is not None:
        reason = "adapters train few weights, and their optimizer's state is small"
        yield f"student.lora.rank={config.student.lora.rank}", reason, "trainer.shard_student=false"
    if config.trainer.precision == "16-mixed":
        reason = "gradients that are scaled would have to be whole"
        yield "trainer.precision=16-mixed", reason, "trainer.precision=bf16-mixed or 32-true"
    if config.weigh.episodes and config.weigh.path is None:
        reason = "a module that weighs knowledge is trained by one process with a whole student"
        yield f"weigh.episodes={config.weigh.episodes}", reason, "train it without, then give weigh.path="
    if share := getattr(config.data, "generated", 0):
        yield f"data.generated={share}", "a student that writes rows has to be whole", "data.generated=0"
    if inputs.queries_teacher and len(stage.teacher_pool.members) > 1:
        yield from _several_teachers(stage)


def _several_teachers(stage: Stage) -> Iterator[tuple[str, str, str]]:
    """Terms that would train parts of the student on the ranks alone where some teacher answers, as `_selection`."""
    terms, members, width = stage.inputs.terms(), stage.teacher_pool.members, stage.inputs.student_shape.width
    projects = any(flops.shape_of(member.config).hidden != width for member in members)
    always = any(on_logits(w.term) and (w.since, w.until) == (0.0, 1.0) and not w.head_only for w in terms.values())
    for name, w in terms.items():
        if not on_logits(w.term) and (is_joint(w.term) or projects or not always):
            reason = f"knowledge.terms.{name} trains projections, or layers, on the ranks alone where a teacher answers"
            instead = f"knowledge.terms.{name}.weight=0, teachers of the student's width beside a term on logits, or one teacher"
            yield f"with {len(members)} teachers", reason, instead
