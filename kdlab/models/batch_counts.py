"""Numbers of a batch's rows, tokens and units as Python integers, worked out once for all that count them in a step."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property

from torch import Tensor

from kdlab.types import IGNORE, Batch


class BatchCounts:
    """Counts of the rows of a batch on the host, each made when it is first asked for.

    It holds the tensors, not the batch, which holds it: a circle would keep the batch in memory.
    """

    def __init__(self, host: Batch) -> None:
        self._mask, self._labels, self._real = host.attention_mask, host.labels, host.real
        tensors = (self._mask, self._labels, self._real)
        self._versions = None if any(x.is_inference() for x in tensors) else [x._version for x in tensors]
        self._made: dict[Hashable, tuple[int, ...]] = {}

    def is_of(self, host: Batch) -> bool:
        """True if the batch has the tensors that were counted, and none was changed in place since."""
        mask, labels, real = host.attention_mask, host.labels, host.real
        if mask is not self._mask or labels is not self._labels or real is not self._real:
            return False
        return self._versions == [mask._version, labels._version, real._version] if self._versions else False

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each row."""
        return tuple(self._mask.sum(1).tolist())

    @cached_property
    def tokens(self) -> int:
        """The number of tokens of all rows."""
        return sum(self.lengths)

    @cached_property
    def real(self) -> int:
        """The number of rows that do not only keep an idle rank in step."""
        return int(self._real.sum())

    @cached_property
    def labelled(self) -> int:
        """The number of labels that exist."""
        return int(self._exist().sum())

    @cached_property
    def positions(self) -> int:
        """The number of positions of text with a label, of real rows; 0 of a task."""
        return int(self._exist()[self._real].sum()) if self._labels.ndim == 2 else 0

    @cached_property
    def needed(self) -> Tensor | None:
        """The number (k,) of tokens of each row of text whose last state a head reads: those with a label, and the first.
        None of a task, whose heads read the first."""
        if self._labels.ndim == 1:
            return None
        needed = self._exist() & self._mask.bool()
        return needed.sum(1) + ~needed[:, 0]

    def units(self, at: str) -> int:
        """The number of units `at`, as `kdlab.modules.objective.units_of` lists them."""
        if at == "labelled":
            return self.labelled
        return len(self._labels) if self._labels.ndim == 1 and at != "tokens" else self.tokens

    def once(self, way: Hashable, count: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """The numbers that `count` gives for `way`, called the first time alone."""
        if way not in self._made:
            self._made[way] = count()
        return self._made[way]

    def _exist(self) -> Tensor:
        return ~self._labels.isnan() if self._labels.is_floating_point() else self._labels != IGNORE


def counts_of(batch: Batch) -> BatchCounts:
    """The counts of a batch: those made before, as long as its tensors are the same and unchanged."""
    host = batch.host
    counts = host.counts
    if not (isinstance(counts, BatchCounts) and counts.is_of(host)):
        counts = host.counts = BatchCounts(host)
    return counts
