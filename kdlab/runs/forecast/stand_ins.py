"""Models of the shapes of a run, with random weights: they take the time and memory of the real ones, and load no file."""

from __future__ import annotations

import copy
from typing import Any

from kdlab.models import loading
from kdlab.models.encoder import Encoder
from kdlab.models.student import pick_layers, random_student, student_from
from kdlab.runtime.ledger import Ledger
from kdlab.stages.base import Stage
from kdlab.teachers.specs import TeacherSpec
from kdlab.teachers.teacher import Teacher


def model_of(stage: Stage, config: Any, classes: int | None = None) -> Any:
    """A model of a config with the head of the stage, for `classes` classes (None: those of the task), with random weights."""
    config = copy.deepcopy(config)
    if stage.inputs.head.per_row:
        config.num_labels = classes or stage.inputs.example[0]
        config.problem_type = "regression" if stage.inputs.regression else "single_label_classification"
        if hasattr(config, "classifier_pooling"):
            config.classifier_pooling = "cls"
    return stage.inputs.head.model_class.from_config(config).float()


def source_model(stage: Stage, member: TeacherSpec) -> Any:
    """A teacher, with random weights."""
    classes = None if member.classes is None else len(member.classes)
    model = model_of(stage, member.source.config, classes)
    return model if member.layers is None else student_from(model, member.layers)


def teacher_of(stage: Stage, member: TeacherSpec, ledger: Ledger) -> Teacher:
    """A teacher that answers at random."""
    encoder = Encoder(source_model(stage, member), stage.inputs.execution)
    return Teacher(member.name, encoder, ledger.count_queries, None, member.classes)


def teachers_of(stage: Stage, ledger: Ledger) -> list[Teacher]:
    """The run's teachers, from small to large; none if no term reads one."""
    if not stage.inputs.queries_teacher:
        return []
    return [teacher_of(stage, member, ledger) for member in stage.teacher_pool.members]


def student_of(stage: Stage) -> Encoder:
    """The run's student, with its frozen parts and dropout."""
    given, source = stage.config.student, stage.inputs.main_source.config
    if given.path is not None:
        model = model_of(stage, loading.load_config(given.path, given.revision, stage.inputs.head.causal))
    elif given.hidden is not None:
        model = random_student(model_of(stage, source), given.layers, given.hidden)  # pyright: ignore[reportArgumentType]
    else:
        layers = pick_layers(given.layers, source.num_hidden_layers, given.pick)  # pyright: ignore[reportArgumentType]
        model = student_from(model_of(stage, source), layers)
    return stage.trained_encoder(model)
