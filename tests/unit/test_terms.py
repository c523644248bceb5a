"""Knowledge terms against NumPy and SciPy."""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from kdlab import terms
from kdlab.types import Outputs

RNG = np.random.default_rng(0)


def logits(units: int = 7, classes: int = 11) -> np.ndarray:
    return RNG.normal(size=(units, classes)) * 3


def test_soft_cross_entropy_is_temperature_squared_times_the_divergence_from_the_teacher():
    s, t = logits(), logits()
    found = terms.soft_cross_entropy(Outputs(logits=torch.tensor(s)), Outputs(logits=torch.tensor(t)), temperature=2.0)
    p, q = np.exp(log_softmax(t / 2, axis=1)), np.exp(log_softmax(s / 2, axis=1))
    np.testing.assert_allclose(found.numpy(), 4 * entropy(p, q, axis=1), rtol=1e-5)


def test_soft_cross_entropy_has_the_papers_direction():
    sure, unsure = torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    teacher_sure = terms.soft_cross_entropy(Outputs(logits=unsure), Outputs(logits=sure))
    teacher_unsure = terms.soft_cross_entropy(Outputs(logits=sure), Outputs(logits=unsure))
    np.testing.assert_allclose(float(teacher_sure), np.log(2), atol=1e-3)  # KL(one-hot || uniform)
    np.testing.assert_allclose(float(teacher_unsure), 5 - np.log(2), atol=1e-3)  # KL(uniform || e^10 : 1)


def test_temperature_squared_keeps_the_gradient_about_the_same_size():
    s = torch.tensor(logits(), dtype=torch.float32) * 0.01
    t = torch.tensor(logits(), dtype=torch.float32) * 0.01
    sizes = []
    for temperature in (1.0, 8.0):
        x = s.clone().requires_grad_()
        terms.soft_cross_entropy(Outputs(logits=x), Outputs(logits=t), temperature).sum().backward()
        sizes.append(float(x.grad.norm()))
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=0.02)  # Hinton et al. 2015, for small logits


def test_label_cross_entropy_is_minus_log_probability_of_the_label():
    s, labels = logits(), RNG.integers(0, 11, 7)
    found = terms.label_cross_entropy(Outputs(logits=torch.tensor(s), labels=torch.tensor(labels)))
    np.testing.assert_allclose(found.numpy(), -log_softmax(s, axis=1)[np.arange(7), labels], rtol=1e-5)


def test_cosine_is_one_minus_cos_over_real_tokens():
    s, t = RNG.normal(size=(3, 5, 8)), RNG.normal(size=(3, 5, 8))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    found = terms.cosine(
        Outputs(hidden=torch.tensor(s), mask=torch.tensor(mask)),
        Outputs(hidden=torch.tensor(t), mask=torch.tensor(mask)),
    )
    wanted = []
    for i in range(3):
        each = [
            1 - s[i, j] @ t[i, j] / np.linalg.norm(s[i, j]) / np.linalg.norm(t[i, j]) for j in range(5) if mask[i, j]
        ]
        wanted.append(np.mean(each))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5)


def test_terms_say_what_they_read_even_as_partials():
    soft = functools.partial(functools.partial(terms.soft_cross_entropy), temperature=2.0)
    assert terms.on_logits(soft) and terms.asks_teacher(soft)
    assert terms.on_logits(terms.label_cross_entropy) and not terms.asks_teacher(terms.label_cross_entropy)
    assert not terms.on_logits(terms.cosine) and terms.asks_teacher(terms.cosine)
