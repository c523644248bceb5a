"""Outputs of a model for a batch, whole (`Outputs`) and as strategies get them (`Evidence`).

Letters in shapes are those of `kdlab.types`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kdlab.types.tensors import moved, seeded_generator

if TYPE_CHECKING:  # torch is imported where it is used: `--help` and reports, which need this module, load none
    import torch
    from torch import Tensor


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
    rng: torch.Generator = field(default_factory=seeded_generator)
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
