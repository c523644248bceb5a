"""Which recorded surroundings of two runs differ, in words."""

from __future__ import annotations

from kdlab import surroundings


def test_what_differs_is_named_and_nothing_else() -> None:
    teachers = [{"name": "a", "layers": 6, "made_of": "1" * 64}, {"name": "b", "layers": 3, "made_of": "2" * 64}]
    before = {"versions": {"torch": "2.12.0", "numpy": "2.0"}, "git": "abc", "teachers": teachers, "seed": 1}
    after = {
        "versions": {"torch": "2.13.0", "numpy": "2.0"}, "git": "abc", "seed": 2,
        "teachers": [teachers[0], {**teachers[1], "made_of": "3" * 64}], "devices": {"world": 1},
    }  # fmt: skip
    assert surroundings.differing(before, before) == []
    assert surroundings.differing(before, after) == [
        "torch 2.12.0 -> 2.13.0",
        "device not recorded -> {'world': 1}",
        f"teachers 2 made_of {'2' * 57}... -> {'3' * 57}...",
    ]


def test_more_teachers_are_told_as_a_whole() -> None:
    assert surroundings.differing({"teachers": [1]}, {"teachers": [1, 2]}) == ["teachers [1] -> [1, 2]"]
