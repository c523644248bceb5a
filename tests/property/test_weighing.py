"""Laws of weighing rules, for any context."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.methods.knowledge.weighing import fixed, random_hard, random_soft, uncertainty
from kdlab.runtime.seeding import generator
from kdlab.types import WeighingContext

LAWS = settings(deadline=None, max_examples=50)
SHARES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8)


@LAWS
@given(SHARES, st.integers(1, 6), st.data())
def test_weights_by_uncertainty(shares, count, data):
    terms = [f"term{number}" for number in range(count)]
    roles = data.draw(st.lists(st.sampled_from("cu1"), min_size=count, max_size=count))
    certain, uncertain = ([t for t, role in zip(terms, roles, strict=True) if role == kind] for kind in "cu")
    weights = uncertainty(WeighingContext(uncertainty=torch.tensor(shares)), terms, certain, uncertain)
    swapped = uncertainty(WeighingContext(uncertainty=torch.tensor(shares)), terms, uncertain, certain)
    assert weights.shape == (len(shares), count)
    assert ((weights >= 0) & (weights <= 1)).all()
    named = torch.tensor([role != "1" for role in roles])
    assert torch.allclose((weights + swapped)[:, named], torch.tensor(1.0))
    assert (weights[:, ~named] == 1).all()


@LAWS
@given(st.integers(1, 62), st.integers(0, 2**40), st.integers(0, 3))
def test_random_rules_stay_in_range(count, seed, epoch):
    terms = [f"term{number}" for number in range(count)]
    for rule in (fixed, random_soft, random_hard):
        first, again = (rule(WeighingContext(rng=generator(seed), epoch=epoch), terms) for _ in range(2))
        assert torch.equal(first, again)
        assert first.shape == (count,) and first.dtype == torch.float32
        assert ((first >= 0) & (first <= 1)).all()
    assert random_hard(WeighingContext(rng=generator(seed)), terms).any()
