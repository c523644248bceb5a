"""A frozen model whose layers are shared out over the ranks of a run: torch's FSDP2 (`fully_shard`), for inference.

Each rank holds 1/world of every layer; a layer is gathered when it runs and let go after it. So a forward is collective,
and ranks ask their teachers unequally often: selection leaves one without rows, adoption asks other teachers, a cache
answers here and not there. Therefore each forward is announced, and who has nothing to ask runs along (`ShardTurns`).
Embeddings, pooler and head stay whole on every rank: they are read outside of forwards, chunk by chunk.
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
    """Share the layers of a frozen `model` out over all ranks (collective), on `device`.

    `model` is on the CPU, the same on every rank. One layer at a time goes to the device whole, so that a device never
    holds more than its share and one layer. UserError where the model has no list of layers.
    """
    layers = transformer_layers(model)
    mesh = init_device_mesh(device.type, (distributed.world(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    holder = next(module for module in model.modules() if layers in module.children())
    if holder is not model.base_model:  # FSDP changes a module's class, by which transformers finds hidden states
        own = set(layers.parameters())
        # a common root lets the next layer be gathered while one runs
        fully_shard(holder, mesh=mesh, ignored_params={p for p in holder.parameters() if p not in own})
    nn.Module.to(model, device=device)  # transformers' own is typed without its owner
    return ShardTurns(model)


class ShardTurns:
    """Keeps the ranks' forwards of one shared model in step.

    A forward of it, anywhere, first says so to all ranks. Between two points of a program that all ranks pass, each may
    run as many forwards as it likes, if it calls `catch_up` at the second.
    """

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        self._base: nn.Module = model.base_model
        self._following = False
        self._half = any(
            p.dtype == torch.bfloat16 for p in self._base.parameters()
        )  # some of them (`Encoder.cast_weights`)
        self._base.register_forward_pre_hook(self._announce)

    def _announce(self, *_: Any) -> None:
        if not self._following:
            distributed.all_any(True)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Run along with one token until no rank asks any more (collective)."""
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
        """This rank's `batches`, of which other ranks may have more or fewer (collective, read to the end)."""
        return _Followed(batches, self)


class _Followed:
    def __init__(self, batches: Iterable[Batch], turns: ShardTurns) -> None:
        self._batches, self._turns = batches, turns

    def __length_hint__(self) -> int:
        return length_hint(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._batches
        self._turns.catch_up()
