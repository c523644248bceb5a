"""Lightning's strategy for a student that is sharded over the ranks (`kdlab.models.sharding.trained`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import DDPStrategy
from torch.optim import Optimizer

from kdlab.models.sharding.trained import cut_like, gather, is_sharded, shard_student, whole_on_first
from kdlab.modules.student import StudentModule


class ShardedStudentStrategy(DDPStrategy):
    """Train a `StudentModule` whose student is sharded over all ranks, in place of DDP's replicas.

    Processes, devices, checkpoint files and callbacks are those of DDP, so Lightning's `ModelParallelStrategy`, which brings
    its own of these, is not used. A checkpoint holds whole tensors and is written by rank 0: it is the same file as of a
    student that is not sharded, and each reads the other's. After the last step the student is whole on every rank.
    """

    @property
    def _module(self) -> StudentModule:
        return cast(StudentModule, self.lightning_module)

    def model_to_device(self) -> None:
        """Shard the student, which is on the CPU, and move the rest of the module."""
        shard_student(self._module.student, self._module.bridges, self.root_device)
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Wrap nothing: FSDP reduces the gradients."""

    def on_train_end(self) -> None:
        """Gather the student, once all callbacks have ended."""
        self.optimizers = []  # their state is sharded; nothing reads it any more
        gather(self._module)
        super().on_train_end()

    def teardown(self) -> None:
        """End as DDP. After a failure the student is still sharded, with some weights whole, and FSDP2 cannot move those:
        its error would take the place of the failure's. So it stays where it is."""
        module = self.lightning_module
        if module is not None and is_sharded(self._module.student):
            self._lightning_module = None
        try:
            super().teardown()
        finally:
            self._lightning_module = module

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights, on rank 0 (collective)."""
        return whole_on_first(self._module.state_dict(keep_vars=True))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of an optimizer, on rank 0 (collective)."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return whole_on_first(inner.state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Cut each optimizer's whole state, which all ranks have read, into shards (collective)."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                number: {name: cut_like(value, parameters[number]) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})
