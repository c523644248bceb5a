"""Random generators of a run: every random choice draws from a generator keyed by the seed and its purpose.

No state is kept between steps, so a resumed run draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch  # imported where it is used: figures need only `stable`


def stable(*parts: int | str) -> int:
    """A 63-bit hash of `parts`, the same in every process and version (Python's `hash` of a string is not)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `stable(*parts)`."""
    import torch

    return torch.Generator().manual_seed(stable(*parts))


def reseed(*parts: int | str) -> None:
    """Set the global generators of torch (all devices), NumPy and Python, which dropout and libraries draw from."""
    import torch

    seed = stable(*parts)
    # torch.manual_seed records the call stack for each kind of absent device, which takes half a millisecond a step
    (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Put the global generators of torch (all devices), NumPy and Python back as they were before the block."""
    import torch

    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
