"""Tensors between host and device, and the generator that values have by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, of the host, on `device`. The host does not wait for a GPU; on other devices such a copy is not safe."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def seeded_generator() -> torch.Generator:
    """Make a generator of seed 0, the default of evidence and contexts."""
    import torch

    return torch.Generator().manual_seed(0)
