"""Each test file lies in a folder that marks its tests, and each marker is registered."""

from __future__ import annotations

import pytest

from tests.conftest import MARKERS, TESTS, marker_of


def test_every_test_file_lies_in_a_marked_folder():
    files = sorted(TESTS.rglob("test_*.py"))
    assert len(files) > 100
    assert {marker_of(file) for file in files} == set(MARKERS.values())


def test_a_test_file_elsewhere_is_refused():
    for file in (TESTS / "test_new.py", TESTS / "support" / "test_new.py"):
        with pytest.raises(pytest.UsageError, match="end_to_end"):
            marker_of(file)


def test_tests_have_the_marker_of_their_folder(request):
    assert request.node.get_closest_marker("unit") and not request.node.get_closest_marker("e2e")
    registered = {line.partition(":")[0] for line in request.config.getini("markers")}
    assert set(MARKERS.values()) <= registered
    assert request.config.getoption("strict_markers")
