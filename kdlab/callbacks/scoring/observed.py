"""The observation of an adaptive policy from the rows that are scored anyway (`select.observe=scored`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.runtime import distributed
from kdlab.types import IGNORE, Evidence


class ScoredLoss:
    """Mean loss of the labels, in nats, of the rows that were scored last: an observation without a forward of its own.

    The rows of a batch, and the share of it that `select.look` draws, are a uniform sample of the training set that no
    score has chosen, and they are read before they are trained on: the mean is an unbiased estimate of the loss on the
    training rows (progressive validation: Blum, Kalai and Langford 1999). Those of the last steps before an observation
    count, which have about `rows` rows together; `per_batch` of a micro-batch of one rank are scored. In regression the
    loss is the mean squared error. The same on any number of ranks.
    """

    def __init__(self, rows: int, per_batch: float) -> None:
        self.rows, self.per_batch = rows, per_batch
        self.taking = self.taken = False  # whether the batch under way counts, and whether its logits were seen
        self._sums = [0.0, 0.0]  # loss and predictions, of all ranks
        self._own = torch.zeros(2, dtype=torch.float64)  # of this rank's batch under way

    def begin(self, left: int | None, accumulate: int) -> None:
        """Begin a batch, `left` optimizer steps of `accumulate` batches before the next observation (None: there is none)."""
        per_step = self.per_batch * accumulate * distributed.world()
        self.taking, self.taken = left is not None and left <= max(1, math.ceil(self.rows / per_step)), False

    def take(self, part: Evidence, exists: Tensor) -> None:
        """Take some rows of the batch; `exists` (n,) or (n, P) bool: the predictions that count."""
        if not self.taking or part.logits is None or part.labels is None:
            return
        self.taken, labels = True, part.labels
        known = ~labels.isnan() if labels.is_floating_point() else labels != IGNORE
        known &= exists.to(labels.device)
        logits, labels = part.logits[known].double(), labels[known]
        if labels.is_floating_point():
            loss = F.mse_loss(logits[:, 0], labels.double(), reduction="sum")
        else:
            loss = F.cross_entropy(logits, labels, reduction="sum")
        self._own += torch.stack([loss, known.sum().to(loss)]).cpu()

    def take_all(self, parts: Iterable[Evidence], real: Tensor) -> None:
        """Take all rows of a batch, of which the rows `real` (B,) exist, unless its logits were seen already."""
        first = 0
        for part in parts if self.taking and not self.taken else ():
            rows = real[first : first + len(part)]
            first += len(part)
            self.take(part, rows if part.mask is None else part.mask.bool() & rows.to(part.mask.device).unsqueeze(1))

    def close(self) -> None:
        """Close the batch under way (collective)."""
        if self.taking:
            found = distributed.all_sum(self._own).tolist()
            self._sums = [before + now for before, now in zip(self._sums, found, strict=True)]
            self._own.zero_()

    def __call__(self) -> float | None:
        """The observation; None where no row with a label was scored since the last one."""
        (loss, count), self._sums = self._sums, [0.0, 0.0]
        return loss / count if count else None

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last observation, between two batches."""
        return {"sums": list(self._sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._sums = [float(value) for value in state["sums"]]
