"""Classes or scores: what the labels of a training set are taken for, and what is refused or noted."""

from __future__ import annotations

import pytest

from kdlab.data.tasks.inference import classes_of, note_of
from kdlab.errors import UserError


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["1", "0", "1"], ("0", "1")),
        (["b", "a"], ("a", "b")),
        (["1.0", "2", "10", "2.0"], ("1", "2", "10")),
        (["-1", "1", "0"], ("-1", "0", "1")),
        (["5.000", "3.800"], None),  # scores
        (["1.0", "2.5", "3.0"], None),
        ([str(i) for i in range(150)], tuple(map(str, range(150)))),  # 150 class numbers without a gap
        ([str(i) for i in range(0, 300, 3)], None),  # 100 whole numbers with gaps are scores
        ([str(i) for i in range(1, 31)], tuple(map(str, range(1, 31)))),
        ([str(i) for i in range(30) if i != 17], tuple(map(str, range(30)))),  # one class without a training row
        ([str(i) for i in range(-1, 29)], tuple(map(str, range(-1, 29)))),
        ([str(i) for i in range(1900, 2000)], None),  # years
        (["1_1", "11", "1"], ("1", "11", "1_1")),  # float() takes 1_1 for 11
        (["01", "1"], ("01", "1")),
        (["+1", "-1", "0"], ("+1", "-1", "0")),
        (["1.0", "1", "x"], ("1", "1.0", "x")),  # a column of words: as they are written
        (["1234567890123456789", "1234567890123456788"], ("1234567890123456788", "1234567890123456789")),
        (["\u0661", "1"], ("1", "\u0661")),  # an Arabic digit, which float() takes for 1
        (["1", "2", "x"], ("1", "2", "x")),
    ],
)
def test_classes_or_scores(values: list[str], classes: tuple[str, ...] | None) -> None:
    assert classes_of(values) == classes


def test_a_column_of_ids_is_no_column_of_labels() -> None:
    with pytest.raises(UserError, match="25 different values in 25 rows, such as 'id0'"):
        classes_of([f"id{i}" for i in range(25)])


def test_a_column_of_many_long_numbers_is_no_column_of_labels() -> None:
    with pytest.raises(UserError, match="30 different values in 30 rows"):
        classes_of([str(1234567890123456000 + i) for i in range(30)])


def test_given_classes_are_kept_as_written() -> None:
    assert classes_of(["1.10", "1.1", "2.0"], regression=False) == ("1.1", "1.10", "2.0")
    assert classes_of([str(i) for i in range(0, 60, 2)], regression=False) == tuple(str(i) for i in range(0, 60, 2))
    assert classes_of(["1", "2"], regression=True) is None


def test_the_user_reads_what_whole_numbers_were_taken_for() -> None:
    scores, classes = [str(i) for i in range(0, 90, 3)], [str(i) for i in range(30) if i != 17]
    assert note_of(scores, classes_of(scores)) == (
        "the labels are 30 different whole numbers from 0 to 87: taken for scores (regression); data.regression=false "
        "takes them for classes"
    )
    assert note_of(classes, classes_of(classes)) == (
        "the labels are 29 different whole numbers from 0 to 29: taken for 30 classes, 17 without a training row; "
        "data.regression=true takes them for scores"
    )
    assert note_of(["0.5", *scores], None) is None
    assert note_of(["0", "1"], ("0", "1")) is None
