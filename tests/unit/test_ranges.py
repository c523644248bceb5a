"""kdlab.ranges: valid numbers, words and lists, each decided by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest

from kdlab import ranges
from kdlab.errors import UserError
from kdlab.ranges import BelowOne, Count, InnerShare, Positive, Probability, Range, Share, Whole

WORDS_OR_LIST = Literal["uniform", "skip"] | Sequence[Count]
NUMBERS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "above 0": (Positive, [1e-300, 1, 1e300], [0, -1, 10**400]),
    "[0, 1]": (Probability, [0, 1, 0.5], [-1e-9, 1.1]),
    "(0, 1]": (Share, [1, 1e-9], [0, 1.0001]),
    "[0, 1)": (BelowOne, [0, 0.999], [1, -0.1]),
    "(0, 1)": (InnerShare, [0.5], [0, 1]),
    "at least 1": (Count, [1, 2**63 - 1], [0, -1, 1.0, 0.5, 2**63]),
    "whole": (Whole, [0], [-1, 1e3]),
}
NEVER = [math.nan, math.inf, -math.inf, "text", "1", None, True, [], {}]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    hint, valid, wrong = NUMBERS[name]
    for value in valid:
        ranges.check("key", value, hint)
    for value in [*wrong, *NEVER]:
        with pytest.raises(UserError, match=r"^key=.*: a (whole )?number"):
            ranges.check("key", value, hint)


@pytest.mark.parametrize(
    ("hint", "valid", "wrong"),
    [
        (WORDS_OR_LIST, ["skip", [1, 2], (3,)], ["skp", [0], [1.5], 1, None, [math.nan]]),
        (Count | None, [None, 1], [0, "null"]),
        (Annotated[Any, Literal["auto"] | Count], ["auto", 4], ["4", 0, None, True]),
        (list[Probability], [[], [0.5]], [[2], 0.5, "a"]),
        (dict[str, Positive], [{"a": 1}], [{"a": 0}, {"a": math.nan}, [1]]),
        (bool, [True], [1, 0, "true", None]),
        (str, ["x"], [1, None]),
    ],
    ids=str,
)
def test_words_lists_and_unions(hint, valid, wrong):
    for value in valid:
        ranges.check("key", value, hint)
    for value in wrong:
        with pytest.raises(UserError, match="^key="):
            ranges.check("key", value, hint)


@pytest.mark.parametrize("hint", [int, float, Any, object, float | None, list[int]], ids=str)
def test_a_number_without_a_declared_range_is_refused(hint):
    value = [3] if hint == list[int] else 3
    with pytest.raises(UserError, match="range"):
        ranges.check("key", value, hint)
    assert ranges.undeclared(hint) or hint in (Any, object)


def test_an_unusually_large_number_is_asked_back_until_it_is_confirmed():
    hint = Annotated[int, Range(1, usual=1000)] | None
    ranges.check("key", 1000, hint)
    with pytest.raises(UserError, match=r"key=1001: more than 1,000 .*confirm=\[key\]"):
        ranges.check("key", 1001, hint)
    ranges.check("key", 10**18, hint, confirmed=["key"])
    with pytest.raises(UserError, match="at most 9,223,372,036,854,775,807"):
        ranges.check("key", 10**19, hint, confirmed=["key"])


def test_a_checked_constructor_refuses_positional_and_named_arguments():
    class Fading:
        @ranges.checked
        def __init__(self, arms: list[str], share: Share = 0.5, kind: Literal["a", "b"] = "a"):
            self.share = share

    assert Fading(["x"], 1).share == 1 and Fading(["x"], share=0.2).share == 0.2
    for wrong in (lambda: Fading(["x"], 0), lambda: Fading(["x"], share=math.nan), lambda: Fading(["x"], kind="c")):
        with pytest.raises(UserError, match="^(share|kind)="):
            wrong()
    with pytest.raises(TypeError):
        Fading(["x"], 1, "a", "more")  # pyright: ignore[reportCallIssue]


def test_words_name_the_valid_values():
    assert ranges.words(WORDS_OR_LIST) == "uniform or skip, or a list, each a whole number, at least 1"
    assert ranges.words(Share | None) == "a number in (0, 1], or null"
    assert ranges.words(Annotated[int, Range(-3, 4)]) == "a whole number in [-3, 4]"
