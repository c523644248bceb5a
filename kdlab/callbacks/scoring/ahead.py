"""Score the micro-batches of an optimizer step together: no weight changes between them, so one forward serves all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kdlab.models.batch_counts import counts_of
from kdlab.runtime import distributed
from kdlab.types import Batch, BatchState, Outputs

TOKENS = 16_384  # of a forward at most; more in one pass saves no time and takes memory


class OutputsAhead:
    """The student's outputs for the micro-batches of an optimizer step, from as few forwards as have `TOKENS` tokens each.

    The first micro-batch brings the others (`Batch.following`), as kdlab's loaders have it. The outputs are those of a
    forward of each within rounding; every rank runs the same number of forwards.
    """

    def __init__(self) -> None:
        self._held: dict[int, Outputs] = {}  # by the number of the micro-batch
        self._of: dict[int, BatchState] = {}  # the state of its rows then

    def run(
        self,
        batch_idx: int,
        batches: Sequence[Batch],
        parts: Sequence[Batch | None],
        forward: Callable[[Batch], Outputs],
    ) -> None:
        """Run the rows `parts` that are scored of the micro-batches `batches`, from `batch_idx` on (None: nothing of one is)."""
        self._held.clear()
        self._of = {batch_idx + i: batch.host.state() for i, batch in enumerate(batches)}
        there = {batch_idx + i: part for i, part in enumerate(parts) if part is not None}
        most = max((counts_of(part).tokens for part in there.values()), default=1)
        if distributed.world() > 1:
            most = int(distributed.all_max(torch.tensor(most)))
        numbers = list(there)
        for chosen in passes(len(numbers), most):
            self._run([(number, there[number]) for number in numbers[chosen]], forward)

    def _run(self, parts: Sequence[tuple[int, Batch]], forward: Callable[[Batch], Outputs]) -> None:
        outputs, done = forward(Batch.joined([part for _, part in parts])), 0
        for number, part in parts:
            self._held[number] = outputs.take(torch.arange(done, done + len(part)), part.input_ids.shape[1])
            done += len(part)

    def take(self, batch_idx: int, batch: Batch) -> Outputs | None:
        """The outputs of a micro-batch, which are given once; None where they were not run ahead, or where a callback has
        changed the rows since."""
        outputs, of = self._held.pop(batch_idx, None), self._of.pop(batch_idx, None)
        return outputs if of is not None and batch.host.is_of(of) else None


def runs_together(execution: str, sharded: bool) -> bool:
    """True if one forward may run several micro-batches of a student: in a mode of `execution` that pads no row to those of
    another batch; not if it is `sharded`, for then each forward gathers what the head of the same micro-batch reads."""
    return execution in ("packed", "varlen") and not sharded


def passes(count: int, most: int) -> list[slice]:
    """The forwards of `count` batches of at most `most` tokens each: which of them each runs."""
    size = max(1, TOKENS // max(1, most))
    return [slice(first, first + size) for first in range(0, count, size)]
