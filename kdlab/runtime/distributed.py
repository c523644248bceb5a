"""Reductions over the ranks of a distributed run; each is the identity where torch.distributed is not initialised.

All but `rank` and `world` are collective: every rank must call them, in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def initialised() -> bool:
    """True if this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 to world - 1."""
    return dist.get_rank() if initialised() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if initialised() else 1


def all_sum(tensor: Tensor) -> Tensor:
    """Element-wise sum over ranks: a new tensor of the same shape, dtype and device (int64 and float64 exact)."""
    return _reduced(tensor, dist.ReduceOp.SUM) if initialised() else tensor.detach().clone()


def all_max(tensor: Tensor) -> Tensor:
    """Element-wise maximum over ranks: a new tensor of the same shape, dtype and device."""
    return _reduced(tensor, dist.ReduceOp.MAX) if initialised() else tensor.detach().clone()


def all_any(flag: bool) -> bool:
    """True if `flag` is True on any rank."""
    return bool(all_max(torch.tensor(int(flag)))) if initialised() else bool(flag)


def gather_rows(tensor: Tensor, pad: float | None = None) -> Tensor:
    """The rows of all ranks' tensors, concatenated along dimension 0 in rank order, detached.

    Ranks may hold different numbers of rows, zero included. Other dimensions must agree, except that dimension 1 may
    differ where `pad` is given: shorter rows are filled with it at the end. ValueError, on every rank, otherwise.
    """
    if not initialised():
        return tensor.detach()
    local = tensor.detach().to(_device(tensor.device)).contiguous()
    sizes = torch.tensor([local.shape[0], local.shape[1] if local.ndim > 1 else 0], device=local.device)
    shapes = [torch.empty_like(sizes) for _ in range(world())]
    dist.all_gather(shapes, sizes)
    heights, widths = zip(*(shape.tolist() for shape in shapes), strict=True)
    if pad is None and len(set(widths)) > 1:
        raise ValueError(f"ranks hold rows of different widths {list(widths)}; give gather_rows a pad value")
    whole = list(local.shape)
    whole[0] = max(heights)
    if local.ndim > 1:
        whole[1] = max(widths)
    if 0 in whole:
        return torch.empty([sum(heights), *whole[1:]], dtype=tensor.dtype, device=tensor.device)
    filled = local.new_full(whole, 0 if pad is None else pad)
    filled[tuple(slice(size) for size in local.shape)] = local
    # As bytes: gloo has no collective for some of torch's types (bfloat16, bool), and bytes are moved unchanged.
    flat = filled.view(torch.uint8)
    parts = [torch.empty_like(flat) for _ in range(world())]
    dist.all_gather(parts, flat)
    rows = [part.view(local.dtype)[:height] for part, height in zip(parts, heights, strict=True)]
    return torch.cat(rows).to(tensor.device)


def gather_unless_local(tensor: Tensor, local: bool) -> Tensor:
    """Rows of all ranks, in rank order, detached; with `local` this rank's rows only, without communication."""
    return tensor.detach() if local else gather_rows(tensor)


def rows_of_this_rank(tensor: Tensor, rows: int, local: bool) -> Tensor:
    """This rank's `rows` rows of a result of `gather_unless_local`, called with the same `local`."""
    heights = [rows] if local else gather_rows(torch.tensor([rows])).tolist()
    first = 0 if local else sum(heights[: rank()])
    return tensor[first : first + rows]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's `value`, in rank order. Small picklable values only."""
    if not initialised():
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def broadcast_object(value: Any) -> Any:
    """Rank 0's `value`, on every rank. Small picklable values only."""
    if not initialised():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _reduced(tensor: Tensor, operation: Any) -> Tensor:
    result = tensor.detach().to(_device(tensor.device), copy=True).contiguous()
    dist.all_reduce(result, operation)
    return result.to(tensor.device)


def _device(device: torch.device) -> torch.device:
    """Device for a collective: NCCL takes tensors of this process's GPU only."""
    if device.type == "cpu" and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return device
