"""100,000 hostile inputs: no traceback, no hang, no file left behind. KDLAB_FUZZ_CASES sets another number.

KDLAB_FUZZ_SEED draws other inputs; without it the date does, so that each night sees new ones and can be repeated.
"""

from __future__ import annotations

import datetime
import os

import pytest

from tests.fuzzing import TARGETS, fuzz, shares

pytestmark = pytest.mark.nightly

CASES = shares(int(os.environ.get("KDLAB_FUZZ_CASES", "100000")))
SEED = int(os.environ.get("KDLAB_FUZZ_SEED", datetime.date.today().strftime("%Y%m%d")))


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_input(name: str) -> None:
    run = fuzz(TARGETS[name], CASES[name], SEED)
    print(f"{name}: {run} cases, seed {SEED}, none raised, hung or left a file")
    assert run >= 0.9 * CASES[name]
