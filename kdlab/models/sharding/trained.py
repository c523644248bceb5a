"""Shard a student in training over the ranks of a run: torch's FSDP2 (`fully_shard`).

Each rank stores 1/world of all parameters, of their gradients and of the optimizer's state. A layer is gathered for its
forward and for its backward, and freed after them. Embeddings and head are gathered by `Encoder.encode` and stay until the
backward has reduced their gradients: the head runs after the layers, chunk by chunk, and other things read it in between.

So a forward and a backward are collective. In a training step every rank runs the same ones by construction; where ranks
may have unequal numbers of batches, those that have no more of them run along (`in_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from kdlab.models.encoder import Encoder
from kdlab.models.student import transformer_layers
from kdlab.runtime import distributed
from kdlab.types import IGNORE, Batch

T = TypeVar("T")
FSDP = "torch.distributed.fsdp"  # the package of the classes and hooks of sharded modules
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks")  # of nn.Module


def shard_student(student: Encoder, projections: nn.Module, device: torch.device) -> None:
    """Shard a student, and the `projections` that train beside it, over all ranks (collective), on `device`.

    Gathered together are: each layer, the rest of the student, each projection. One after the other moves to the device and
    is cut there. All ranks get the values of rank 0. UserError for a model without a list of layers.
    """
    mesh = init_device_mesh(device.type, (distributed.world(),))
    beside = [module for module in projections.modules() if any(True for _ in module.parameters(recurse=False))]
    for module in (*transformer_layers(student.model), student, *beside):
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(device)
                dist.broadcast(parameter.data, 0)
        fully_shard(module, mesh=mesh)


def is_sharded(student: nn.Module) -> bool:
    """True for a student that `shard_student` has divided."""
    return isinstance(student, FSDPModule)


def gather(module: nn.Module) -> None:
    """Make the sharded modules in `module` whole and plain again, on every rank (collective).

    Their classes and hooks are those from before `shard_student`; tied parameters stay tied. Gradients are dropped.
    """
    sharded = [one for one in module.modules() if isinstance(one, FSDPModule)]
    for one in sharded:
        one.reshard()
    whole: dict[Tensor, nn.Parameter] = {}
    for one in module.modules():
        for name, p in one._parameters.items():
            if isinstance(p, DTensor):
                if p not in whole:
                    whole[p] = nn.Parameter(_whole(p), p.requires_grad)
                one._parameters[name] = whole[p]
        for kind in HOOKS:
            hooks = getattr(one, kind)
            for number in [number for number, hook in hooks.items() if _is_of_fsdp(hook)]:
                del hooks[number]
    for one in sharded:
        one.__class__ = next(kind for kind in type(one).__mro__ if not kind.__module__.startswith(FSDP))


def _whole(shards: Any) -> Tensor:
    return shards.detach().full_tensor()


def _is_of_fsdp(hook: Any) -> bool:
    hook = getattr(hook, "hook", hook)  # those of load_state_dict are wrapped
    return (getattr(hook, "__module__", None) or "").startswith(FSDP)


# ---- the whole of tensors, for checkpoints


def whole_on_first(state: Any) -> Any:
    """`state`, nested in dicts and lists, with whole tensors on the CPU in place of shards on rank 0 (collective); other
    ranks get None for them. One tensor at a time is whole on a device, and tensors that are one stay one."""
    seen: dict[Tensor, Tensor | None] = {}

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(one) for key, one in value.items()}
        if isinstance(value, list):
            return [whole(one) for one in value]
        if not isinstance(value, DTensor):
            return value
        if value not in seen:
            full = _whole(value)
            seen[value] = full.cpu() if distributed.rank() == 0 else None
        return seen[value]

    return whole(state)


def cut_like(value: Any, parameter: Tensor) -> Any:
    """This rank's shard of a whole tensor `value` that every rank has, cut as `parameter` is; what has another shape as it is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def own_part(tensor: Tensor) -> Tensor:
    """The elements of a tensor that this rank stores."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def clip_shards(gradients: list[Tensor], largest: float) -> Tensor:
    """Scale sharded gradients so that their norm over all ranks is at most `largest`; the norm () before (collective)."""
    parts = [own_part(gradient) for gradient in gradients]
    squares = torch.stack([part.double().square().sum() for part in parts])
    norm = distributed.all_sum(squares.sum()).sqrt().float()
    share = (largest / (norm + 1e-6)).clamp(max=1.0)
    for part in parts:
        part.mul_(share)
    return norm


# ---- unequal numbers of batches


def in_step(student: Encoder, batches: Iterable[T]) -> Iterable[T]:
    """`batches` of this rank, for each of which the student runs one forward without gradient. Of a sharded student, a rank
    without a further batch runs along with those that have one (collective; exhaust it)."""
    if not is_sharded(student):
        return batches
    return _InStep(batches, lambda: student.encode(_one_token(student)))


class _InStep(Generic[T]):
    """Batches that are announced to all ranks, with their length hint; after the last, `run_along` for those of others."""

    def __init__(self, batches: Iterable[T], run_along: Callable[[], object]) -> None:
        self._batches, self._run_along = batches, run_along

    def __length_hint__(self) -> int:
        return length_hint(self._batches)

    def __iter__(self) -> Iterator[T]:
        for batch in self._batches:
            distributed.all_any(True)
            yield batch
        while distributed.all_any(False):
            self._run_along()


def _one_token(student: Encoder) -> Batch:
    """A batch of one row of one token, which does not count."""
    row = torch.zeros(1, dtype=torch.long, device=student.model.device)
    token = row.unsqueeze(1)
    labels = row if student.per_row else torch.full_like(token, IGNORE)
    return Batch(row, 0, token, torch.ones_like(token), labels, torch.zeros_like(row, dtype=torch.bool))
