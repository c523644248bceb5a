"""Leave the caller's process as it was: its random generators, threads, warnings, environment, and a Hydra of its own."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig


@contextmanager
def separate_hydra() -> Iterator[None]:
    """Restore the state of Hydra, which composing a configuration clears, for a caller that is a Hydra application."""
    hydra, job = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, job


@contextmanager
def process_as_it_was() -> Iterator[None]:
    """Restore all that a run changes in its process."""
    variables, threads = dict(os.environ), torch.get_num_threads()
    python, array = random.getstate(), np.random.get_state()
    try:
        with separate_hydra(), warnings.catch_warnings(), torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(variables)
