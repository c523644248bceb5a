"""Several teachers' logits as one answer: softened, then mixed, as in MUKI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdlab.methods.knowledge.mixture import PartialLogits, joined, mixture


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_a_teacher_keeps_its_weight_at_any_temperature(temperature):
    """Two specialists of two classes: weights 0.983 and 0.017 are the masses of their classes at every tau."""
    parts = [
        PartialLogits(torch.tensor([[4.0, 0.0]]), [0, 2], None, torch.tensor([0.983])),
        PartialLogits(torch.tensor([[1.0, -1.0]]), [1, 3], None, torch.tensor([0.017])),
    ]
    logits, weights = mixture(parts, 1, 4, temperature)
    p = (logits / temperature).softmax(-1)[0]
    assert float(p[[0, 2]].sum()) == pytest.approx(0.983, abs=1e-6)
    assert float(weights) == pytest.approx(1.0)
    # by hand: softmax over two classes is a logistic function of the difference over tau
    one, two = 1 / (1 + math.exp(-4 / temperature)), 1 / (1 + math.exp(-2 / temperature))
    wanted = [0.983 * one, 0.017 * two, 0.983 * (1 - one), 0.017 * (1 - two)]
    np.testing.assert_allclose(p.numpy(), wanted, rtol=1e-4)


def test_softening_the_mixture_instead_would_take_a_third_of_the_weight_away():
    """The fault that this replaces, so that the numbers above are about something."""
    p = np.array([0.983 * 0.98201, 0.983 * 0.01799, 0.017 * 0.88080, 0.017 * 0.11920]) ** (1 / 5)
    assert p[:2].sum() / p.sum() < 0.68


def test_weights_scale_the_loss_and_not_the_answer():
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    whole, ones = mixture([PartialLogits(logits)], 2, 2)
    half, halves = mixture([PartialLogits(logits, weight=torch.tensor([0.5, 1e-6]))], 2, 2)
    torch.testing.assert_close(half, whole)
    torch.testing.assert_close(whole.softmax(-1), logits.softmax(-1))
    assert ones.tolist() == [1, 1] and halves.tolist() == pytest.approx([0.5, 1e-6])


def test_a_teacher_of_some_units_alone_adds_to_these():
    first = PartialLogits(torch.zeros(3, 2), weight=torch.tensor([1.0, 0.5, 0.25]))
    second = PartialLogits(torch.tensor([[math.log(3.0), 0.0]]), None, torch.tensor([1]), torch.tensor([0.5]))
    logits, weights = mixture([first, second], 3, 2)
    p = logits.softmax(-1)
    assert p[:, 0].tolist() == pytest.approx([0.5, (0.5 + 0.75) / 2, 0.5])
    assert weights.tolist() == [1, 1, 0.25]


def test_a_unit_without_an_answer_has_weight_zero_and_finite_logits():
    logits, weights = mixture([PartialLogits(torch.ones(1, 3), weight=torch.zeros(1))], 1, 3, 5.0)
    assert logits.isfinite().all() and weights.tolist() == [0]


def test_in_regression_outputs_are_averaged():
    parts = [PartialLogits(torch.tensor([[2.0]]), weight=torch.tensor([3.0])), PartialLogits(torch.tensor([[6.0]]))]
    mean, weights = mixture(parts, 1, 1, 5.0)
    assert mean.tolist() == [[3.0]] and weights.tolist() == [4.0]


def test_joined_logits_lie_in_the_columns_of_their_classes():
    parts = [PartialLogits(torch.tensor([[1.0, 2.0]]), [2, 0]), PartialLogits(torch.tensor([[5.0]]), [3])]
    assert joined(parts, 1, 5).tolist() == [[2.0, -1e4, 1.0, 5.0, -1e4]]
