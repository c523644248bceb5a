"""Laws of packing documents into rows, and of the labels of packed rows, for any documents."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdlab.data.causal import dataset
from kdlab.data.causal.dataset import TokenizedDocuments
from kdlab.data.causal.packing import pack
from kdlab.errors import UserError
from kdlab.types import IGNORE
from tests.support.causal import END, characters
from tests.unit.data.causal.test_dataset import Texts


@given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 40))
def test_every_document_is_in_one_row_that_holds_it(lengths, capacity):
    order, bounds = pack(np.array(lengths, dtype=np.int64), capacity)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert bounds[0] == 0 and bounds[-1] == len(lengths) and (np.diff(bounds) > 0).all()
    rows = [order[a:b].tolist() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    fills = [sum(lengths[number] for number in row) for row in rows]
    assert all(fill <= capacity for fill in fills)
    assert all(row == sorted(row) for row in rows) and rows == sorted(rows)
    least = sorted(fills)[:2]
    assert len(least) < 2 or sum(least) > capacity  # no two rows could be one


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(12, 20))
def test_rows_are_few(lengths, capacity):
    """Best fit decreasing takes at most 11/9 of the least number of rows and 6/9 more (Dosa 2007)."""
    _, bounds = pack(np.array(lengths, dtype=np.int64), capacity)
    assert len(bounds) - 1 <= 11 / 9 * fewest(sorted(lengths, reverse=True), capacity) + 6 / 9


def fewest(lengths: list[int], capacity: int) -> int:
    """The least number of rows, by trying all placements."""
    best = len(lengths)

    def place(index: int, free: tuple[int, ...]) -> None:
        nonlocal best
        if len(free) >= best:
            return
        if index == len(lengths):
            best = len(free)
            return
        for space in set(free):
            if space >= lengths[index]:
                others = list(free)
                others.remove(space)
                place(index + 1, (*others, space - lengths[index]))
        place(index + 1, (*free, capacity - lengths[index]))

    place(0, ())
    return best


def test_a_document_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="21 tokens does not fit into a row of 20"):
        pack(np.array([3, 21]), 20)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=30), min_size=2, max_size=40, unique=True),
    st.integers(8, 24),
    st.booleans(),
)
def test_no_token_is_lost_or_doubled_and_no_label_crosses_documents(texts, length, packed):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            dataset.prepare(
                Texts(texts), characters(), folder, max_length=length, min_length=3, heldout=0.3, seed=1, pack=packed
            )
        except UserError:  # too little text for two sides
            assume(False)
        found = []
        for split in dataset.SPLITS:
            rows = TokenizedDocuments(folder, split)
            for row in range(len(rows)):
                ids, labels, numbers = rows[row]
                assert len(ids) <= length
                crosses = np.append(numbers[1:] != numbers[:-1], True)
                assert (labels[crosses] == IGNORE).all()
                assert np.array_equal(labels[~crosses], ids[1:][~crosses[:-1]])
                found += [tuple(ids[numbers == number]) for number in np.unique(numbers)]
    tokens = [[*characters()(text)["input_ids"], END] for text in texts]
    pieces = [(ids[i : i + length], len(ids) > length) for ids in tokens for i in range(0, len(ids), length)]
    expected = [tuple(piece) for piece, several in pieces if len(piece) >= (3 if several else 2)]
    assert sorted(found) == sorted(expected)
