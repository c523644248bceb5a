"""Shard the layers of a frozen model over the ranks of a run: torch's FSDP2 (`fully_shard`), for inference.

Each rank stores 1/world of every layer; a layer is gathered for its forward and freed after it. So a forward is
collective, but ranks query a teacher unequally often: selection may leave a rank without rows, adoption may choose
other teachers, a cache may have the answers of one rank only. Therefore a rank announces each forward, and ranks
without a query run a forward along with it (`ShardTurns`). Embeddings, pooler and head are not sharded: they are read
outside of forwards, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import Any

import torch
import transformers
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from kdlab.models.student import transformer_layers
from kdlab.runtime import distributed
from kdlab.types import Batch


def share_out(model: transformers.PreTrainedModel, device: torch.device) -> ShardTurns:
    """Shard the layers of a frozen `model` over all ranks (collective), on `device`.

    `model` is on the CPU, the same on every rank. Layers move to the device one at a time, so that a device never
    stores more than its shard and one layer. UserError for a model without a list of layers.
    """
    layers = transformer_layers(model)
    mesh = init_device_mesh(device.type, (distributed.world(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)  # also without a common root, as in most decoders
    parent = next(module for module in model.modules() if layers in module.children())
    # FSDP changes a module's class, by which transformers finds hidden states
    if not isinstance(parent, transformers.PreTrainedModel):
        sharded = set(layers.parameters())
        # with a common root, FSDP gathers the next layer while one runs
        fully_shard(parent, mesh=mesh, ignored_params={p for p in parent.parameters() if p not in sharded})
    nn.Module.to(model, device=device)  # pyright does not accept the signature of PreTrainedModel.to
    return ShardTurns(model)


class ShardTurns:
    """Synchronize the forwards of one sharded model over the ranks.

    A pre-hook announces every forward of the model to all ranks. Between two points of a program that all ranks pass,
    each rank may run any number of forwards, if it calls `catch_up` at the second point.
    """

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        self._base: nn.Module = model.base_model
        self._following = False
        # `Encoder.cast_weights` casts matrices only
        self._half = any(p.dtype == torch.bfloat16 for p in self._base.parameters())
        self._base.register_forward_pre_hook(self._announce)

    def _announce(self, *_: Any) -> None:
        if not self._following:
            distributed.all_any(True)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Run forwards over one token until no rank announces another (collective)."""
        while distributed.all_any(False):
            device = next(self._base.parameters()).device
            token = torch.zeros(1, 1, dtype=torch.long, device=device)
            self._following = True
            try:
                with torch.autocast(device.type, torch.bfloat16, enabled=self._half):
                    self._base(input_ids=token, attention_mask=torch.ones_like(token))
            finally:
                self._following = False

    def over(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """`batches` of this rank, then `catch_up`, as ranks may have unequal numbers (collective; exhaust it)."""
        return _SynchronizedBatches(batches, self)


class _SynchronizedBatches:
    """Batches followed by `ShardTurns.catch_up`, with their length hint."""

    def __init__(self, batches: Iterable[Batch], turns: ShardTurns) -> None:
        self._batches, self._turns = batches, turns

    def __length_hint__(self) -> int:
        return length_hint(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._batches
        self._turns.catch_up()
