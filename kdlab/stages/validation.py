"""Checks of a run before anything is loaded or written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlab.config import arguments
from kdlab.errors import UserError
from kdlab.methods.knowledge.base import fields_beyond_logits, is_joint, on_logits
from kdlab.methods.knowledge.hidden_states import patient, relation
from kdlab.methods.knowledge.logits import mean_squared_error
from kdlab.methods.marks import function_of, marks_of, members_of
from kdlab.methods.selection.candidates import reads_student, require_choice
from kdlab.methods.selection.rewards.base import reads
from kdlab.methods.selection.scores import PARTS
from kdlab.models import head_keys, loading, lora, packing
from kdlab.models.student import check_layers, check_recomputes, check_width, pick_layers, transformer_layers
from kdlab.stages import cache_plan, components, decision_callbacks, ksm_training, student_sharding, trained_head
from kdlab.stages.base import Stage
from kdlab.stages.components import Selection
from kdlab.stages.costs import auto
from kdlab.stages.dry_run import check_own_policy, check_own_strategies, check_terms
from kdlab.stages.teachers import teacher_column, teacher_reading
from kdlab.teachers import specs
from kdlab.types import Evidence


def check(stage: Stage) -> None:
    """UserError for inputs that are missing, damaged or contradict each other. Reads little, writes nothing."""
    arguments.check(stage.config)
    try:
        _check(stage)
    except UserError as error:
        if "regression" in str(error) and stage.inputs.inference:  # the inference may be the mistake
            raise UserError(f"{error}; {stage.inputs.inference}") from error
        raise


def _check(stage: Stage) -> None:
    auto.resolve_arms(stage)
    selection = stage.selection()
    stage.inputs.terms()
    stage.inputs.source.check()
    _encoders(stage)
    loading.check_embeddings(stage.inputs.tokenizer, stage.inputs.main_source.config, "the teacher")
    head_keys.has_head(
        stage.inputs.main_source.place, stage.inputs.main_source.config, stage.inputs.head.model_class
    )  # names a damaged file
    _student(stage)
    student_sharding.check(stage)
    _lengths(stage)
    _look(stage, selection)
    _replay(stage)
    _strategies(stage, selection)
    teacher_reading.check(stage)
    stage.inputs.check_rows()
    if stage.inputs.queries_teacher:
        stage.teacher_pool.check()
        _adoption(stage)
        cache_plan.check(stage)
        _dropout(stage)
    elif stage.starts_as_teacher:
        stage.teacher_pool.check_one(stage.teacher_pool.main)
    _layers(stage)
    _first_tokens(stage)
    outputs, label = stage.inputs.example
    fresh = stage.selection()
    check_own_policy(selection.policy, selection.reward, fresh.policy, fresh.reward)
    _reward(stage, selection.reward)
    per_row, width = stage.inputs.head.per_row, stage.inputs.student_shape.width
    check_own_strategies(selection.arms, fresh.arms, outputs, label, width, per_row)
    members = stage.teacher_pool.members if stage.inputs.queries_teacher else [stage.teacher_pool.main]
    check_terms(
        stage.inputs.terms(),
        stage.inputs.student_shape,
        members,
        outputs,
        label,
        stage.inputs.head.model_class,
    )
    ksm_training.check(stage)
    knowledge = stage.config.knowledge
    if knowledge.name == "tinybert" and stage.config.scale.name == "paper" and not knowledge.phase_lrs:
        stage.inputs.notify(
            "knowledge=tinybert: the published epochs, learning rates and lengths are those of recipe=tinybert_paper"
        )
    trained_head.check(stage)
    if stage.config.select.scoring == "early_exit":
        components.exit_layer(stage.config.select, stage.inputs.student_shape.layers)
    kinds = {
        config.model_type for config in (stage.inputs.student_shape.config, *(member.config for member in members))
    }
    for kind in sorted(kinds - set(packing.PACKED) - packing.CAUSAL) if stage.config.exec == "packed" else ():
        stage.inputs.notify(
            f"{kind} models cannot run packed: their texts of similar length run together instead (exec=bucketed)"
        )


def _lengths(stage: Stage) -> None:
    """Rows are no longer than what teacher and student read."""
    longest = stage.inputs.max_length
    for who, config in (("teacher", stage.inputs.main_source.config), ("student", stage.inputs.student_shape.config)):
        most = getattr(config, "max_position_embeddings", None)
        if most and longest > most:
            raise UserError(f"data.max_length={longest}: the {who} reads at most {most} tokens")


def _look(stage: Stage, selection: Selection) -> None:
    """UserError where all rows that are scored are kept, so that scoring decides nothing, and for evidence too large to
    keep. Puts a number in place of select.look=auto."""
    auto.resolve_look(stage)
    config, arms = stage.config, selection.arms
    if config.select.scoring == "stale":
        decision_callbacks.check_stale(arms, config.select.balance, stage.inputs.head.per_row)
    if not any(map(reads_student, arms.values())):
        return
    ranks = config.trainer.num_nodes * (1 if config.trainer.devices == "auto" else int(config.trainer.devices))
    rows = config.data.batch_size * (ranks if config.select.scope == "global" else 1)
    if config.select.unit == "position":
        return  # all positions are scored, and even a row's few are more than those kept
    require_choice(rows, config.select.look, config.select.ratio)


def _replay(stage: Stage) -> None:
    """UserError where rows that were kept before cannot be trained on again as they were."""
    config, inputs = stage.config, stage.inputs
    if not config.select.replay:
        return
    where = f"select.replay={config.select.replay:g}"
    if not inputs.head.per_row:
        raise UserError(f"{where}: only rows of tasks come again with the answers they were given; select.replay=0")
    if config.knowledge.labels_on == "all":
        raise UserError(f"{where} knowledge.labels_on=all: every row is learnt as it comes; select.replay=0")
    if config.select.importance:
        raise UserError(
            f"{where} select.importance=true: rows of other batches have no weight in the estimate of this one; "
            "select.importance=false"
        )
    if inputs.queries_teacher and config.teachers.cache == "off":
        raise UserError(
            f"{where}: rows are trained on again with the answers that the teacher gave, and none are kept; "
            "teachers.cache=memory, or disk, which a resumed run finds again"
        )
    if inputs.queries_teacher and config.teachers.cache_over == "without":
        raise UserError(
            f"{where} teachers.cache_over=without: without a cache each row that comes again would be a query; "
            "teachers.cache_over=refuse"
        )


def _positions(stage: Stage, selection: Selection) -> None:
    """UserError for terms that read all positions, where those of a row are chosen, and for strategies that hold a number
    for each token of the vocabulary at each position of a batch."""
    select = stage.config.select
    logits = torch.zeros(1, 9)
    example = Evidence(logits=logits, features=logits, labels=torch.zeros(1).long(), teacher=logits)
    for name, arm in selection.arms.items() if select.unit != "row" and select.ratio < 1 else ():
        for marks in map(marks_of, members_of(arm).values()):
            if marks.rowwise or not marks.needs & PARTS:
                continue
            if marks.summary is None or marks.summary(example).shape[1] >= logits.shape[1]:
                raise UserError(
                    f"select.unit={select.unit}: select.arms.{name} holds a number for each token of the vocabulary at each "
                    "position of a batch, too many; another strategy, such as entropy, or select.unit=row"
                )
    for name, w in stage.inputs.terms().items() if select.unit != "row" and select.ratio < 1 else ():
        if on_logits(w.term) and w.at == "labelled":
            continue
        what = "compares the states or the attention of all tokens" if not on_logits(w.term) else f"is at={w.at}"
        raise UserError(
            f"select.unit={select.unit}: knowledge.terms.{name} {what}, so it reads positions that are not chosen; "
            f"knowledge.terms.{name}.{'weight=0' if not on_logits(w.term) else 'at=labelled'}, or select.unit=row"
        )


def _reward(stage: Stage, reward: Any) -> None:
    """A reward for each teacher query needs a teacher."""
    per_query = "cost" in reads(reward) and getattr(reward, "per", "") == "queries"
    if per_query and not stage.inputs.queries_teacher and stage.config.select.ratio < 1:
        raise UserError(
            f"select.reward: {type(reward).__name__} per query, and knowledge={stage.config.knowledge.name} queries no "
            "teacher; per=flops (select.reward=per_flop)"
        )


def _encoders(stage: Stage) -> None:
    """Every model that the configuration names is a text encoder, or a decoder in the causal stage: read their configs
    before tokenizers and rows."""
    config, inputs = stage.config, stage.inputs
    _ = inputs.main_source
    if config.student.path is not None:
        loading.load_config(config.student.path, config.student.revision, inputs.head.causal)
    for name, other in config.teachers.others.items() if inputs.queries_teacher else ():
        specs.other(name, other, inputs.main_source)
    paths = [config.adopt.assistant.path] if config.adopt.assistant is not None else []
    paths += [config.data.augment.model] if config.data.augment is not None else []
    for path in paths:
        if path is not None and Path(path).is_dir():  # what lacks a folder has a message of its own
            loading.load_config(path, causal=inputs.head.causal)


def _adoption(stage: Stage) -> None:
    """A column that names teachers is read, and names those there are. Specialists' answers become one answer as probabilities,
    0 for a class that no answering teacher has: no logits."""
    adoption, members = stage.adoption(), stage.teacher_pool.members
    arms = {} if adoption is None else adoption.arms
    teacher_column.check(stage.inputs, members, arms)
    mixes = any(marks_of(rule).mixes == "answers" for rule in arms.values())
    numbers = [name for name, w in stage.inputs.terms().items() if function_of(w.term) is mean_squared_error]
    if mixes and numbers and any(member.classes is not None for member in members):
        raise UserError(
            f"adopt={stage.config.adopt.name} combines the answers of specialists as probabilities, and "
            f"knowledge.terms.{numbers[0]} compares logits: adopt=every, or knowledge=muki"
        )


def _layers(stage: Stage) -> None:
    """Students, shallower teachers and assistants take layers of a model, and sharding and early exits need a list."""
    inputs, members = stage.inputs, stage.teacher_pool.members if stage.inputs.queries_teacher else []

    def empty(config: Any) -> Any:
        with torch.device("meta"):
            return inputs.head.model_class.from_config(copy.deepcopy(config))

    if stage.config.student.path is None and stage.config.student.hidden is None:
        check_layers(empty(inputs.main_source.config))
    for member in members:
        if member.layers is not None:
            check_layers(empty(member.source.config))
        if stage.config.trainer.shard_teacher:
            transformer_layers(empty(member.config))
    if stage.config.select.scoring == "early_exit":
        transformer_layers(empty(inputs.student_shape.config))


def _first_tokens(stage: Stage) -> None:
    """Refuse what reads the first token of a row as its [CLS]: it learns nothing from a decoder, whose first token reads no other."""
    if not stage.inputs.head.causal:
        return
    for name, w in stage.inputs.terms().items():
        if function_of(w.term) in (patient, relation) or (is_joint(w.term) and not on_logits(w.term)):
            raise UserError(
                f"knowledge.terms.{name} compares the first tokens of rows ([CLS]), and a decoder's first token reads no "
                "other: knowledge=causal, or a term on all tokens, such as hidden_mse"
            )
    if "features" in ksm_training.needed_fields(stage):
        raise UserError(
            f"weigh={stage.config.weigh.name} reads the first tokens of rows ([CLS]), and a decoder's first token reads no "
            "other: weigh=fixed, or weigh=uncertainty"
        )


def _strategies(stage: Stage, selection: Selection) -> None:
    """Strategies that a stage has nothing for: histories of classes on masked text, committees of one; terms of positions
    that are not chosen."""
    _positions(stage, selection)
    config, inputs = stage.config, stage.inputs
    arms = selection.arms if config.select.ratio < 1 else {}
    for name, arm in arms.items():
        if marks_of(arm).per_row and not inputs.head.per_row:
            raise UserError(
                f"select.arms.{name} goes by the class of a row, and masked text has none: another strategy for "
                "pre-training, such as select=entropy"
            )
    if not any("votes" in marks_of(arm).needs for arm in arms.values()):
        return
    votes, layers, dropout = config.select.votes, inputs.student_shape.layers, config.student.dropout
    if votes == "exits" and layers < 2:
        raise UserError(
            "select.votes=exits: the student has one layer, so its committee has one member; select.votes=4 for four "
            "forwards with dropout"
        )
    if votes != "exits" and not (_has_dropout(stage, inputs.student_shape.config) if dropout is None else dropout > 0):
        raise UserError(
            f"select.votes={votes}: the student has no dropout, so its forwards are all the same; select.votes=exits, or "
            "student.dropout=0.1"
        )


def _has_dropout(stage: Stage, config: Any) -> bool:
    with torch.device("meta"):
        model = stage.inputs.head.model_class.from_config(copy.deepcopy(config))
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def _dropout(stage: Stage) -> None:
    """Forwards of a teacher differ under Monte Carlo dropout only if it has some."""
    adopt = stage.config.adopt
    for member in stage.teacher_pool.members if adopt.mc_dropout else ():
        if not _has_dropout(stage, member.config):
            raise UserError(
                f"adopt.mc_dropout={adopt.mc_dropout}: the teacher {member.name} has no dropout, so its forwards are all "
                "the same; adopt.mc_dropout=0"
            )


def _student(stage: Stage) -> None:
    given, teacher = stage.config.student, stage.inputs.main_source.config
    if given.path is not None:
        loading.check_safetensors(given.path, given.revision, "student.path")
        loading.check_embeddings(stage.inputs.tokenizer, stage.inputs.student_shape.config, "the student")
        theirs, ours = (
            loading.load_tokenizer(given.path, given.revision, not stage.inputs.head.causal).get_vocab(),
            stage.inputs.tokenizer.get_vocab(),
        )
        if theirs != ours:
            raise UserError(
                f"the student in {given.path} and the teacher {stage.inputs.teacher_name} have different tokenizers "
                f"({len(theirs)} and {len(ours)} tokens, not the same): distillation needs the same vocabulary"
            )
    elif given.hidden is not None:
        check_width(teacher, given.hidden)
    else:
        pick_layers(given.layers, teacher.num_hidden_layers, given.pick)
    if given.lora.rank is not None:
        lora.check_installed()
    config = stage.inputs.student_shape.config  # before the meta device, on which its numbers cannot be read
    with torch.device("meta"):
        empty = stage.empty_model(config)
    if given.lora.rank is not None:
        lora.targets_in(empty, given.lora.targets)
    if given.gradient_checkpointing:
        check_recomputes(empty)
        for name, w in stage.inputs.terms().items():
            if fields_beyond_logits(w.term) & {"scores", "values"}:
                raise UserError(
                    f"student.gradient_checkpointing=true: knowledge.terms.{name} reads the attention of the student's layers, "
                    "which then is not kept; student.gradient_checkpointing=false, or a term on logits or states"
                )
