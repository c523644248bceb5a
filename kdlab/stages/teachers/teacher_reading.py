"""Selection that reads another model than the student: its checks, and the reference model of `reducible`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdlab.config.groups.select import TEACHER, SelectConfig
from kdlab.errors import UserError
from kdlab.methods.marks import UNDECLARED, marks_of, members_of
from kdlab.models import head_keys, loading
from kdlab.models.encoder import Encoder
from kdlab.modules.evidence.teacher_answers import TEACHER_FIELDS
from kdlab.modules.flop_accounting import FlopCounter
from kdlab.stages.components import Selection
from kdlab.stages.inputs import Inputs
from kdlab.stages.task_inputs import TaskInputs
from kdlab.storage.files import user_path

if TYPE_CHECKING:
    from kdlab.stages.base import Stage

STUDENT = "student"  # folder of the trained student in a run folder


def readers(select: SelectConfig, selection: Selection, *fields: str) -> list[str]:
    """The arms that read some of `fields`, fields of `Evidence`; none where every row is kept."""
    return [
        name
        for name, arm in selection.arms.items()
        if select.ratio < 1 and any(marks_of(member).needs & set(fields) for member in members_of(arm).values())
    ]


def reads_teacher(select: SelectConfig, selection: Selection) -> bool:
    """True where some arm reads the teacher's answers to all rows of a batch."""
    fields = TEACHER_FIELDS if select.reference == TEACHER else ("teacher",)
    return bool(readers(select, selection, *fields))


def check(stage: Stage) -> None:
    """UserError for strategies that read what the run has not: labels of augmented rows, a teacher's cached answers, a
    reference model. Loads configs only."""
    config, select, selection = stage.config, stage.config.select, stage.selection()
    where = f"select={select.name}"
    if (
        config.data.augment is not None
        and (arms := readers(select, selection, "labels"))
        and _declared(selection, arms)
    ):
        raise UserError(
            f"{where}: {arms[0]} reads labels, and augmented rows have none, so it would never keep one: data.augment=null, "
            "or a strategy without labels, such as entropy or disagreement"
        )
    if select.reference != TEACHER:
        if not readers(select, selection, "reference_loss"):
            raise UserError(
                f"select.reference={select.reference}: no strategy of {where} reads it; select=reducible does"
            )
        _check_reference(stage.inputs)
    if not reads_teacher(select, selection):
        return
    arm = readers(select, selection, *TEACHER_FIELDS)[0]
    if not stage.inputs.queries_teacher:
        raise UserError(
            f"{where}: {arm} reads the teacher's answers, and knowledge={config.knowledge.name} queries no teacher"
            + (
                "; select.reference=FOLDER takes a model instead"
                if arm in readers(select, selection, "reference_loss")
                else ""
            )
        )
    if config.teachers.cache == "off":
        often = "once" if stage.inputs.fixed_inputs else "once for each epoch's masks"
        raise UserError(
            f"{where}: {arm} reads the teacher's answer to every row of a batch, kept or not, and there are no cached "
            f"answers: teachers.cache=disk makes them (each row queries the teacher {often}) and keeps them for later runs"
        )
    if any(member.classes is not None for member in stage.teacher_pool.members):
        raise UserError(
            f"{where}: {arm} reads the answers of one teacher, and these are specialists of some classes each"
        )


def _declared(selection: Selection, arms: list[str]) -> bool:
    """True where one of `arms` declares that it reads labels (a strategy without `@needs` is given them unasked)."""
    members = [member for arm in arms for member in members_of(selection.arms[arm]).values()]
    return any("labels" in marks_of(member).needs and marks_of(member) is not UNDECLARED for member in members)


def _folder(reference: str) -> Path:
    """The model folder that `select.reference` names: itself, or the student of a run folder."""
    folder = user_path(reference)
    return folder / STUDENT if (folder / STUDENT / "config.json").is_file() else folder


def _check_reference(inputs: Inputs) -> None:
    """UserError unless the reference is a trained model of the same tokenizer and classes."""
    where, folder = f"select.reference={inputs.config.select.reference}", _folder(inputs.config.select.reference)
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: no model folder, nor a run folder with a student; or select.reference=teacher")
    config = loading.load_config(folder, causal=inputs.head.causal)
    if not head_keys.has_head(folder, config, inputs.head.model_class):
        raise UserError(f"{where}: a model without a trained head has no loss to subtract")
    labels = inputs.shape.labels if isinstance(inputs, TaskInputs) else None
    if labels is not None and loading.labels_of(config) != labels:
        found, ours = (", ".join(names[:9]) for names in (loading.labels_of(config), labels))
        raise UserError(f"{where}: it predicts the classes {found}, and the task has {ours}")
    if loading.load_tokenizer(folder, masks=not inputs.head.causal).get_vocab() != inputs.tokenizer.get_vocab():
        raise UserError(f"{where}: its tokenizer is another one than the teacher's")


def reference(inputs: Inputs) -> Encoder | None:
    """The frozen reference model; None where it is the teacher."""
    select = inputs.config.select
    if select.reference == TEACHER:
        return None
    return Encoder(inputs.load(_folder(select.reference)), inputs.execution)


def reference_counter(stage: Stage) -> FlopCounter | None:
    """Counts the FLOPs of the reference model, whose weights are not loaded; None where it is the teacher."""
    select, inputs = stage.config.select, stage.inputs
    if select.reference == TEACHER:
        return None
    with torch.device("meta"):
        model = stage.empty_model(loading.load_config(_folder(select.reference), causal=inputs.head.causal))
    return FlopCounter(Encoder(model, inputs.execution), (), False)
