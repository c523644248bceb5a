"""Scores of rows from earlier visits (`select.scoring=stale`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ScoreMemory:
    """The scores of all `rows` rows of the data set at their last visit, by strategy; valid for `refresh` epochs."""

    def __init__(self, rows: int, refresh: int) -> None:
        self.rows, self.refresh = rows, refresh
        self._scores: dict[str, Tensor] = {}  # (rows,) float64 each
        self._epochs: dict[str, Tensor] = {}  # (rows,) the epoch of each score, -1 where there is none

    def due(self, strategies: Sequence[str], rows: Tensor, epoch: int) -> Tensor:
        """Mask (n,) bool of `rows` (n,) that lack a valid score of some strategy."""
        due = torch.zeros(len(rows), dtype=torch.bool)
        for name in strategies:
            epochs = self._of(name)[1][rows]
            due |= (epochs < 0) | (epoch - epochs >= self.refresh)
        return due

    def store(self, strategy: str, rows: Tensor, epoch: int, scores: Tensor) -> None:
        """Store `scores` (n,) of `rows` (n,) from a visit in `epoch`."""
        stored, epochs = self._of(strategy)
        stored[rows], epochs[rows] = scores.cpu().double(), epoch

    def recall(self, strategy: str, rows: Tensor) -> Tensor:
        """The stored scores (n,) of `rows` (n,), float64."""
        return self._of(strategy)[0][rows]

    def _of(self, strategy: str) -> tuple[Tensor, Tensor]:
        if strategy not in self._scores:
            self._scores[strategy] = torch.zeros(self.rows, dtype=torch.float64)
            self._epochs[strategy] = torch.full((self.rows,), -1, dtype=torch.int32)
        return self._scores[strategy], self._epochs[strategy]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"scores": self._scores, "epochs": self._epochs}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        self._scores, self._epochs = dict(state["scores"]), dict(state["epochs"])
