"""A finished run loaded for analyses: its student at any checkpoint, its teacher, its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import on_logits, queries_teacher
from kdlab.methods.selection.strategies import Strategy
from kdlab.models.encoder import Encoder
from kdlab.models.head import head_of_result
from kdlab.models.loading import silence_transformers
from kdlab.models.student import freeze
from kdlab.modules.row_pool import RowPool, named_strategies, row_pool, text_pool
from kdlab.plugins import own_modules
from kdlab.reporting.analyses.gradients import Loss, units
from kdlab.runs import finished
from kdlab.runs.closing.scores import about
from kdlab.runs.keeping import check_student
from kdlab.stages.finetuning import FinetuneStage
from kdlab.stages.registry import stage_of
from kdlab.storage import checkpoints
from kdlab.types import Batch, Outputs, TaskShape

Notify = Callable[[str], None]


class OpenRun:
    """A finished run with its student, its teacher and its rows, each loaded when first used.

    `checkpoint`: load the student of that file instead of the finished one. UserError for a run on plain text unless
    `text` allows it.
    """

    def __init__(self, run: Path, notify: Notify = print, checkpoint: Path | None = None, text: bool = False) -> None:
        result, self.config = finished.finished_result(run, "name", "steps"), finished.config_of(run)
        self.head = head_of_result(result)
        if not self.head.per_row and not text:
            raise UserError(
                f"{run} is a run on plain text; this analysis reads labelled rows (a run of the fine-tuning stage)"
            )
        if change := own_modules.difference(result.get("code", [])):
            notify(f"the run {change}: what follows is of the code as it is now")
        silence_transformers()
        self.run, self.notify, self.checkpoint = run, notify, checkpoint
        self.steps = int(result["steps"])
        self.stage = stage_of(self.config, notify)
        self.stage.inputs.source.check()
        gpu = torch.cuda.is_available() and self.config.trainer.accelerator != "cpu"
        self.device = torch.device("cuda" if gpu else "cpu")
        select = result["select"]
        words = [result["name"], f"select={select['name']}", f"ratio {select['ratio']:g}", about(result)]
        self.about = "   ·   ".join(words)

    @cached_property
    def data(self) -> Any:
        """The run's data module, for one micro-batch."""
        return self.stage.inputs.data_module(1, None)

    @cached_property
    def regression(self) -> bool:
        """True if the task is regression."""
        return self.stage.inputs.regression

    @property
    def shape(self) -> TaskShape:
        """Classes, labels and metrics of the task; only for the fine-tuning stage."""
        assert isinstance(self.stage, FinetuneStage)
        return self.stage.inputs.shape

    @cached_property
    def student(self) -> Encoder:
        """The student, in eval mode, with what the run froze frozen."""
        check_student(self.run, finished.finished_result(self.run))
        encoder = self._ready(self.stage.inputs.load(self.run / "student"))
        if self.checkpoint is not None:
            self.restore(encoder, self.checkpoint)
        return encoder

    def start(self) -> Encoder:
        """The student before its training."""
        return self.stage.student(None).eval().to(self.device)

    def _ready(self, model: Any) -> Encoder:
        freeze(model, self.config.student.freeze)
        return Encoder(model).eval().to(self.device)

    def restore(self, encoder: Encoder, checkpoint: Path) -> None:
        """Put a checkpoint's student into `encoder`; UserError where it is another model's."""
        state = checkpoints.load(checkpoint).get("state_dict", {})
        theirs = {name.removeprefix("student."): x for name, x in state.items() if name.startswith("student.")}
        try:
            encoder.load_state_dict(theirs)
        except RuntimeError as error:
            raise UserError(
                f"{checkpoint} holds no student of the run {self.run}: {str(error).splitlines()[0]}"
            ) from error

    @cached_property
    def teacher(self) -> Any:
        """The main teacher. UserError for a run without one, or with specialists."""
        found = self.stage.teachers(None)
        if not found:
            raise UserError(f"the run {self.run} asked no teacher (knowledge={self.config.knowledge.name})")
        if found[-1].classes is not None:
            raise UserError(f"the run {self.run} has specialists for some classes each; this needs one teacher of all")
        return found[-1].to(self.device)

    def told(self, batch: Batch) -> Tensor:
        """The teacher's logits (U, C) at a batch's units; not in any ledger."""
        shown = self.teacher.query(batch, count=False)
        return self.teacher.project(self.teacher.encoder.vectors(shown, *units(batch))).float()

    def strategies(self, names: Sequence[str] | None, default: Sequence[str] | None = None) -> dict[str, Strategy]:
        """The strategies called `names`; without names `default`, else AdaDS's and the run's arms. UserError for unknown names."""
        return named_strategies(names, self.stage.selection().arms, self.regression, default)

    def ratio(self, given: float | None) -> float:
        """The share of the rows to select: as given, or the run's own; UserError where that is all of them."""
        ratio = self.config.select.ratio if given is None else given
        if given is None and ratio == 1:
            raise UserError(
                f"{self.run} selects all rows (select.ratio=1): no selected rows to show; "
                "gradients, and tsne with --ratio, select among them"
            )
        if not 0 < ratio < 1:
            raise UserError(f"--ratio: a share between 0 and 1 says which rows are selected, found {ratio:g}")
        return ratio

    def soft_loss(self) -> Loss:
        """The run's distillation loss on logits: the weighted sum of its terms that read the teacher's."""
        terms = [w for w in self.stage.inputs.terms().values() if on_logits(w.term) and queries_teacher(w.term)]
        if not terms:
            raise UserError(
                f"knowledge={self.config.knowledge.name} of {self.run} learns nothing from a teacher's logits"
            )

        def loss(student: Outputs, teacher: Outputs) -> Tensor:
            return torch.stack([w.weight * w.term(student, teacher) for w in terms]).sum(0)

        return loss

    def row_pool(self, batch: Batch) -> RowPool:
        """The evidence of a batch (on the device) that strategies read."""
        if self.head.per_row:
            return row_pool(self.student, [batch], self.device)
        return text_pool(self.student, batch)

    def batches(self, rows: int) -> Iterator[Batch]:
        """`rows` training rows drawn once (those that a policy watches), in batches of the run's size."""
        return self.data.observed_batches(rows)
