"""A batch, and the decisions about it (`Plan`). Letters in shapes are those of `kdlab.types`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from kdlab.types.tensors import moved

if TYPE_CHECKING:  # torch is imported where it is used: `--help` and reports, which need this module, load none
    import torch
    from torch import Tensor

    from kdlab.types.outputs import Outputs

BatchState = list[tuple["Tensor | None", int]]  # of the tensors of a batch: see `Batch.state`
IGNORE = -100  # label of a position that makes no prediction (PyTorch's cross-entropy convention)


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
    the loss is the mean over these rows). `positions`: selects positions of these rows (None: all that have a label). `replayed`: rows of earlier
    batches that are trained on besides, as if they were of this one (None: none).
    """

    rows: Tensor | None = None
    select: RowRule | None = None
    positions: PositionRule | None = None
    importance: Importance | None = None
    replayed: Batch | None = None
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


_TENSORS = ("rows", "input_ids", "attention_mask", "labels", "real", "token_types", "documents", "predicted")


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
    copied: tuple[BatchState, Batch, BatchState] | None = field(
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
        if self.copied is None or not (self.is_of(self.copied[0]) and self.copied[1].is_of(self.copied[2])):
            self._beside(self._each(lambda tensor: tensor.cpu()))
        assert self.copied is not None
        if self.copied[1].epoch != self.epoch:
            self._beside(replace(self.copied[1], epoch=self.epoch))
        return self.copied[1]

    def is_of(self, state: BatchState) -> bool:
        """True if the tensors are those of `state`, and none has been changed in place."""
        now = self.state()
        return all(
            one is other and version == seen >= 0 for (one, version), (other, seen) in zip(now, state, strict=True)
        )

    def state(self) -> BatchState:
        """The tensors, and the number of changes in place of each; -1 where torch does not count them, and none is the same."""
        tensors = [getattr(self, name) for name in _TENSORS]
        return [(x, 0 if x is None else -1 if x.is_inference() else x._version) for x in tensors]

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A batch of the results of `function` for each tensor, without a plan."""
        named = {name: getattr(self, name) for name in _TENSORS}
        return Batch(epoch=self.epoch, **{name: x if x is None else function(x) for name, x in named.items()})  # pyright: ignore

    def _beside(self, host: Batch) -> Batch:
        """This batch, of whose rows `host` is the copy on the host."""
        self.copied = self.state(), host, host.state()
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

    @staticmethod
    def joined(batches: Sequence[Batch]) -> Batch:
        """The rows of several batches in one, on the device of the first, padded to the longest; carries no plan."""
        import torch

        hosts = [batch.host for batch in batches]
        longest = max(host.input_ids.shape[1] for host in hosts)

        def of(name: str, pad: int = 0) -> Tensor:
            columns: list[Tensor] = [getattr(host, name) for host in hosts]
            if columns[0].ndim == 2:
                columns = [torch.nn.functional.pad(x, (0, longest - x.shape[1]), value=pad) for x in columns]
            return torch.cat(columns)

        first = hosts[0]
        whole = Batch(
            rows=of("rows"),
            epoch=first.epoch,
            input_ids=of("input_ids"),
            attention_mask=of("attention_mask"),
            labels=of("labels", IGNORE),
            real=of("real"),
            token_types=None if first.token_types is None else of("token_types"),
            documents=None if first.documents is None else of("documents"),
        )
        return whole.to(batches[0].rows.device)

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
