"""Layer maps against the lists in the papers."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kdlab.errors import UserError
from kdlab.methods.knowledge import layer_maps

DEPTHS = [(m, n) for n in range(1, 25) for m in range(1, n + 1)]


def teachers(found: list[tuple[int, int]]) -> list[int]:
    assert [s for s, _ in found] == list(range(1, len(found) + 1))
    return [t for _, t in found]


def test_published_maps():
    assert teachers(layer_maps.layer_pairs("uniform", 4, 12)) == [3, 6, 9, 12]  # TinyBERT-4: g(m) = 3 m
    assert teachers(layer_maps.layer_pairs("uniform", 6, 12)) == [2, 4, 6, 8, 10, 12]
    assert teachers(layer_maps.layer_pairs("skip", 6, 12)) == [2, 4, 6, 8, 10]  # BERT-PKD, Dynamic KD
    assert teachers(layer_maps.layer_pairs("last", 6, 12)) == [7, 8, 9, 10, 11]
    assert teachers(layer_maps.layer_pairs("skip", 3, 12)) == [4, 8]
    assert teachers(layer_maps.layer_pairs("last", 3, 12)) == [10, 11]


def test_uniform_is_the_nearest_layer_upwards_at_a_tie_and_never_repeats():
    for student, teacher in DEPTHS:
        found = teachers(layer_maps.layer_pairs("uniform", student, teacher))
        for m, n in enumerate(found, start=1):
            assert -Fraction(1, 2) < n - Fraction(m * teacher, student) <= Fraction(1, 2)
        assert len(set(found)) == student and found[-1] == teacher


@pytest.mark.parametrize("name", ["skip", "last"])
def test_pkd_maps_leave_the_students_last_layer_out_and_stay_within_the_teacher(name):
    for student, teacher in DEPTHS:
        if student > 1:
            found = teachers(layer_maps.layer_pairs(name, student, teacher))
            assert len(found) == student - 1
            assert found == sorted(set(found)) and found[0] >= 1 and found[-1] < teacher


@pytest.mark.parametrize("name", ["uniform", "skip", "last"])
def test_a_student_of_one_layer_learns_from_the_last(name):
    assert layer_maps.layer_pairs(name, 1, 12) == [(1, 12)]
    assert layer_maps.layer_pairs(name, 1, 1) == [(1, 1)]


def test_an_explicit_list_is_taken_as_it_is():
    assert layer_maps.layer_pairs([7, 2, 2], 4, 12) == [(1, 7), (2, 2), (3, 2)]
    assert layer_maps.layer_pairs([1, 1, 2], 3, 2) == [(1, 1), (2, 1), (3, 2)]  # a shallower teacher too


def test_what_does_not_fit_is_refused_in_one_line():
    for layers, student, teacher, says in [
        ("skipp", 6, 12, "did you mean skip"),
        ("uniform", 6, 4, "the student has 6 layers and the teacher 4"),
        ([2, 4, 13], 6, 12, "numbered 1 to 12"),
        ([0], 6, 12, "numbered 1 to 12"),
        ([1, 2, 3], 2, 12, "1 to 2 of them"),
        ([], 2, 12, "1 to 2 of them"),
        (4, 6, 12, "layers=4: a list of teacher layers"),
        (None, 6, 12, "layers=None: a list of teacher layers"),
        ([2.0], 6, 12, "numbered 1 to 12"),
    ]:
        with pytest.raises(UserError, match=says) as error:
            layer_maps.layer_pairs(layers, student, teacher)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(layer_maps.MAPS))
def test_a_named_map_fits_any_pair_of_depths_or_is_refused(name):
    for student, teacher in [(m, n) for m in range(1, 25) for n in range(1, 25)]:
        if student > teacher:
            with pytest.raises(UserError, match="needs a teacher at least as deep"):
                layer_maps.layer_pairs(name, student, teacher)
        else:
            found = teachers(layer_maps.layer_pairs(name, student, teacher))
            assert found == sorted(set(found)) and found[0] >= 1 and found[-1] <= teacher


def test_matched_takes_what_the_joined_layers_show():
    student, teacher = ["e", "s1", "s2", "s3"], ["E", *(f"t{n}" for n in range(1, 7))]
    assert layer_maps.paired_layers("skip", student, teacher, above=1) == [("s1", "t2"), ("s2", "t4")]
    assert layer_maps.paired_layers([6], student, teacher, above=1) == [("s1", "t6")]
    assert layer_maps.paired_layers("last", student[1:], teacher[1:]) == [("s1", "t4"), ("s2", "t5")]
