"""The teacher: frozen, in eval mode, outside the student's parameters and checkpoints, and counted at every query."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from kdlab.models.encoder import Encoder
from kdlab.models.sharding import ShardTurns, share_out
from kdlab.runtime import distributed
from kdlab.teachers.cache.cache import AnswerCache, CacheLookup, CacheUnusable
from kdlab.teachers.cache.codec import UnitLogits
from kdlab.types import Batch, Outputs


def held_in(precision: str) -> torch.dtype | None:
    """In what numbers a training of `precision` holds its teachers' matrices; None: float32.

    Under "bf16-mixed" bfloat16, which autocast would make of them at each forward. Under "16-mixed" autocast does: float16
    has no small numbers, and embeddings, which autocast does not round, have many.
    """
    return torch.bfloat16 if precision == "bf16-mixed" else None


class Teacher:
    """A frozen encoder that answers for the rows it is asked about.

    `name` is what the ledger calls it. `order`: where the teacher keeps each class of the data (`kdlab.data.tasks.labels.align`),
    if it numbers them otherwise. `classes`: which of the data's classes its outputs stand for, in that order, if it is
    a specialist for some (None: all). `shared`: its layers are shared out over the ranks, if there are several;
    then its methods are collective. Not a Module on purpose: as a submodule it would enter every checkpoint.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        ask: Callable[[str, Tensor, int], None] | None = None,
        order: Sequence[int] | None = None,
        classes: Sequence[int] | None = None,
        shared: bool = False,
    ) -> None:
        self.name = name
        self.encoder = encoder.eval().requires_grad_(False)
        self.order = None if order is None or list(order) == sorted(order) else list(order)
        self.classes = None if classes is None else list(classes)
        self._count = ask
        self.cache: AnswerCache | None = None
        self.shared = shared
        self._turns: ShardTurns | None = None

    def to(self, device: torch.device) -> Teacher:
        """Move to a device; a shared one is shared out over the ranks there."""
        if self._turns is None and self.shared and distributed.world() > 1:
            self._turns = share_out(self.encoder.model, device)
        elif self._turns is None:
            self.encoder.to(device)
        return self

    def hold(self, precision: str) -> Teacher:
        """Keep the weights as a training of `precision` holds its teachers (`held_in`), before it is shared out."""
        dtype = held_in(precision)
        if dtype is not None:
            self.encoder.cast_weights(dtype)
        return self

    @torch.no_grad()
    def ask(self, batch: Batch, count: bool = True, wants: frozenset[str] = frozenset()) -> Outputs:
        """Hidden states, and what is wanted besides, for the rows of `batch`; each real row is a query in the ledger."""
        if count and self._count is not None:
            self._count(self.name, batch.rows[batch.real], batch.epoch)
        return self.encoder.encode(batch, wants)

    @torch.no_grad()
    def answer(
        self, batch: Batch, count: bool = True, wants: frozenset[str] = frozenset(), remembered: bool = True
    ) -> CacheLookup:
        """As `ask`; from the cache, where there is one and the answer may be `remembered`.

        Every rank of a shared teacher calls this, or `catch_up` if it has no row to ask about.
        """
        found: CacheLookup | None = None
        if remembered and self.cache is not None and self.cache.usable:
            with contextlib.suppress(CacheUnusable):
                found = self.cache.ask(self.name, self.encoder, self.project, batch, count)
        if found is None:
            found = CacheLookup(self.ask(batch, count, wants), ran=[batch])
        self.catch_up()
        return found

    def catch_up(self) -> None:
        """Take part in what other ranks ask of a shared teacher (collective); nothing of another one."""
        if self._turns is not None:
            self._turns.catch_up()

    def over(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """This rank's `batches`, to be put through `encoder`; of a shared teacher other ranks may have more (collective)."""
        return batches if self._turns is None else self._turns.over(batches)

    def logits(
        self, answer: Outputs, units: UnitLogits | None, row: Tensor, place: Tensor
    ) -> Callable[[slice], Tensor]:
        """What gives the logits (n, C) of a slice of the units at `row`, `place` (U,) of an answer."""
        if units is not None:
            index = units.index(row, place)
            return lambda some: units.of(index[some])
        vectors = self.encoder.vectors(answer, row, place)
        return lambda some: self.project(vectors[some])

    @torch.no_grad()
    def project(self, vectors: Tensor) -> Tensor:
        """Logits (U, C) of hidden vectors (U, H) of an answer, in the data's order of the classes it knows."""
        logits = self.encoder.project(vectors)
        return logits if self.order is None else logits[:, self.order]
