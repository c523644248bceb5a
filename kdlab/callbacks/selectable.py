"""`Select` on a LightningModule of one's own: the protocol that it must offer, and rows of a batch of any form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.types import Batch, Evidence


@runtime_checkable
class SelectableModule(Protocol):
    """A LightningModule, or any object, whose batches `Select` can read and shorten; a batch is of any type.

    Every strategy and policy works with a module that offers both methods, in its own training loop.
    """

    def show_rows(self, batch: Any) -> Evidence:
        """The model's outputs for the B rows of `batch`: `Evidence(logits=..., features=..., labels=...)`.

        For the strategies that read them also `mask` of masked positions, `votes` of a committee, the `teacher`'s logits,
        `reference_loss`, and `rows`, ids of the rows in the data set (`forgetting`); shapes as of `kdlab.Selector.rows`. Called
        before the training step, in eval mode, without gradient. What no strategy in use reads may be left out.
        """
        ...

    def take_rows(self, batch: Any, rows: Tensor) -> Any:
        """The rows `rows` (k,) int64, ascending, of `batch`, in the same form (see `kdlab.take_rows`)."""
        ...


def take_rows(batch: Any, rows: Tensor) -> Any:
    """The rows (k,) int64 of a batch: a `Batch`, a tensor, a list of B values, or dicts, tuples and lists of those.

    Tensors and lists as long as the batch are indexed, all else stays as it is; the first tensor found says how long
    the batch is. UserError for a batch without a tensor.
    """
    if isinstance(batch, Batch):
        return batch.take(rows)
    height = _height(batch)
    if height is None:
        raise UserError(f"a batch of type {type(batch).__name__} holds no tensor: take its rows in take_rows yourself")
    return _taken(batch, rows, height)


def _height(batch: Any) -> int | None:
    """The number of rows of a batch: the length of the first tensor in it that has a dimension; None without one."""
    if isinstance(batch, Batch):
        return len(batch)
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((found for part in parts if (found := _height(part)) is not None), None)


def _taken(part: Any, rows: Tensor, height: int) -> Any:
    if isinstance(part, Tensor):
        return part[rows.to(part.device)] if part.ndim and len(part) == height else part
    if isinstance(part, Mapping):
        found: Any = {key: _taken(value, rows, height) for key, value in part.items()}
        kind: Any = type(part)  # transformers' BatchEncoding stays one
        return kind(found)
    if isinstance(part, tuple | list) and any(_height(one) is not None for one in part):
        values = [_taken(one, rows, height) for one in part]
        return type(part)(*values) if hasattr(part, "_fields") else type(part)(values)
    if isinstance(part, tuple | list) and len(part) == height:
        return type(part)([part[row] for row in rows.tolist()])
    return part


class OwnModule:
    """Selection for a `SelectableModule` in training: each training step gets the rows that `select` has kept.

    Replaces `training_step` of the module from `begin` to `end`, because Lightning drops what a callback's hook returns
    and a batch may be a tuple.
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self._before: Callable[..., Any] | None = None
        self._was_set = False

    def begin(self, module: Any) -> None:
        """Have the training step of `module` receive the selected rows alone."""
        step = module.training_step

        @functools.wraps(step)
        def on_selected(batch: Any, *args: Any, **kwargs: Any) -> Any:
            return step(batch if self.rows is None else module.take_rows(batch, self.rows), *args, **kwargs)

        self._was_set, self._before = "training_step" in module.__dict__, step
        module.training_step = on_selected

    def end(self, module: Any) -> None:
        """Give the module its training step back."""
        if self._before is None:
            return
        if self._was_set:
            module.training_step = self._before
        else:
            del module.training_step
        self._before = self.rows = None

    def select(self, selector: RowSelector, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Select the rows of a batch, before its step."""
        step = trainer.global_step
        if batch_idx % trainer.accumulate_grad_batches == 0:
            selector.decide(step)
        drawn = None
        if selector.look < 1:
            if (rows := _height(batch)) is None:
                raise UserError(
                    f"a batch of type {type(batch).__name__} holds no tensor, so it has no number of rows to draw from: look=1"
                )
            drawn = rows, selector.drawn(rows, (batch_idx,))
        with _showing(module, trainer):
            shown = module.show_rows(batch if drawn is None else module.take_rows(batch, drawn[1]))
        origin = f"{type(module).__name__}.show_rows"
        if not isinstance(shown, Evidence):
            raise UserError(f"{origin} returned {type(shown).__name__}; give kdlab.Evidence(logits=..., features=...)")
        self.rows = selector.chosen(shown, step, (batch_idx,), origin, drawn).rows


@contextmanager
def _showing(module: Any, trainer: pl.Trainer) -> Iterator[None]:
    """No gradient, eval mode, the trainer's precision; each submodule returns to the mode it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def missing_methods(module: Any) -> list[str]:
    """The methods of `SelectableModule` that a module lacks."""
    return [name for name in ("show_rows", "take_rows") if not callable(getattr(module, name, None))]
