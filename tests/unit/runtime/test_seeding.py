"""Every random choice draws from a generator keyed by what it is for."""

from __future__ import annotations

import random

import numpy as np
import torch

from kdlab.runtime import seeding


def test_reseeding_sets_the_global_generators_as_their_own_libraries_do():
    seed = seeding.stable("step", 3)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    wanted = torch.rand(5), np.random.rand(5), random.random()
    seeding.reseed("step", 4)
    other = torch.rand(5)
    seeding.reseed("step", 3)
    assert torch.equal(torch.rand(5), wanted[0]) and not torch.equal(other, wanted[0])
    assert np.array_equal(np.random.rand(5), wanted[1]) and random.random() == wanted[2]


def test_a_key_is_its_parts_and_their_kinds():
    assert len({seeding.stable(*parts) for parts in (("a", 1), ("a", "1"), ("a1",), ("a", 1, 0), (1, "a"))}) == 5


def test_generators_are_put_back_after_a_block():
    seeding.reseed("before")
    with seeding.preserved():
        seeding.reseed("within")
        torch.rand(3), np.random.rand(3), random.random()
    found = torch.rand(5), np.random.rand(5), random.random()
    seeding.reseed("before")
    assert torch.equal(found[0], torch.rand(5))
    assert (found[1] == np.random.rand(5)).all() and found[2] == random.random()
