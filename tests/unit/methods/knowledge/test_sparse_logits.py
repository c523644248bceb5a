"""Answers over a vocabulary kept at k tokens: oracles by numpy, and the bias of each by the law of large numbers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from kdlab.methods.knowledge import logits as terms
from kdlab.methods.knowledge import sparse_logits
from kdlab.types import Outputs

V, DRAWS = 40, 20_000


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    shifted = np.exp((logits - logits.max()) / temperature)
    return shifted / shifted.sum()


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(0, 1, V), rng.normal(0, 1.5, V)
    return torch.from_numpy(student).float(), torch.from_numpy(teacher).float()


def gradient(student: torch.Tensor, told: Outputs, temperature: float) -> torch.Tensor:
    """Of the soft cross-entropy in the student's logits, the mean over the rows of `told`."""
    leaf = student.clone().requires_grad_()
    term = functools.partial(terms.soft_cross_entropy, temperature=temperature)
    assert told.logits is not None
    term(Outputs(logits=leaf.expand(len(told.logits), V)), told).mean().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampled_tokens_give_the_exact_gradient_in_expectation(pair, temperature):
    student, teacher = pair
    exact = temperature * (softmax(student.numpy(), temperature) - softmax(teacher.numpy(), temperature))  # of tau^2 KL
    uniform = torch.from_numpy(np.random.default_rng(0).random((DRAWS, 5)))
    drawn = sparse_logits.sample_tokens(teacher.expand(DRAWS, V), uniform, temperature)
    told = Outputs(logits=sparse_logits.logits_of_sample(drawn, temperature), tokens=drawn)
    p = softmax(teacher.numpy(), temperature)
    deviation = temperature * np.sqrt(p * (1 - p) / (5 * DRAWS))  # of a mean of multinomial shares
    off = np.abs(gradient(student, told, temperature).numpy() - exact)
    assert (off < 5 * deviation + 1e-6).all()
    few = Outputs(logits=sparse_logits.logits_of_sample(drawn[:1], temperature), tokens=drawn[:1])
    assert np.abs(gradient(student, few, temperature).numpy() - exact).max() > 0.05  # one draw alone is far off


def test_the_k_largest_give_a_biased_gradient(pair):
    student, teacher = pair
    exact = softmax(student.numpy(), 1.0) - softmax(teacher.numpy(), 1.0)
    largest, tokens = sparse_logits.top_tokens(teacher.unsqueeze(0), 5)
    found = gradient(student, Outputs(logits=largest, tokens=tokens), 1.0).numpy()
    kept = np.argsort(-teacher.numpy())[:5]
    renormalised = np.zeros(V)
    renormalised[kept] = softmax(teacher.numpy()[kept], 1.0)
    assert found == pytest.approx(softmax(student.numpy(), 1.0) - renormalised, abs=1e-6)
    assert np.abs(found - exact).max() > 0.05


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_what_is_made_whole_is_the_kept_distribution(temperature):
    logits = torch.tensor([[0.0, 3.0, 1.0, -2.0]])
    top = sparse_logits.whole_logits(*sparse_logits.top_tokens(logits, 2), 4)
    kept = softmax(np.array([3.0, 1.0]), temperature)
    assert (top / temperature).softmax(-1)[0].tolist() == pytest.approx([0, kept[0], kept[1], 0], abs=1e-7)
    tokens = torch.tensor([[1, 3, 1, 1]])
    drawn = sparse_logits.whole_logits(sparse_logits.logits_of_sample(tokens, temperature), tokens, 4)
    assert (drawn / temperature).softmax(-1)[0].tolist() == pytest.approx([0, 0.75, 0, 0.25], abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("stored", ["topk", "sampled"])
def test_the_loss_on_the_stored_tokens_is_that_of_the_whole_distribution(pair, stored, temperature):
    """By numpy, over the vocabulary: temperature^2 * sum of p (log p - log q) where p > 0. The gradient: temperature (q - p)."""
    student, teacher = pair
    if stored == "topk":
        logits, tokens = sparse_logits.top_tokens(teacher.unsqueeze(0), 7)
        p = np.zeros(V)
        p[tokens[0].numpy()] = softmax(teacher.numpy()[tokens[0].numpy()], temperature)
    else:
        tokens = torch.tensor([[4, 9, 4, 4, 30, 9]])
        logits = sparse_logits.logits_of_sample(tokens, temperature)
        p = np.bincount(tokens[0].numpy(), minlength=V) / 6
    q, some = softmax(student.numpy(), temperature), p > 0
    told = Outputs(logits=logits, tokens=tokens)
    found = terms.soft_cross_entropy(Outputs(logits=student.unsqueeze(0)), told, temperature=temperature)
    assert found.tolist() == pytest.approx([temperature**2 * (p[some] * np.log(p[some] / q[some])).sum()], rel=1e-5)
    assert gradient(student, told, temperature).numpy() == pytest.approx(temperature * (q - p), abs=1e-6)


def test_draws_invert_the_sums_of_the_distribution():
    logits = torch.tensor([[0.1, 0.2, 0.7]]).log()
    uniform = torch.tensor([[0.0, 0.05, 0.15, 0.29, 0.31, 0.999999]], dtype=torch.float64)
    assert sparse_logits.sample_tokens(logits, uniform, 1.0).tolist() == [[0, 0, 1, 1, 2, 2]]
