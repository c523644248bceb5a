"""Laws of masking that hold for every row and setting."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.data.text.masking import Masker
from kdlab.types import IGNORE

VOCAB, SPECIAL, MASK = 30, (0, 1, 2, 3), 3
rows = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=80).map(np.array)


@settings(deadline=None, max_examples=300)
@given(
    ids=rows,
    seed=st.integers(0, 2**63),
    epoch=st.integers(-1, 1000),
    number=st.integers(0, 2**40),
    probability=st.floats(0.01, 0.99),
    shares=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    rare=st.booleans(),
)
def test_mask_laws(ids, seed, epoch, number, probability, shares, rare) -> None:
    counts = np.arange(VOCAB) ** 3 if rare else None
    keep, replace = shares
    masker = Masker(MASK, SPECIAL, VOCAB, seed, probability, keep, replace, counts)
    masked, labels = masker(ids, epoch, number)
    maskable = ~np.isin(ids, SPECIAL)
    chosen = labels != IGNORE
    assert not (chosen & ~maskable).any()
    assert chosen.sum() == (max(1, round(probability * maskable.sum())) if maskable.any() else 0)
    assert (labels[chosen] == ids[chosen]).all()
    assert (masked[~chosen] == ids[~chosen]).all()
    assert not np.isin(masked[chosen], [0, 1, 2]).any()
    again = Masker(MASK, SPECIAL, VOCAB, seed, probability, keep, replace, counts)(ids, epoch, number)
    assert (again[0] == masked).all()
    assert (again[1] == labels).all()


@settings(deadline=None, max_examples=50)
@given(ids=rows, share=st.floats(0.05, 0.5))
def test_more_probability_masks_a_superset(ids, share) -> None:
    """The draw ranks the positions once: a larger share keeps all that a smaller one chose."""
    few, many = (Masker(MASK, SPECIAL, VOCAB, 0, probability)(ids, 0, 0)[1] for probability in (share / 2, share))
    assert set(np.flatnonzero(few != IGNORE)) <= set(np.flatnonzero(many != IGNORE))
