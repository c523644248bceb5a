"""Scores, and evidence, of rows from earlier visits (`select.scoring=stale`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ScoreMemory:
    """Values of the last visit of each of the `rows` rows of the data set, by name; valid for `refresh` epochs.

    A strategy's scores (n,) are kept in float64, evidence (n, D) in float32.
    """

    def __init__(self, rows: int, refresh: int) -> None:
        self.rows, self.refresh = rows, refresh
        self._scores: dict[str, Tensor] = {}  # (rows,) float64, or (rows, D) float32
        self._epochs: dict[str, Tensor] = {}  # (rows,) the epoch of each entry, -1 where there is none

    def due(self, names: Sequence[str], rows: Tensor, epoch: int) -> Tensor:
        """Mask (n,) bool of `rows` (n,) that lack a valid entry of some name."""
        due = torch.zeros(len(rows), dtype=torch.bool)
        for name in names:
            if name not in self._epochs:
                return torch.ones_like(due)
            epochs = self._epochs[name][rows]
            due |= (epochs < 0) | (epoch - epochs >= self.refresh)
        return due

    def store(self, name: str, rows: Tensor, epoch: int, values: Tensor) -> None:
        """Store `values` (n,) or (n, D) of `rows` (n,) from a visit in `epoch`."""
        kind = torch.float64 if values.ndim == 1 else torch.float32
        if name not in self._scores:
            self._scores[name] = torch.zeros(self.rows, *values.shape[1:], dtype=kind)
            self._epochs[name] = torch.full((self.rows,), -1, dtype=torch.int32)
        self._scores[name][rows], self._epochs[name][rows] = values.cpu().to(kind), epoch

    def recall(self, name: str, rows: Tensor) -> Tensor:
        """The stored values of `rows` (n,): (n,) float64 or (n, D) float32."""
        return self._scores[name][rows]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"scores": self._scores, "epochs": self._epochs}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        self._scores, self._epochs = dict(state["scores"]), dict(state["epochs"])
