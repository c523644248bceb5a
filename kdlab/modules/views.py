"""The modules in training as callbacks read them: `TrainedView`, `StudentView` and the `StepReport`s of their steps.

Callbacks depend on these protocols, not on the modules. Letters in shapes are those of `kdlab.types`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kdlab.modules.evaluation import Answers
from kdlab.types import Batch, Evidence, Outputs


@dataclass(frozen=True)
class StepReport:
    """An optimizer step as all ranks know it.

    `loss` the mean over the ranks whose loss is finite; `bad_loss`, `bad_gradient`: not finite on some rank, so the step
    changed no weight; `signum` SIGTERM or SIGINT of any rank, or 0; `wants_checkpoint`: some rank requests one; `rows()`
    the ids of the step's rows, of the ranks with a bad loss if there are any (collective). `teachers`: names of those
    whose answers were not finite.
    """

    step: int
    loss: float
    bad_loss: bool
    bad_gradient: bool
    signum: int
    wants_checkpoint: bool
    rows: Callable[[], list[int]]
    teachers: tuple[str, ...] = ()


class StepHealthView(Protocol):
    """The finite checks of a training, as callbacks read them (`kdlab.modules.finite_checks`)."""

    wants_checkpoint: bool  # this rank requests a checkpoint

    def read(self, but: int = 0) -> list[StepReport]:
        """Reports of the steps not read yet, oldest first, without the newest `but`."""
        ...


class TrainedView(Protocol):
    """A LightningModule in training, as `NonFiniteGuard` and `ProgressCallback` read it: student, teacher or assistant.

    `losses`: "loss" and each term's mean of the last step, (), detached, of this rank.
    """

    losses: dict[str, Tensor]

    @property
    def health(self) -> StepHealthView:
        """Finite checks of the steps."""
        ...

    @property
    def needs_teacher(self) -> bool:
        """True if a knowledge term reads a teacher's answer."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """As `torch.nn.Module.named_parameters`."""
        ...


class StudentView(TrainedView, Protocol):
    """The student in training, as callbacks read it. `kdlab.modules.student.StudentModule` is one.

    `student`: its encoder, to be passed on; `chunk`: units of text with logits at a time; `ledger`: the run's cost, a `kdlab.runtime.ledger.Ledger` or None;
    `trained_rows` (): this rank's rows in the last step's loss; `labels_on_all`: labels of rows that are not selected are learned too.
    """

    student: Any
    chunk: int
    ledger: Any
    trained_rows: Tensor
    labels_on_all: bool

    @property
    def per_row(self) -> bool:
        """True for a classifier."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the student."""
        ...

    @property
    def terms(self) -> Mapping[str, Any]:
        """Knowledge terms by name."""
        ...

    @property
    def teacher_names(self) -> Sequence[str]:
        """Names of the teachers, from small to large."""
        ...

    @property
    def score_names(self) -> Sequence[str]:
        """Names of the scores that `evaluate` returns."""
        ...

    @property
    def answers(self) -> Answers | None:
        """The answers that `evaluate` scored last; None on text."""
        ...

    @property
    def progress(self) -> float:
        """Share of the optimizer steps done, in [0, 1]."""
        ...

    @property
    def decisions(self) -> Mapping[str, Tensor]:
        """Means () over all ranks' rows of the last step's adoption and weighing rules, by column of knowledge.csv."""
        ...

    def decision_columns(self, kinds: Iterable[str]) -> list[str]:
        """The keys that `decisions` may have under rules of these kinds ("adopt", "weigh")."""
        ...

    # ---- cost

    def timed(self, part: str) -> AbstractContextManager[None]:
        """Add the seconds of the block to `part` of the ledger."""
        ...

    def count_flops(self, part: str, amount: int) -> None:
        """Add FLOPs to `part` of the ledger; nothing if it has no name."""
        ...

    def plain_flops(self, batch: Batch) -> tuple[int, int]:
        """FLOPs of a step of plain distillation on `batch`: the student's, its backward included, and the teachers'."""
        ...

    # ---- the student's outputs

    def inference_mode(self) -> AbstractContextManager[None]:
        """No gradient, no dropout, the trainer's precision."""
        ...

    def dropout(self, seed: int) -> AbstractContextManager[None]:
        """Dropout inside `inference_mode`, drawn from `seed`; the global generators are as before after it."""
        ...

    def encode(self, batch: Batch, part: str = "", needed: frozenset[str] = frozenset()) -> Outputs:
        """The student's hidden states for `batch`, and further outputs `needed`; FLOPs go to `part`, if named."""
        ...

    def features(self, outputs: Outputs) -> Tensor:
        """Features (k, H) of the rows of `outputs` for selection strategies."""
        ...

    def evidence(self, batch: Batch, outputs: Outputs, part: str = "", units: bool = False) -> Iterator[Evidence]:
        """Evidence with logits for a few rows at a time, or with `units` for a few positions; the head's FLOPs go to `part`, if named."""
        ...

    def evaluate(self, batches: Iterable[Batch], part: str = "") -> dict[str, float]:
        """Scores over this rank's `batches`, exact over all ranks (collective)."""
        ...

    # ---- losses and teacher queries

    def loss(self, batch: Batch, local: bool = False) -> Tensor:
        """The distillation loss on `batch`, with gradient; `local`: without collectives, and not in the ledger."""
        ...

    def begin_queries(self, micro_step: int) -> None:
        """Assign the teacher queries from here on to a micro-step."""
        ...

    def query_teachers(self, batch: Batch, count: bool = True) -> Any:
        """The answers of plain distillation's teachers for `batch`; `count`: enter them into the ledger."""
        ...

    def teacher_rows(self, batch: Batch | None) -> Any:
        """The largest teacher's logits for `batch`, a `kdlab.modules.evidence.teacher_answers.TeacherRows`: cached, else queried
        (collective if it is shared; None: no rows)."""
        ...

    def share_queried_rows(self) -> None:
        """Tell the ranks which rows each has queried the largest teacher for at this step (collective)."""
        ...

    def catch_up(self) -> None:
        """Join other ranks' queries to shared teachers, without a batch (collective)."""
        ...

    def distillation_loss(self, batches: Iterable[tuple[Batch, Any]], part: str = "") -> float:
        """Mean distillation loss over batches with stored answers, without gradient, over all ranks (collective)."""
        ...
