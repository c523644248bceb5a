"""Configuration groups of the student: its size, its adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from kdlab.config.validators import one_of
from kdlab.errors import UserError
from kdlab.ranges import (
    BelowOne,
    Layers,
    Positive,
    Range,
    Width,
)


@dataclass
class LoRAConfig:
    """Low-rank adapters that train in place of the student's own weights (Hu et al. 2022; the extra lora)."""

    rank: Annotated[int, Range(1, usual=4096)] | None = None
    "Rank of the adapters (Hu et al. 2022: 1 to 64); null: no adapters, the student's own weights train"
    alpha: Positive | None = None
    "Adapters are multiplied by alpha / rank; null: 2 rank"
    targets: Annotated[Any, Literal["all"] | list[str]] = "all"
    "Linear layers with adapters, by the ends of their names, such as [q_proj,v_proj]; all: those of every layer"
    dropout: BelowOne = 0.0
    "Dropout probability of the adapters' inputs"

    def check(self) -> None:
        """UserError for settings of adapters that are not there."""
        for name, default in (("alpha", None), ("targets", "all"), ("dropout", 0.0)):
            if self.rank is None and (value := getattr(self, name)) != default:
                raise UserError(f"student.lora.{name}={value}: without student.lora.rank there are no adapters")
        if self.targets == []:
            raise UserError("student.lora.targets=[]: names of linear layers, such as [q_proj,v_proj], or all")


@dataclass
class StudentConfig:
    """The student's architecture and its initial weights."""

    layers: Annotated[Any, Literal["all"] | Layers | None] = None
    "Teacher layers that initialise the student: a number, a share such as 0.5, a list such as [0,2,4] (from 0), or all"
    start: str = "backbone"
    "finetune: model that gives its layers: backbone (before fine-tuning, with a new head) or teacher (with its own)"
    pick: str = "even"
    "Layers that a number takes: even (evenly spaced) or first (Dynamic KD, KSM: the first L)"
    path: str | None = None
    "Model folder or Hub name of the initial student, used instead of layers; its vocabulary must be the teacher's"
    revision: str | None = None
    "Revision (commit, tag or branch) of the initial student on the Hub; null: the default branch"
    hidden: Width | None = None
    "Hidden size of a narrower student of random weights, with a number of layers; null: the teacher's"
    dropout: BelowOne | None = None
    "Dropout probability of the student; null: the teacher's"
    freeze: list[str] = field(default_factory=list)
    "Parts of names; parameters whose name contains one are not trained (DistilBERT: position_embeddings)"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    "Low-rank adapters that train in place of the student's own weights"
    gradient_checkpointing: bool = False
    "true: layers keep their inputs alone and run anew in the backward: less memory, a forward more"

    def check(self) -> None:
        """UserError for a value out of range, or a hidden size that contradicts the other fields."""
        one_of("student.pick", self.pick, ("even", "first"))
        one_of("student.start", self.start, ("backbone", "teacher"))
        if self.start == "teacher" and (self.path is not None or self.hidden is not None):
            other = f"student.path={self.path}" if self.path is not None else f"student.hidden={self.hidden}"
            raise UserError(
                f"student.start=teacher {other}: a student of another model or width cannot take the teacher's layers and "
                "head; student.start=backbone, or student.layers= with student.path=null and student.hidden=null"
            )
        layers = self.layers
        if self.revision is not None and self.path is None:
            raise UserError(f"student.revision={self.revision}: that of student.path, a Hub name, which is null")
        if self.path is None and layers in (None, []):
            raise UserError(
                f"student.layers={layers}: a number of layers, a share of the teacher's as 0.5, a list as [0,2,4], or all"
            )
        if self.hidden is not None and (self.path is not None or type(layers) is not int):
            raise UserError(
                f"student.hidden={self.hidden}: a narrower student starts from random weights, so student.layers= "
                "is a number of layers and student.path is null"
            )
        if self.hidden is not None and self.lora.rank is not None:
            raise UserError(
                f"student.hidden={self.hidden} student.lora.rank={self.lora.rank}: adapters change weights that know something, "
                "and a narrower student starts from random ones; student.lora.rank=null"
            )
