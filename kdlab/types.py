"""Values that the packages exchange: `Caveat`, `TaskShape`, `Plan`, `Batch`, `Outputs`, `Evidence`, `Observation`,
`WeighingContext`, `Context`.

Dimensions, defined once for the whole package:

B rows of a batch, k rows kept by selection, L tokens of a row (padded), U *units* (the places where a row makes a
prediction: its masked positions in masked-LM, the positions that predict a next token in causal language modelling, the
row itself in classification), P the largest number of units of one row, C classes (the vocabulary V of language models),
H hidden size, T teachers, M knowledge terms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # torch is imported where it is used: `--help` and reports, which need this module, load none
    import torch
    from torch import Tensor

IGNORE = -100  # label of a position that makes no prediction (PyTorch's cross-entropy convention)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, of the host, on `device`. The host does not wait for a GPU; on other devices such a copy is not safe."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def _generator() -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Caveat:
    """A fact about a run that its reader needs beside the numbers.

    `kind`: a short slug ("cut_texts", "learnt_nothing", ...); `text`: one line that states the fact and the remedy."""

    kind: str
    text: str


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
        """The rows (k,) int64 ascending, on the host, numbered in `batch`, by the student's `outputs` for it."""
        ...


class PositionRule(Protocol):
    """Selects the positions of a batch at which the teachers are queried and losses are taken, from the outputs of the
    training forward (collective).

    `needed`: outputs of the student that it reads, as `Encoder.encode` takes them.
    """

    needed: frozenset[str]

    def __call__(
        self, batch: Batch, outputs: Outputs, importance: Importance | None
    ) -> tuple[Tensor, Importance | None]:
        """Mask (k, L) bool, on the host, of the positions kept, some of those with a label, by the student's `outputs` for
        `batch`; and their weights (None: 1 each), from those of the rows, `importance`."""
        ...


@dataclass(frozen=True)
class Importance:
    """Weights of the rows that selection has sampled, by which their loss estimates that of the whole batch without bias.

    `weights` (k,): what each of the k rows kept stands for (`kdlab.methods.selection.keeping.Keeping`), or (k, L), each of
    their positions; `units`: by kind of
    unit (`WeightedTerm.at`), the number of units of the whole batch, of all ranks, and of its rows that have one.
    """

    weights: Tensor
    units: dict[str, tuple[float, float]]


@dataclass
class Plan:
    """Decisions about a batch, made before its step; None stands for the default. No plan at all is plain distillation.

    `rows` (k,) int64 ascending, on the host: the rows of the batch that take part and query the teachers (None: all). `adopt`
    decides the weights (k, T) of the teachers, an adoption rule (`kdlab.methods.adoption`; None: each row has the only
    teacher). `weigh` decides the weights (k, M) of the knowledge terms, a weighing rule
    (`kdlab.methods.knowledge.weighing`; None: ones). They are rules, not numbers: their inputs come from the forward of
    the step itself, so they cost no forward of their own. So is `select`, where labels of all rows are learnt: the rows
    that query the teachers, in the place of `rows`. `importance`: weights of the rows that it selects (None: 1 each, and
    the loss is the mean over these rows). `positions`: selects positions of these rows (None: all that have a label).
    """

    rows: Tensor | None = None
    select: RowRule | None = None
    positions: PositionRule | None = None
    importance: Importance | None = None
    adopt: Callable[..., Tensor] | None = None
    weigh: Callable[..., Any] | None = None

    @property
    def needed(self) -> frozenset[str]:
        """Outputs of the training forward that its selections read."""
        return frozenset().union(*(rule.needed for rule in (self.select, self.positions) if rule is not None))

    @property
    def selects_positions_alone(self) -> bool:
        """True where positions are selected, of all rows."""
        return self.positions is not None and self.rows is None and self.select is None


@dataclass
class Batch:
    """One micro-batch of one rank. Mutable, because Lightning drops what `on_train_batch_start` returns.

    `rows` (B,) int64 row ids in the data set; `epoch` the pass over the data set they belong to; `input_ids`,
    `attention_mask` (B, L) int64; `labels` (B, L) int64 with IGNORE where nothing is predicted (masked-LM) or (B,)
    (classification; regression in float32, NaN where a label is hidden); `real` (B,) bool, False for a row that only
    keeps an idle rank in step; `token_types` (B, L) int64, 1 in the second text of a pair (None: no segments, as if all
    were 0).

    In causal language modelling `labels[b, t]` is the token to be predicted from position t, `input_ids[b, t + 1]`: nothing
    after the data shifts it. `documents` (B, L) int64: the number of each token's document within its row, ascending from 0;
    tokens attend within their document, whose positions begin at 0 (None: each row is one document).

    `predicted` (B, L) bool: the positions that have a label in the data, where selection has kept the labels of some of them
    alone (`narrowed`; None: nothing was left out).

    `following`: the other micro-batches of the same optimizer step, on the host, where this is the first of it.

    `host`: the same rows in the host's memory. Sizes, numbers and places of rows, tokens and labels are worked out there, so
    that a step on a GPU asks the device for none of them.
    """

    rows: Tensor
    epoch: int
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    real: Tensor
    plan: Plan | None = None
    token_types: Tensor | None = None
    documents: Tensor | None = None
    predicted: Tensor | None = None
    following: tuple[Batch, ...] = field(default=(), repr=False, compare=False)
    copied: tuple[list[tuple[Tensor | None, int]], Batch, list[tuple[Tensor | None, int]]] | None = field(
        default=None, repr=False, compare=False
    )  # `host` between what it is of and what it held then
    counts: Any = field(default=None, repr=False, compare=False)  # made by `kdlab.models.batch_counts`

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def host(self) -> Batch:
        """These rows on the host: itself there; else the batch that `to` or `take` came from, as long as no tensor of either
        was changed, and a copy after that, for which the host waits. `torch.inference_mode` counts no changes: there each
        is a copy."""
        if self.rows.device.type == "cpu":
            return self
        if self.copied is None or not (self._is(self.copied[0]) and self.copied[1]._is(self.copied[2])):
            self._beside(self._each(lambda tensor: tensor.cpu()))
        assert self.copied is not None
        if self.copied[1].epoch != self.epoch:
            self._beside(replace(self.copied[1], epoch=self.epoch))
        return self.copied[1]

    def _is(self, state: list[tuple[Tensor | None, int]]) -> bool:
        """True if the tensors are those of `state`, and none has been changed in place."""
        now = self._state()
        return all(
            one is other and version == seen >= 0 for (one, version), (other, seen) in zip(now, state, strict=True)
        )

    def _state(self) -> list[tuple[Tensor | None, int]]:
        """The tensors, and the number of changes in place of each; -1 where torch does not count them."""
        tensors = [getattr(self, name) for name in _TENSORS]
        return [(x, 0 if x is None else -1 if x.is_inference() else x._version) for x in tensors]

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A batch of the results of `function` for each tensor, without a plan."""
        named = {name: getattr(self, name) for name in _TENSORS}
        return Batch(epoch=self.epoch, **{name: x if x is None else function(x) for name, x in named.items()})  # pyright: ignore

    def _beside(self, host: Batch) -> Batch:
        """This batch, of whose rows `host` is the copy on the host."""
        self.copied = self._state(), host, host._state()
        return self

    def narrowed(self, chosen: Tensor) -> Batch:
        """The same rows with the labels of the positions `chosen` (B, L) bool alone, and IGNORE at all others."""
        predicted = self.labelled() if self.predicted is None else self.predicted
        mask = moved(chosen, self.labels.device)
        narrowed = replace(self, labels=self.labels.masked_fill(~mask, IGNORE), predicted=predicted)
        return narrowed if self.host is self else narrowed._beside(self.host.narrowed(chosen.cpu()))

    def labelled(self) -> Tensor:
        """Mask of the labels that exist, (B, L) or (B,) bool: masked positions; rows whose class or number is known."""
        return ~self.labels.isnan() if self.labels.is_floating_point() else self.labels != IGNORE

    def label_places(self) -> tuple[Tensor, Tensor]:
        """Token positions of the labels of masked text, (B, P) int64, ascending, and the mask (B, P) of those that
        exist.

        P is the largest number of labels of one row, at least 1. Positions that do not exist are 0.
        """
        import torch

        labelled = self.host.labelled()
        counts = labelled.sum(1)
        widest = max(1, int(counts.max()))
        order = labelled.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :widest]
        exists = torch.arange(widest) < counts.unsqueeze(1)
        device = self.labels.device
        return moved(order * exists, device), moved(exists, device)

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device, without a plan."""
        there = self._each(lambda tensor: moved(tensor, device))
        there.following = self.following
        return there if device.type == "cpu" else there._beside(self.host)

    def pin_memory(self) -> Batch:
        """The same rows in pinned memory, from which a copy to a GPU runs beside the host (called by a DataLoader)."""
        return self._each(lambda tensor: tensor.pin_memory())

    def take(self, index: Tensor) -> Batch:
        """The rows at `index` (k,), of the host, trimmed to their own longest sequence; carries no plan."""
        index, host = index.cpu(), self.host
        used = host.attention_mask[index].any(0).nonzero()
        length = int(used[-1]) + 1 if len(used) else 1
        taken = host._each(lambda tensor: tensor[index][:, :length] if tensor.ndim == 2 else tensor[index])
        if host is self:
            return taken
        places = moved(index, self.rows.device)
        return self._each(lambda x: x[places][:, :length] if x.ndim == 2 else x[places])._beside(taken)


_TENSORS = ("rows", "input_ids", "attention_mask", "labels", "real", "token_types", "documents", "predicted")


@dataclass
class Outputs:
    """Outputs of one model for U units of k rows; unused fields stay None.

    `logits` (U, C); `tokens` (U, k) of a stored answer: the classes that its k logits are of (None: all C in order); `labels` (U,); `hidden` last hidden states (k, L, H); `mask` (k, L) 1 at real tokens; `states`
    hidden states (k, L, H) of the embeddings and then of each layer; `scores` attention scores (k, A, L, L) of each
    layer's A heads, scaled, before mask and softmax; `values` the layers' attention values (k, A, L, d); `uncertainty`
    (k,) of the rows, entropy / log C in [0, 1], detached, once it was computed; `classes` the classes of the data that
    the C logits are of (None: all, in order); `documents` (k, L) as in `Batch`;
    `causal`: a token reads none after it; `progress` share of the training done, in [0, 1].
    """

    logits: Tensor | None = None
    tokens: Tensor | None = None
    labels: Tensor | None = None
    hidden: Tensor | None = None
    mask: Tensor | None = None
    states: tuple[Tensor, ...] | None = None
    scores: tuple[Tensor, ...] | None = None
    values: tuple[Tensor, ...] | None = None
    uncertainty: Tensor | None = None
    classes: Sequence[int] | None = None
    documents: Tensor | None = None
    causal: bool = False
    progress: float = 0.0

    def take(self, index: Tensor, length: int) -> Outputs:
        """The rows at `index` (k,), on either side, cut to their first `length` tokens; logits and labels are of units and stay
        out."""
        held = self.hidden if self.hidden is not None else self.mask
        index = index if held is None else moved(index, held.device)

        def layers(states: tuple[Tensor, ...] | None, *tokens: int) -> tuple[Tensor, ...] | None:
            return None if states is None else tuple(_narrow(layer[index], length, tokens) for layer in states)

        return Outputs(
            hidden=None if self.hidden is None else self.hidden[index][:, :length],  # of first tokens alone: no more
            mask=None if self.mask is None else self.mask[index][:, :length],
            states=layers(self.states, 1),
            scores=layers(self.scores, 2, 3),
            values=layers(self.values, 2),
            documents=None if self.documents is None else self.documents[index][:, :length],
            causal=self.causal,
            progress=self.progress,
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
    `places` (n,): the flat indices of the P that exist, ascending, where they are known (None: `mask` says it);
    `teacher` (N, C), or (N, P, C): the teacher's logits from its cache;
    `reference_loss` (N,): cross-entropy of the labels in nats, of a reference model (in masked-LM the mean over P);
    `votes` (V, N, C), or (V, N, P, C): logits of V versions of the student;
    `summary` (N, D): what a strategy's mark of that name made of the rows, in place of their logits;
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
    teacher: Tensor | None = None
    reference_loss: Tensor | None = None
    votes: Tensor | None = None
    summary: Tensor | None = None
    places: Tensor | None = None

    def __len__(self) -> int:
        for value in self.columns():
            if value is not None:
                return len(value)
        raise ValueError("Evidence is empty: give it rows, logits, features, labels or a mask")

    def columns(self) -> tuple[Tensor | None, ...]:
        """The tensors that it may hold, each with one entry a row in its first dimension (the votes of one version)."""
        votes = None if self.votes is None else self.votes[0]
        given = (self.rows, self.logits, self.features, self.labels, self.mask, self.teacher, self.reference_loss)
        return (*given, votes)

    def take(self, index: Tensor) -> Evidence:
        """The rows at `index` (n,)."""
        names = ("rows", "logits", "features", "labels", "mask", "teacher", "reference_loss")
        held = {name: value for name in names if (value := getattr(self, name)) is not None}
        taken = {name: value[index.to(value.device)] for name, value in held.items()}
        votes = None if self.votes is None else self.votes[:, index.to(self.votes.device)]
        return replace(self, **taken, votes=votes, places=None)

    def only(self, fields: Collection[str]) -> Evidence:
        """The same rows with only these of the fields that a strategy declares (`STRATEGY_FIELDS` of
        `kdlab.methods.marks`); the mask goes with what has one entry for each of P positions."""
        optional = ("logits", "features", "labels", "teacher", "reference_loss", "votes")
        left_out: dict[str, Any] = {name: None for name in optional if name not in fields}
        if not {"logits", "labels", "teacher", "votes"} & set(fields):
            left_out |= {"mask": None, "places": None}
        return replace(self, **left_out)


@dataclass(frozen=True)
class Observation:
    """An observation of an adaptive policy, the input of a reward marked `@needs("observation")`.

    `loss` in nats at optimizer step `step`. Since the observation before (None, 0 and empty at the first): `arm` the arm
    in force, `shares` of each arm in what moved (they add up to 1; `kdlab.methods.selection.credit`), `steps` optimizer
    steps, `learning_rate` the sum over these of the learning rate as a share of its peak (of an unknown schedule: 1 each).
    Marked `@needs("observation", "cost")` also: `flops` of scoring, student and teachers, `queries` rows that teachers
    answered, from a cache or not; both of all ranks, without what observations, evaluations and probes took.
    """

    loss: float
    step: int = 0
    arm: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    learning_rate: float = 0.0
    flops: float = 0.0
    queries: int = 0


@dataclass
class WeighingContext:
    """The inputs of a weighing rule: the rows of the whole global batch in rank order, detached.

    `uncertainty` (k,) of the student, entropy / log C, in [0, 1]; `student` (k, H) and `teachers`, (k, H_t) each: the
    [CLS] state in the last layer, zeros where a teacher was not queried; `teacher_weights` (k, T) the adoption weights;
    `progress` share of training done; `epoch` the pass over the data; `rng` keyed by (seed, step). `units` (U, D): of a rule
    with a `summary`, what that made of the logits at each unit with a label. None: not needed.
    """

    uncertainty: Tensor | None = None
    student: Tensor | None = None
    teachers: tuple[Tensor, ...] = ()
    teacher_weights: Tensor | None = None
    progress: float = 0.0
    epoch: int = 0
    rng: torch.Generator = field(default_factory=_generator)
    units: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """Facts of the training when an arm is chosen, the same on all ranks.

    `progress`: share of the training done, in [0, 1]. `loss`: the last observed loss as a share of the first one of the
    same loss (1: nothing was observed yet, at most 2). `spread`: of the last scores, the distance of their quartiles as a
    share of their range, in [0, 1]: large where scores tell many rows apart, small where a few stand out. `balance`:
    entropy of the classes that the student predicted for the rows scored last, as a share of the largest possible, in
    [0, 1]: 0 where all are predicted to be of one class. Spread and balance are 1/2 until they are known, and stay where
    an arm runs no forward.
    """

    progress: float = 0.0
    loss: float = 1.0
    spread: float = 0.5
    balance: float = 0.5

    def vector(self) -> list[float]:
        """The features of a linear model: 1, and the fields in their order."""
        return [1.0, self.progress, self.loss, self.spread, self.balance]
