"""Running means of the losses of a training between two lines of metrics.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdlab.runtime import distributed


class RunningMeans:
    """Means of named values over micro-batches, and of rows over optimizer steps, exact over ranks and across resumes.

    `note` keeps tensors on their device and waits for nothing; `means` and `state_dict` read them once (collective), as
    does every `most`-th micro-batch. Values that are not finite are left out. The sums are taken in the order of the
    micro-batches, whenever they are read: an interrupted training has the same bits.
    """

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self._pending: list[dict[str, Tensor]] = []
        self._rows: list[Tensor] = []
        self.clear()

    def clear(self) -> None:
        """Begin a new line."""
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._seen, self._steps = 0.0, 0

    def note(self, values: Mapping[str, Tensor], rows: Tensor, ends_step: bool) -> None:
        """Record a micro-batch: this rank's share of each value (), whose mean over ranks is that of the global batch,
        and its number of rows (). `ends_step`: it is the last of an optimizer step."""
        self._pending.append(dict(values))
        self._rows.append(rows)
        self._steps += ends_step
        if len(self._pending) >= self.most:
            self._read()

    def means(self) -> dict[str, float]:
        """The mean of each value over the micro-batches that had it, and "rows": of an optimizer step (collective)."""
        self._read()
        found = {name: self._sums[name] / count for name, count in self._counts.items()}
        return {**found, "rows": self._seen / self._steps} if self._steps else found

    def _read(self) -> None:
        """Add the noted values of all ranks to the sums, one micro-batch after the other."""
        if not self._pending:
            return
        names = list(dict.fromkeys(name for values in self._pending for name in values))
        absent = self._rows[0].new_full((), math.nan, dtype=torch.float32)
        lines = [
            torch.stack([rows.float(), *(values.get(name, absent).float() for name in names)])
            for values, rows in zip(self._pending, self._rows, strict=True)
        ]
        own = torch.stack(lines).cpu().double()
        self._pending, self._rows = [], []
        ranks = distributed.gather_rows(own[None])
        whole = torch.zeros_like(own)
        for each in ranks:  # in the order of the ranks
            whole += each
        for rows, *values in whole.tolist():
            self._seen += rows
            for name, value in zip(names, values, strict=True):
                if math.isfinite(value):
                    self._sums[name] = self._sums.get(name, 0.0) + value / len(ranks)
                    self._counts[name] = self._counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """The sums of all ranks (collective)."""
        self._read()
        return {"sums": dict(self._sums), "counts": dict(self._counts), "rows": self._seen, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, the same on every rank."""
        self._pending, self._rows = [], []
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self._seen, self._steps = state["rows"], state["steps"]
