"""How selection looks at the student: all of it, its first layers alone, or what was seen at an earlier visit."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import transformers
from torch import nn

from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.models.student import transformer_layers
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
    found = transformer_layers(model)
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
