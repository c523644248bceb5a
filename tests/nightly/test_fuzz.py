"""100,000 hostile inputs: no traceback, no hang, no file left behind. KDLAB_FUZZ_CASES sets another number.

KDLAB_FUZZ_SEED draws other inputs; without it the date does, so that each night sees new ones and can be repeated.
The cases come in parts that processes share (`-n`); a table of what was run is printed at the end.
"""

from __future__ import annotations

import datetime
import os

import pytest

from tests.support.fuzzing import TARGETS, fuzz, parts

PARTS = parts(int(os.environ.get("KDLAB_FUZZ_CASES", "100000")))
SEED = int(os.environ.get("KDLAB_FUZZ_SEED", datetime.date.today().strftime("%Y%m%d")))


@pytest.mark.parametrize(("name", "part", "cases"), PARTS, ids=[f"{name}, part {part}" for name, part, _ in PARTS])
def test_hostile_input(name: str, part: int, cases: int, record_property) -> None:
    run = 0
    try:
        run = fuzz(TARGETS[name], cases, SEED * 10_000 + part)
    finally:
        record_property("fuzzed", [name, run])  # read by tests/conftest.py
    assert run >= 0.9 * cases
