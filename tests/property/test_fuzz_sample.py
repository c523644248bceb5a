"""A few hostile inputs for each reader; 100,000 of them in tests/nightly/test_fuzz.py."""

from __future__ import annotations

import pytest

from tests.support.fuzzing import TARGETS, fuzz, shares

CASES = shares(130)


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_input(name: str) -> None:
    assert fuzz(TARGETS[name], CASES[name]) >= 1
