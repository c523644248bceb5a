"""Exits from the student's first layers: to score rows by them alone (`select.scoring=early_exit`), and as a committee."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import transformers
from torch import nn

from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.models.student import transformer_layers
from kdlab.modules.student import StudentModule
from kdlab.types import Batch, Outputs


class EarlyExit:
    """The outputs of the student's first `layers` layers; its head reads them in place of the last layer's.

    A `kdlab.callbacks.select.Forward`.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self._shallow: Encoder | None = None

    def __call__(self, student: StudentModule, batch: Batch, needed: frozenset[str] = frozenset()) -> Outputs:
        if self._shallow is None:
            self._shallow = Encoder(first_layers(student.student.model, self.layers), student.student.execution)
        shape = replace(student.shape, layers=self.layers)
        student.count_flops("scoring", flops.encoder(shape, *self._shallow.executed(batch, needed)))
        return self._shallow.encode(batch, needed)


def exits(model: transformers.PreTrainedModel, outputs: Outputs) -> list[Outputs]:
    """`outputs` as a model of the first layer alone would give them, of the first two, ..., of all but the last.

    Of one forward, with its "states". The head may read each of them. Families that normalise after their last layer
    (ModernBERT) have that norm applied to each exit, as `first_layers` has it.
    """
    assert outputs.states is not None
    norm = getattr(model.base_model, "final_norm", None) or nn.Identity()
    return [replace(outputs, hidden=norm(state), states=None) for state in outputs.states[1:-1]]


def first_layers(model: transformers.PreTrainedModel, layers: int) -> transformers.PreTrainedModel:
    """`model` without its later layers, in evaluation mode. It shares all parameters with `model`, now and later."""
    all_layers = transformer_layers(model)
    path = next(name for name, module in model.named_modules() if module is all_layers).split(".")
    shallow = _copy(model)
    parent: nn.Module = shallow
    for name in path[:-1]:
        child = _copy(parent._modules[name])
        parent._modules[name] = child
        parent = child
    parent._modules[path[-1]] = nn.ModuleList(list(all_layers)[:layers])
    return shallow


def _copy(module: Any) -> Any:
    """A shallow copy of a module, in evaluation mode, whose children may be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    twin.training = False
    return twin
