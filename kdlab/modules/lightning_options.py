"""Options of `pl.Trainer` that turn off the parts of Lightning that kdlab replaces; a faster `__setattr__` of modules."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler
from torch import nn

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


def set_attribute(self: nn.Module, name: str, value: Any) -> None:
    """`__setattr__` of a LightningModule that is fast for the name Lightning notes at each hook, 40 times a step."""
    if name == "_current_fx_name":
        self.__dict__[name] = value
    else:
        nn.Module.__setattr__(self, name, value)
