"""The memory of a forecast."""

from __future__ import annotations

import pytest
from torch import nn

from kdlab.runs.forecast.forecast import on_other_ranks


@pytest.mark.parametrize(("world", "elsewhere"), [(1, 0), (2, 72), (4, 108), (5, 115)])
def test_weights_gradients_and_moments_of_a_sharded_student_are_on_other_devices(world, elsewhere):
    """By hand: 8 trained numbers of 16 bytes, 4 frozen ones of 4 bytes: 144 bytes, of which a device stores 1/world, rounded up."""
    student = nn.ModuleList([nn.Linear(3, 2), nn.Linear(4, 1, bias=False).requires_grad_(False)])
    assert on_other_ranks(student, world) == elsewhere
