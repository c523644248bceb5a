"""Weighing rules against their definitions, and the random ones against their distributions."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from scipy import stats

from kdlab.errors import UserError
from kdlab.methods.knowledge.weighing import (
    accepted,
    fixed,
    hellinger,
    random_hard,
    random_soft,
    rank_of_proposal,
    token_temperature,
    uncertainty,
)
from kdlab.runtime.seeding import generator
from kdlab.types import WeighingContext

TERMS = ["labels", "soft", "patient", "relation"]


def situation(step=0, **more):
    return WeighingContext(rng=generator(0, step), **more)


def draws(rule, steps, terms=TERMS, **more):
    return torch.stack([rule(situation(step, **more), terms) for step in range(steps)])


def test_fixed_is_ones():
    assert fixed(situation(), TERMS).tolist() == [1, 1, 1, 1]


def test_uncertainty_weighs_rows():
    seen = situation(uncertainty=torch.tensor([0.0, 0.25, 1.0]))
    weights = uncertainty(seen, TERMS, certain=["soft"], uncertain=["patient"])
    assert weights.tolist() == [[1, 1, 0, 1], [1, 0.75, 0.25, 1], [1, 0, 1, 1]]
    assert torch.equal(uncertainty(seen, TERMS), torch.ones(3, 4))
    assert weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"certain": ["sofd"]}, "did you mean soft"),
        ({"uncertain": ["patent"]}, r"\(uncertain\): did you mean patient"),
        ({"certain": "soft"}, "list"),
        ({"certain": ["soft"], "uncertain": ["patient", "soft"]}, "soft is in both"),
    ],
)
def test_uncertainty_refuses_names(lists, message):
    with pytest.raises(UserError, match=message):
        uncertainty(situation(uncertainty=torch.zeros(2)), TERMS, **lists)


def test_uncertainty_of_a_student_that_has_none():
    with pytest.raises(UserError, match="regression"):
        uncertainty(situation(), TERMS, certain=["soft"])


def test_random_soft_is_uniform():
    drawn = draws(random_soft, 1500)
    assert drawn.shape == (1500, 4)
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 0.01
    assert abs(stats.spearmanr(drawn.numpy()).statistic - torch.eye(4).numpy()).max() < 0.1


def test_random_hard_draws_every_set_that_is_not_empty_equally():
    drawn = draws(random_hard, 3000)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    sets = (drawn.long() @ torch.tensor([1, 2, 4, 8])).bincount(minlength=16)
    assert sets[0] == 0
    assert stats.chisquare(sets[1:].numpy()).pvalue > 0.01


def test_random_hard_of_one_term_is_that_term():
    assert draws(random_hard, 20, terms=["soft"]).tolist() == [[1.0]] * 20


def test_random_one_is_random_in_the_first_epoch_only():
    random_one = functools.partial(random_hard, epochs=1)
    assert torch.equal(draws(random_one, 50, epoch=0), draws(random_hard, 50))
    assert torch.equal(draws(random_one, 50, epoch=1), torch.ones(50, 4))


@pytest.mark.parametrize("rule", [random_soft, random_hard])
def test_a_step_draws_the_same_again(rule):
    before = torch.get_rng_state()
    assert torch.equal(draws(rule, 20), draws(rule, 20))
    assert not torch.equal(rule(situation(0), TERMS), rule(situation(1), TERMS))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_hard_of_too_many_terms():
    assert random_hard(situation(), list(range(62))).shape == (62,)
    with pytest.raises(UserError, match="62 knowledge terms at most"):
        random_hard(situation(), list(range(63)))


def test_token_temperatures_by_hand():
    """T = exp(-0.5 tanh(log(s / median))): s = 0.1, 0.2, 0.4 with the median 0.2 have log ratios -log 2, 0, log 2, and
    tanh(log 2) = 3 / 5."""
    context = WeighingContext(units=torch.tensor([[0.1], [0.2], [0.4]]))
    found = token_temperature(context, ["soft"])
    wanted = [math.exp(0.3), 1.0, math.exp(-0.3)]
    assert found.temperatures is not None and found.temperatures.tolist() == pytest.approx(wanted)
    assert found.factors.tolist() == pytest.approx([t**2 for t in wanted])
    warmer = token_temperature(context, ["soft"], base=2.0, scale=0.0)
    assert warmer.temperatures is not None and warmer.temperatures.tolist() == [2.0, 2.0, 2.0]


def test_the_same_distributions_have_one_temperature():
    found = token_temperature(WeighingContext(units=torch.zeros(3, 1)), ["soft"])
    assert found.temperatures is not None and bool(found.temperatures.isfinite().all())


def test_hellinger_distance_by_hand():
    """Of (1/2, 1/2) and (1, 0): sqrt(((1 - sqrt(1/2))^2 + 1/2) / 2); of two disjoint ones 1, of equal ones 0."""
    student = torch.tensor([[0.0, 0.0], [300.0, 0.0], [1.0, 3.0]])
    teacher = torch.tensor([[300.0, 0.0], [0.0, 300.0], [1.0, 3.0]])
    by_hand = math.sqrt(((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2)
    assert hellinger(student, teacher)[:, 0].tolist() == pytest.approx([by_hand, 1, 0], abs=1e-6)


def test_tokens_that_the_teacher_finds_likely_are_accepted():
    student = torch.tensor([[0.0, 9, 1, 2], [9.0, 0, 0, 0], [0.0, 0, 0, 9]])  # proposals 1, 0, 3
    teacher = torch.tensor([[0.0, 4, 3, 2], [0.0, 4, 3, 2], [0.0, 4, 3, 2]])  # of rank 0, 3, 2
    ranks = rank_of_proposal(student, teacher)
    assert ranks[:, 0].tolist() == [0, 3, 2]
    for k, beta, wanted in ((1, 0.0, [1, 0, 0]), (3, 0.25, [1, 0.25, 1]), (4, 0.0, [1, 1, 1])):
        found = accepted(WeighingContext(units=ranks), ["soft"], k, beta)
        assert found.factors.tolist() == wanted and found.temperatures is None
