"""Options of `pl.Trainer` that turn off the parts of Lightning that kdlab replaces; a faster `__setattr__` of modules."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from pytorch_lightning.profilers import PassThroughProfiler
from torch import nn


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


def set_attribute(self: nn.Module, name: str, value: Any) -> None:
    """`__setattr__` of a LightningModule that is fast for the name Lightning notes at each hook, 40 times a step."""
    if name == "_current_fx_name":
        self.__dict__[name] = value
    else:
        nn.Module.__setattr__(self, name, value)
