"""docs/api.md: the page that the code makes, with every public name and every equation."""

from __future__ import annotations

import inspect
import re

import pytest

import kdlab
from kdlab.api import reference
from tests.support.documents import ROOT


def test_the_page_is_that_of_the_code():
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == reference.page(), "python -m kdlab.api.reference"


def test_every_public_name_has_a_section():
    listed = [name for names in reference.SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(set(kdlab.__all__) - {"__version__"})


@pytest.mark.parametrize("name", reference.SECTIONS["Equations"])
def test_equations_state_their_shapes(name):
    found = reference.equations(getattr(kdlab, name))
    assert len(found) >= {"rewards": 2}.get(name, 4)
    text = f"{inspect.getdoc(getattr(kdlab, name))}" + "".join(map(str, map(inspect.getdoc, found.values())))
    if name not in ("policies", "rewards"):  # those take and return numbers and names
        assert re.search(r"\((N|k|U|M)(, \w+)*,?\)", text)
    assert all(inspect.getdoc(value) for value in found.values())
