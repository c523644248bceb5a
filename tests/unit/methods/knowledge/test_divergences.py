"""Divergences of decoders' answers against SciPy, by the papers' formulas, and their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from kdlab.errors import UserError
from kdlab.methods.knowledge import divergences
from kdlab.methods.knowledge.logits import soft_cross_entropy
from kdlab.types import Outputs

TERMS = [
    divergences.reverse_kl,
    divergences.jensen_shannon,
    divergences.skewed_kl,
    divergences.skewed_reverse_kl,
    divergences.interpolated_kl,
]
SIZES = 7, 11  # units, classes


def given(seed: int, grad: bool = False) -> Outputs:
    logits = 2 * torch.randn(*SIZES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Outputs(logits=logits.requires_grad_(grad))


def both(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's and the student's distributions."""
    p, q = (softmax(given(seed).logits.numpy() / temperature, axis=-1) for seed in (1, 0))  # type: ignore[union-attr]
    return p, q


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergences_are_those_of_the_papers(temperature):
    p, q = both(temperature)
    student, teacher = given(0), given(1)
    expected = {
        "reverse_kl": entropy(q, p, axis=-1),
        "jensen_shannon": 0.3 * entropy(p, 0.3 * p + 0.7 * q, axis=-1) + 0.7 * entropy(q, 0.3 * p + 0.7 * q, axis=-1),
        "skewed_kl": entropy(p, 0.1 * p + 0.9 * q, axis=-1),
        "skewed_reverse_kl": entropy(q, 0.9 * p + 0.1 * q, axis=-1),
    }
    more = {"jensen_shannon": {"beta": 0.3}}
    for name, value in expected.items():
        found = getattr(divergences, name)(student, teacher, temperature, **more.get(name, {}))
        assert found.shape == (SIZES[0],)
        np.testing.assert_allclose(found.numpy(), temperature**2 * value, rtol=2e-5, atol=1e-6, err_msg=name)


def test_the_symmetric_case_is_scipys_jensen_shannon_divergence():
    from scipy.spatial.distance import jensenshannon

    p, q = both(1.0)
    np.testing.assert_allclose(
        divergences.jensen_shannon(given(0), given(1)), jensenshannon(p, q, axis=-1) ** 2, rtol=1e-5
    )


def test_the_limits_of_the_generalised_divergence_are_the_two_kls():
    student, teacher, small = given(0), given(1), 1e-3
    forward = divergences.jensen_shannon(student, teacher, beta=small) / small
    backward = divergences.jensen_shannon(student, teacher, beta=1 - small) / small
    torch.testing.assert_close(forward, soft_cross_entropy(student, teacher), rtol=0.02, atol=1e-3)
    torch.testing.assert_close(backward, divergences.reverse_kl(student, teacher), rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_the_target_of_taid_moves_from_the_student_to_the_teacher(progress):
    student, teacher = given(0, grad=True), given(1)
    student.progress = progress
    t = 0.4 + 0.6 * progress
    own, theirs = student.logits.detach().numpy(), teacher.logits.numpy()  # type: ignore[union-attr]
    target = softmax((1 - t) * own + t * theirs, axis=-1)
    found = divergences.interpolated_kl(student, teacher)
    np.testing.assert_allclose(
        found.detach().numpy(), entropy(target, softmax(own, axis=-1), axis=-1), rtol=2e-5, atol=1e-6
    )
    found.sum().backward()  # no gradient through the target: d KL / d s is softmax(s) - target
    np.testing.assert_allclose(student.logits.grad, softmax(own, axis=-1) - target, rtol=1e-4, atol=1e-6)  # type: ignore[union-attr]
    if progress == 1.0:
        torch.testing.assert_close(found, soft_cross_entropy(student, teacher))


def test_a_target_that_moves_backwards_is_refused():
    with pytest.raises(UserError, match=r"start=0.9 is above end=0.5"):
        divergences.interpolated_kl(given(0), given(1), start=0.9, end=0.5)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_equal_answers_diverge_by_nothing_and_others_by_something(term):
    assert float(term(given(0), given(0)).abs().max()) < 1e-6
    assert float(term(given(0), given(1)).min()) > 0


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_answers_that_are_sure_give_finite_values_and_gradients(term):
    student = Outputs(logits=torch.tensor([[200.0, 0.0, -200.0], [0.0, 0.0, 0.0]], requires_grad=True))
    teacher = Outputs(logits=torch.tensor([[-200.0, 0.0, 200.0], [500.0, 0.0, -500.0]]))
    value = term(student, teacher)
    value.sum().backward()
    assert value.isfinite().all() and student.logits.grad.isfinite().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("term", TERMS[:-1], ids=lambda term: term.__name__)
def test_one_output_is_refused(term):
    with pytest.raises(UserError, match="two classes or more"):
        term(Outputs(logits=torch.zeros(2, 1)), Outputs(logits=torch.zeros(2, 1)))
