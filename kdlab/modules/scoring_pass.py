"""How selection looks at the student: all of it, its first layers alone, or what was seen at an earlier visit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.models.loading import blocks
from kdlab.modules.distiller import Distiller
from kdlab.types import Batch, Outputs


def whole(module: Distiller, batch: Batch, wanted: frozenset[str] = frozenset()) -> Outputs:
    """What all layers of the student make of `batch`, as `Encoder.encode` says; call within `quiet`."""
    return module.show(batch, "scoring", wanted)


class EarlyExit:
    """What the student's first `layers` layers make of a batch; its head reads that instead of the last layer's."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self._shallow: Encoder | None = None

    def __call__(self, module: Distiller, batch: Batch, wanted: frozenset[str] = frozenset()) -> Outputs:
        if self._shallow is None:
            self._shallow = Encoder(first_layers(module.student.model, self.layers), module.student.execution)
        shape = replace(module.shape, layers=self.layers)
        module.spent("scoring", flops.encoder(shape, *self._shallow.executed(batch, wanted)))
        return self._shallow.encode(batch, wanted)


def first_layers(model: transformers.PreTrainedModel, layers: int) -> transformers.PreTrainedModel:
    """`model` without its later layers, in evaluation mode. It shares all parameters with `model`, now and later."""
    found = blocks(model)
    path = next(name for name, module in model.named_modules() if module is found).split(".")
    whole = _apart(model)
    parent: nn.Module = whole
    for name in path[:-1]:
        child = _apart(parent._modules[name])
        parent._modules[name] = child
        parent = child
    parent._modules[path[-1]] = nn.ModuleList(list(found)[:layers])
    return whole


def _apart(module: Any) -> Any:
    """A shallow copy of a module that may have other children."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    twin.training = False
    return twin


class ScoreMemory:
    """The scores that rows had at their last visit, by strategy; after `refresh` epochs a row is looked at again."""

    def __init__(self, rows: int, refresh: int) -> None:
        self.rows, self.refresh = rows, refresh
        self._scores: dict[str, Tensor] = {}  # (rows,) float64 each
        self._epochs: dict[str, Tensor] = {}  # (rows,) the epoch of each score, -1 where there is none

    def due(self, strategies: Sequence[str], rows: Tensor, epoch: int) -> Tensor:
        """Which of `rows` (n,) lack a score by one of the strategies that is young enough, (n,) bool."""
        found = torch.zeros(len(rows), dtype=torch.bool)
        for name in strategies:
            seen = self._of(name)[1][rows]
            found |= (seen < 0) | (epoch - seen >= self.refresh)
        return found

    def store(self, strategy: str, rows: Tensor, epoch: int, scores: Tensor) -> None:
        """Keep `scores` (n,) of `rows` (n,)."""
        kept, epochs = self._of(strategy)
        kept[rows], epochs[rows] = scores.cpu().double(), epoch

    def recall(self, strategy: str, rows: Tensor) -> Tensor:
        """The scores (n,) of `rows` (n,)."""
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
