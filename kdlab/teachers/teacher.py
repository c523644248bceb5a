"""A teacher: frozen, in eval mode, outside the student's parameters and checkpoints, counted at every query."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kdlab.models.encoder import Encoder, dropout_mode
from kdlab.models.sharding.frozen import ShardTurns, share_out
from kdlab.runtime import distributed
from kdlab.teachers.cache.cache import AnswerCache, CacheLookup, CacheUnusable
from kdlab.teachers.cache.codec import UnitLogits
from kdlab.types import Batch, Outputs


def teacher_dtype(precision: str) -> torch.dtype | None:
    """Type of the teachers' matrices in a training of `precision` (Lightning's name); None: float32.

    Under "bf16-mixed" bfloat16, to which autocast would round them at each forward. Under "16-mixed" they stay float32:
    float16 has no small numbers, and embeddings, which autocast does not round, have many.
    """
    return torch.bfloat16 if precision == "bf16-mixed" else None


class Teacher:
    """A frozen encoder that answers queries about rows.

    `name`: in the ledger. `count` receives the name, the ids (k,) of the rows and their epoch at each query (None: queries
    are not counted). `order`: the position of each class of the data in the teacher's output, if it numbers them otherwise
    (`kdlab.data.tasks.labels.align`). `classes`: the classes of the data that its outputs stand for, in that order, if it
    is a specialist for some (None: all). `shared`: its layers are sharded over the ranks, if there are several; then its
    methods are collective. Not a Module on purpose: a submodule would enter every checkpoint.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        count: Callable[[str, Tensor, int], None] | None = None,
        order: Sequence[int] | None = None,
        classes: Sequence[int] | None = None,
        shared: bool = False,
    ) -> None:
        self.name = name
        self.encoder = encoder.eval().requires_grad_(False)
        self.order = None if order is None or list(order) == sorted(order) else list(order)
        self.classes = None if classes is None else list(classes)
        self._count = count
        self.cache: AnswerCache | None = None
        self.shared = shared
        self._finite: list[Tensor] = []  # one () bool, of all answers since `take_finite`, where there are any
        self._turns: ShardTurns | None = None

    def to(self, device: torch.device) -> Teacher:
        """Move to a device; a shared teacher is sharded over the ranks' devices."""
        if self._turns is None and self.shared and distributed.world() > 1:
            self._turns = share_out(self.encoder.model, device)
        elif self._turns is None:
            self.encoder.to(device)
        return self

    def hold(self, precision: str) -> Teacher:
        """Convert the weights to the `teacher_dtype` of a training of `precision`, before they are sharded."""
        dtype = teacher_dtype(precision)
        if dtype is not None:
            self.encoder.cast_weights(dtype)
        return self

    @torch.no_grad()
    def query(self, batch: Batch, count: bool = True, needed: frozenset[str] = frozenset()) -> Outputs:
        """Run a forward: hidden states, and further outputs `needed`, for the rows of `batch`.

        Each real row is a query in the ledger, unless `count` is False.
        """
        if count and self._count is not None:
            self._count(self.name, batch.host.rows[batch.host.real], batch.epoch)
        outputs = self.encoder.encode(batch, needed)
        if needed & {"hidden", "states"} and outputs.hidden is not None:  # else states that nothing reads may be NaN
            self._note(torch.where(batch.attention_mask.unsqueeze(-1).bool(), outputs.hidden, 0))
        return outputs

    def dropout(self, seed: int) -> contextlib.AbstractContextManager[None]:
        """Run the block's forwards with dropout, drawn from `seed`; torch's global generators are as before after it."""
        return dropout_mode(self.encoder, seed)

    @contextlib.contextmanager
    def apart(self, count: Callable[[str, Tensor, int], None]) -> Iterator[None]:
        """Run the block's queries without the cache, each of them counted by `count`."""
        before = self._count, self.cache, self._finite
        self._count, self.cache, self._finite = count, None, []
        try:
            yield
        finally:
            self._count, self.cache, self._finite = before

    @torch.no_grad()
    def answer(
        self, batch: Batch, count: bool = True, needed: frozenset[str] = frozenset(), cached: bool = True
    ) -> CacheLookup:
        """`query`, or an answer from the cache, if there is one and `cached` allows it.

        Every rank of a shared teacher must call this, or `catch_up` if it has no row to query for.
        """
        lookup: CacheLookup | None = None
        if cached and self.cache is not None and self.cache.usable:
            with contextlib.suppress(CacheUnusable):
                lookup = self.cache.lookup(self.name, self.encoder, self.project, batch, count)
        if lookup is None:
            lookup = CacheLookup(self.query(batch, count, needed), forwards=[batch])
        self.catch_up()
        return lookup

    def catch_up(self) -> None:
        """Join other ranks' queries to a shared teacher (collective); nothing for another one."""
        if self._turns is not None:
            self._turns.catch_up()

    def over(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """This rank's `batches` for `encoder`; joins the forwards of ranks with more batches if shared (collective)."""
        return batches if self._turns is None else self._turns.over(batches)

    def logits(
        self, outputs: Outputs, cached: UnitLogits | None, row: Tensor, token: Tensor
    ) -> Callable[[slice], Tensor]:
        """A function from a slice of the units at `row`, `token` (U,), on the host, of an answer to their logits (n, C).

        `outputs`: the answer's hidden states; `cached`: its logits, if a cache stored them.
        """
        if cached is not None:
            index = cached.index(row, token)
            return lambda part: self._note(cached.of(index[part]))
        vectors = self.encoder.vectors(outputs, row, token)
        return lambda part: self.project(vectors[part])

    def stored_logits(
        self, cached: UnitLogits, row: Tensor, token: Tensor
    ) -> Callable[[slice], tuple[Tensor, Tensor | None]]:
        """As `logits`, of a cached answer, as it is stored: logits (n, k) and their tokens (n, k), or (n, C) and None."""
        index = cached.index(row, token)

        def of(part: slice) -> tuple[Tensor, Tensor | None]:
            logits, tokens = cached.stored(index[part])
            return self._note(logits), tokens

        return of

    @torch.no_grad()
    def project(self, vectors: Tensor) -> Tensor:
        """Logits (U, C) of hidden vectors (U, H), in the data's order of the classes that the teacher knows."""
        logits = self._note(self.encoder.project(vectors))
        return logits if self.order is None else logits[:, self.order]

    def take_finite(self) -> Tensor:
        """() bool, True if all answers since the last call were finite; on their device, without waiting for it."""
        answers, self._finite = self._finite, []
        return answers[0] if answers else torch.ones((), dtype=torch.bool)

    def _note(self, values: Tensor) -> Tensor:
        """Record if an answer is finite; returns it. An extreme is NaN where any number is, so no mask is made."""
        if values.numel():
            finite = torch.stack(torch.aminmax(values.detach())).isfinite().all()
            self._finite = [finite if not self._finite else self._finite[0] & finite]
        return values
