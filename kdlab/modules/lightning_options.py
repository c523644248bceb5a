"""Options of `pl.Trainer` that turn off the parts of Lightning that kdlab replaces; a faster `__setattr__` of modules."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.profilers import PassThroughProfiler
from torch import nn

from kdlab.types import Batch

STEP_HOOKS = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
    "on_train_batch_end",
)  # fmt: skip


class NoProfiler(PassThroughProfiler):
    """Profiler that measures nothing. It returns one constant object: Lightning queries it about 100 times a step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        """The constant null context."""
        return self.nothing


# kdlab orders the data, saves checkpoints, writes tables and evaluates by its own callbacks
PLAIN_TRAINER: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "use_distributed_sampler": False,
    "profiler": NoProfiler(),
}


def without_idle_hooks(callbacks: Iterable[pl.Callback]) -> list[pl.Callback]:
    """The callbacks, without those hooks of a step that they do nothing in: Lightning skips what cannot be called, and would
    call some fifty of them in each step."""
    every = list(callbacks)
    for callback in every:
        for hook in STEP_HOOKS:
            if getattr(type(callback), hook) is getattr(pl.Callback, hook) and hook not in vars(callback):
                setattr(callback, hook, None)
    return every


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over batches without two questions that it asks in each step, though their answers stay: whether it
    validates, and, by reading its signature, if `training_step` takes the number of the batch."""

    _asked: Any = None  # the training_step that was asked
    _takes_number = True

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        # nothing is validated without batches for it; Lightning asks for loaders and overridden methods first
        return self.trainer.limit_val_batches != 0 and super()._should_check_val_fx(data_fetcher)

    def _build_kwargs(self, kwargs: Any, batch: Any, batch_idx: int) -> Any:
        step: Any = self.trainer.lightning_module.training_step
        function = getattr(step, "__func__", step)
        if function is not self._asked:
            kwargs = super()._build_kwargs(kwargs, batch, batch_idx)
            self._asked, self._takes_number = function, "batch_idx" in kwargs
            return kwargs
        kwargs["batch"] = batch
        if self._takes_number:
            kwargs["batch_idx"] = batch_idx
        return kwargs


def with_short_steps(trainer: pl.Trainer) -> pl.Trainer:
    """The trainer with kdlab's loop over batches (`EpochLoop`); one whose loop is not Lightning's own stays as it is."""
    loop = trainer.fit_loop.epoch_loop
    if type(loop) is _TrainingEpochLoop:
        loop.__class__ = EpochLoop  # it keeps its state, and what others have put on it
    return trainer


def call_batch_hook(self: pl.LightningModule, hook_name: str, *args: Any) -> Any:
    """`_call_batch_hook` of a LightningModule, which Lightning calls three times a step, without a search for hooks that neither
    the module nor its data module has: for a `Batch` they only move it."""
    data: Any = None if self._trainer is None else self._trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    own = getattr(type(self), hook_name) is getattr(pl.LightningModule, hook_name) and hook_name not in vars(self)
    theirs = data is None or getattr(type(data), hook_name, None) is getattr(pl.LightningDataModule, hook_name)
    if own and theirs and (data is None or hook_name not in vars(data)) and isinstance(args[0], Batch):
        return args[0].to(args[1]) if hook_name == "transfer_batch_to_device" else args[0]
    return pl.LightningModule._call_batch_hook(self, hook_name, *args)


def set_attribute(self: nn.Module, name: str, value: Any) -> None:
    """`__setattr__` of a LightningModule that is fast for the name Lightning notes at each hook, 40 times a step."""
    if name == "_current_fx_name":
        self.__dict__[name] = value
    else:
        nn.Module.__setattr__(self, name, value)
