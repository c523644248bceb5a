"""Values that the packages exchange: `TaskShape`, `Plan`, `Batch`, `Outputs`, `Evidence`, `WeighingContext`; and the
modules in training as callbacks read them: `TrainedView`, `StudentView`.

Dimensions, defined once for the whole package:

B rows of a batch, k rows kept by selection, L tokens of a row (padded), U *units* (the places where a row makes a
prediction: its masked positions in masked-LM, the row itself in classification), P the largest number of units of one
row, C classes (the vocabulary V in masked-LM), H hidden size, T teachers, M knowledge terms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # torch is imported where it is used: `--help` and reports, which need this module, load none
    import torch
    from torch import Tensor

IGNORE = -100  # label of a position that makes no prediction (PyTorch's cross-entropy convention)


def _generator() -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class TaskShape:
    """Inputs, classes and metrics of a task.

    `columns` texts a row (1, or 2 for pairs); `labels` the C class names in index order (None: regression on one
    number); `metrics` the names of its metrics (`kdlab.data.tasks.metrics`).
    """

    columns: int
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for a row: C classes, or 1 in regression."""
        return 1 if self.labels is None else len(self.labels)

    @property
    def regression(self) -> bool:
        """True where the label is a number and not a class."""
        return self.labels is None

    def __str__(self) -> str:
        texts = "pairs of texts" if self.columns == 2 else "single texts"
        if self.labels is None:
            kind = "regression"
        else:
            some = [*self.labels[:6], "..."] if len(self.labels) > 7 else self.labels
            kind = f"{len(self.labels)} classes ({', '.join(some)})"
        return f"{texts}, {kind}, {' and '.join(self.metrics)}"


class RowRule(Protocol):
    """Selects the rows of a batch that query the teachers from the outputs of the training forward (collective).

    `needed`: outputs of the student that it reads, as `Encoder.encode` takes them.
    """

    needed: frozenset[str]

    def __call__(self, batch: Batch, outputs: Outputs) -> Tensor:
        """The rows (k,) int64 ascending, numbered in `batch`, by the student's `outputs` for it."""
        ...


@dataclass
class Plan:
    """Decisions about a batch, made before its step; None stands for the default. No plan at all is plain distillation.

    `rows` (k,) int64 ascending: the rows of the batch that take part and query the teachers (None: all). `adopt`
    decides the weights (k, T) of the teachers, an adoption rule (`kdlab.methods.adoption`; None: each row has the only
    teacher). `weigh` decides the weights (k, M) of the knowledge terms, a weighing rule
    (`kdlab.methods.knowledge.weighing`; None: ones). They are rules, not numbers: their inputs come from the forward of
    the step itself, so they cost no forward of their own. So is `select`, where labels of all rows are learnt: the rows
    that query the teachers, in the place of `rows`.
    """

    rows: Tensor | None = None
    select: RowRule | None = None
    adopt: Callable[..., Tensor] | None = None
    weigh: Callable[..., Tensor] | None = None


@dataclass
class Batch:
    """One micro-batch of one rank. Mutable, because Lightning drops what `on_train_batch_start` returns.

    `rows` (B,) int64 row ids in the data set; `epoch` the pass over the data set they belong to; `input_ids`,
    `attention_mask` (B, L) int64; `labels` (B, L) int64 with IGNORE where nothing is predicted (masked-LM) or (B,)
    (classification; regression in float32, NaN where a label is hidden); `real` (B,) bool, False for a row that only
    keeps an idle rank in step; `token_types` (B, L) int64, 1 in the second text of a pair (None: no segments, as if all
    were 0).
    """

    rows: Tensor
    epoch: int
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    real: Tensor
    plan: Plan | None = None
    token_types: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def labelled(self) -> Tensor:
        """Mask of the labels that exist, (B, L) or (B,) bool: masked positions; rows whose class or number is known."""
        return ~self.labels.isnan() if self.labels.is_floating_point() else self.labels != IGNORE

    def label_places(self) -> tuple[Tensor, Tensor]:
        """Token positions of the labels of masked text, (B, P) int64, ascending, and the mask (B, P) of those that
        exist.

        P is the largest number of labels of one row, at least 1. Positions that do not exist are 0.
        """
        import torch

        labelled = self.labelled()
        counts = labelled.sum(1)
        widest = max(1, int(counts.max()))
        order = labelled.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :widest]
        exists = torch.arange(widest, device=order.device) < counts.unsqueeze(1)
        return order * exists, exists

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device, without a plan."""
        return Batch(
            rows=self.rows.to(device),
            epoch=self.epoch,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
            real=self.real.to(device),
            token_types=None if self.token_types is None else self.token_types.to(device),
        )

    def take(self, index: Tensor) -> Batch:
        """The rows at `index` (k,), trimmed to their own longest sequence; carries no plan."""
        attention_mask = self.attention_mask[index]
        used = attention_mask.any(0).nonzero()
        length = int(used[-1]) + 1 if len(used) else 1
        labels = self.labels[index]
        return Batch(
            rows=self.rows[index],
            epoch=self.epoch,
            input_ids=self.input_ids[index][:, :length],
            attention_mask=attention_mask[:, :length],
            labels=labels[:, :length] if labels.ndim == 2 else labels,
            real=self.real[index],
            token_types=None if self.token_types is None else self.token_types[index][:, :length],
        )


@dataclass
class Outputs:
    """Outputs of one model for U units of k rows; unused fields stay None.

    `logits` (U, C); `labels` (U,); `hidden` last hidden states (k, L, H); `mask` (k, L) 1 at real tokens; `states`
    hidden states (k, L, H) of the embeddings and then of each layer; `scores` attention scores (k, A, L, L) of each
    layer's A heads, scaled, before mask and softmax; `values` the layers' attention values (k, A, L, d); `uncertainty`
    (k,) of the rows, entropy / log C in [0, 1], detached, once it was computed; `classes` the classes of the data that
    the C logits are of (None: all, in order).
    """

    logits: Tensor | None = None
    labels: Tensor | None = None
    hidden: Tensor | None = None
    mask: Tensor | None = None
    states: tuple[Tensor, ...] | None = None
    scores: tuple[Tensor, ...] | None = None
    values: tuple[Tensor, ...] | None = None
    uncertainty: Tensor | None = None
    classes: Sequence[int] | None = None

    def take(self, index: Tensor, length: int) -> Outputs:
        """The rows at `index` (k,), cut to their first `length` tokens; logits and labels are of units and stay out."""

        def layers(states: tuple[Tensor, ...] | None, *tokens: int) -> tuple[Tensor, ...] | None:
            return None if states is None else tuple(_narrow(layer[index], length, tokens) for layer in states)

        return Outputs(
            hidden=None if self.hidden is None else self.hidden[index][:, :length],  # of first tokens alone: no more
            mask=None if self.mask is None else self.mask[index][:, :length],
            states=layers(self.states, 1),
            scores=layers(self.scores, 2, 3),
            values=layers(self.values, 2),
        )


def _narrow(tensor: Tensor, length: int, dimensions: tuple[int, ...]) -> Tensor:
    for dimension in dimensions:
        tensor = tensor.narrow(dimension, 0, length)
    return tensor


@dataclass
class Evidence:
    """The inputs of a selection strategy for N rows. Detached by the caller; fields that the strategy does not need are
    None.

    `rows` (N,) int64 row ids in the data set;
    `logits` (N, C), or (N, P, C) in masked-LM: the student's answers at the P masked positions of each row;
    `features` (N, H) last-layer representation ([CLS]; in masked-LM the mean over real tokens);
    `labels` (N,) as in `Batch`, or (N, P) in masked-LM; `mask` (N, P) bool, which of the P positions exist (None: all);
    `keep` k, how many rows will be kept (None: unknown); `progress` share of training done, in [0, 1]; `rng` generator
    for strategies that draw, keyed by (seed, step).
    """

    rows: Tensor | None = None
    logits: Tensor | None = None
    features: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    keep: int | None = None
    progress: float = 0.0
    rng: torch.Generator = field(default_factory=_generator)

    def __len__(self) -> int:
        for value in (self.rows, self.logits, self.features, self.labels, self.mask):
            if value is not None:
                return len(value)
        raise ValueError("Evidence is empty: give it rows, logits, features, labels or a mask")

    def only(self, fields: Collection[str]) -> Evidence:
        """The same rows with only these of "logits", "features" and "labels"; the mask goes with logits and labels."""
        return replace(
            self,
            logits=self.logits if "logits" in fields else None,
            features=self.features if "features" in fields else None,
            labels=self.labels if "labels" in fields else None,
            mask=self.mask if "logits" in fields or "labels" in fields else None,
        )


@dataclass
class WeighingContext:
    """The inputs of a weighing rule: the rows of the whole global batch in rank order, detached.

    `uncertainty` (k,) of the student, entropy / log C, in [0, 1]; `student` (k, H) and `teachers`, (k, H_t) each: the
    [CLS] state in the last layer, zeros where a teacher was not queried; `teacher_weights` (k, T) the adoption weights;
    `progress` share of training done; `epoch` the pass over the data; `rng` keyed by (seed, step). None: not needed.
    """

    uncertainty: Tensor | None = None
    student: Tensor | None = None
    teachers: tuple[Tensor, ...] = ()
    teacher_weights: Tensor | None = None
    progress: float = 0.0
    epoch: int = 0
    rng: torch.Generator = field(default_factory=_generator)


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

    `student`: its encoder, to be passed on; `ledger`: the run's cost, a `kdlab.runtime.ledger.Ledger` or None;
    `labels_on_all`: labels of rows that are not selected are learned too.
    """

    student: Any
    ledger: Any
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

    def plain_flops(self, batch: Batch) -> tuple[int, int]:
        """FLOPs of one forward of plain distillation on `batch`: the student's and the teachers'."""
        ...

    # ---- the student's outputs

    def inference_mode(self) -> AbstractContextManager[None]:
        """No gradient, no dropout, the trainer's precision."""
        ...

    def encode(self, batch: Batch, part: str = "", needed: frozenset[str] = frozenset()) -> Outputs:
        """The student's hidden states for `batch`, and further outputs `needed`; FLOPs go to `part`, if named."""
        ...

    def features(self, outputs: Outputs) -> Tensor:
        """Features (k, H) of the rows of `outputs` for selection strategies."""
        ...

    def evidence(self, batch: Batch, outputs: Outputs, part: str = "") -> Iterator[Evidence]:
        """Evidence with logits for a few rows at a time; the head's FLOPs go to `part`, if named."""
        ...

    def evaluate(self, batches: Iterable[Batch], part: str = "") -> dict[str, float]:
        """Scores over this rank's `batches`, exact over all ranks (collective)."""
        ...

    # ---- losses and teacher queries

    def loss(self, batch: Batch, local: bool = False) -> Tensor:
        """The distillation loss on `batch`, with gradient; `local`: without collectives, and not in the ledger."""
        ...

    def mean_losses(self) -> dict[str, float]:
        """The finite ones of `losses` as means over the global batch (collective)."""
        ...

    def begin_queries(self, micro_step: int) -> None:
        """Assign the teacher queries from here on to a micro-step."""
        ...

    def query_teachers(self, batch: Batch, count: bool = True) -> Any:
        """The answers of plain distillation's teachers for `batch`; `count`: enter them into the ledger."""
        ...

    def catch_up(self) -> None:
        """Join other ranks' queries to shared teachers, without a batch (collective)."""
        ...

    def distillation_loss(self, batches: Iterable[tuple[Batch, Any]], part: str = "") -> float:
        """Mean distillation loss over batches with stored answers, without gradient, over all ranks (collective)."""
        ...
