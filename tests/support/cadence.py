"""How often the cases of a test run: some each time, all of them every night."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def each_time(cases: Iterable[Any], *often: Any) -> list[Any]:
    """The cases as parameters of a test: those of `often` run each time, the others are marked nightly."""
    known = list(cases)
    assert set(often) <= set(known), set(often) - set(known)
    return [case if case in often else pytest.param(case, marks=pytest.mark.nightly) for case in known]
