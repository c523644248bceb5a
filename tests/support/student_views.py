"""Random `Outputs` with padding, and what tests of knowledge terms compare with."""

from __future__ import annotations

import numpy as np
import torch

from kdlab.types import Outputs

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])  # a row of one real token too
ROWS, LENGTH = MASK.shape


def shown(layers: int, heads: int = 2, width: int = 6, size: int = 3, seed: int = 0) -> Outputs:
    """Random states, scores and values of a model of so many layers, float32; other arguments draw other numbers."""
    rng = np.random.default_rng([layers, heads, width, size, seed])

    def draw(count: int, *shape: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor(rng.normal(size=shape), dtype=torch.float32) for _ in range(count))

    return Outputs(
        hidden=draw(1, ROWS, LENGTH, width)[0],
        mask=torch.tensor(MASK),
        states=draw(layers + 1, ROWS, LENGTH, width),
        scores=draw(layers, ROWS, heads, LENGTH, LENGTH),
        values=draw(layers, ROWS, heads, LENGTH, size),
    )


def real(row: int) -> list[int]:
    """The places of a row's real tokens."""
    return [j for j in range(LENGTH) if MASK[row, j]]


def numpy(tensors: tuple[torch.Tensor, ...] | None) -> list[np.ndarray]:
    assert tensors is not None
    return [x.numpy().astype(np.float64) for x in tensors]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt(np.sum(vector**2))


def assert_agrees(found: torch.Tensor, wanted: list[float]) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=2e-5, atol=1e-6)
