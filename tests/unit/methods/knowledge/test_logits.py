"""Knowledge terms on logits against NumPy and SciPy, and the laws of all terms that give one number a row."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from kdlab.errors import UserError
from kdlab.methods.knowledge import attention, hidden_states
from kdlab.methods.knowledge import logits as terms
from kdlab.types import Outputs
from tests.support.student_views import LENGTH, MASK, ROWS, shown

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


def test_soft_cross_entropy_of_one_output_is_refused():
    one = Outputs(logits=torch.zeros(3, 1))
    with pytest.raises(UserError, match="mean_squared_error"):
        terms.soft_cross_entropy(one, one)


def test_mean_squared_error_is_over_the_outputs_of_each_unit():
    s, t = logits(), logits()
    found = terms.mean_squared_error(Outputs(logits=torch.tensor(s)), Outputs(logits=torch.tensor(t)))
    np.testing.assert_allclose(found.numpy(), [np.mean((a - b) ** 2) for a, b in zip(s, t, strict=True)], rtol=1e-5)
    two = Outputs(logits=torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    zero = Outputs(logits=torch.zeros(2, 2))
    assert terms.mean_squared_error(two, zero).tolist() == [2.5, 0.0]


def test_label_squared_error_of_regression():
    student = Outputs(logits=torch.tensor([[1.0], [-2.0]]), labels=torch.tensor([4.0, -2.5], dtype=torch.float64))
    assert terms.label_squared_error(student).tolist() == [9.0, 0.25]


def test_label_loss_and_soft_loss_follow_the_kind_of_task():
    s, t, labels = logits(), logits(), RNG.integers(0, 11, 7)
    classes = Outputs(logits=torch.tensor(s), labels=torch.tensor(labels))
    np.testing.assert_allclose(terms.label_loss(classes), -log_softmax(s, axis=1)[np.arange(7), labels], rtol=1e-5)
    p, q = np.exp(log_softmax(t / 5, axis=1)), np.exp(log_softmax(s / 5, axis=1))
    found = terms.soft_loss(classes, Outputs(logits=torch.tensor(t)), temperature=5.0)
    np.testing.assert_allclose(found, 25 * entropy(p, q, axis=1), rtol=1e-5)
    number = Outputs(logits=torch.tensor([[1.0], [-2.0]]), labels=torch.tensor([4.0, -2.5]))
    assert terms.label_loss(number).tolist() == [9.0, 0.25]
    assert terms.soft_loss(number, Outputs(logits=torch.tensor([[3.0], [-2.0]])), temperature=5.0).tolist() == [
        4.0,
        0.0,
    ]


# ---- laws of all terms that give one number a row

ON_ROWS = {
    "cosine": (hidden_states.cosine, "hidden"),
    "patient": (hidden_states.patient, "states"),
    "distance": (functools.partial(hidden_states.patient, layers="uniform", squared=False), "states"),
    "embedding": (hidden_states.embedding_mse, "states"),
    "hidden": (hidden_states.hidden_mse, "states"),
    "flow": (hidden_states.relation, "states"),
    "aligned": (hidden_states.aligned, "states"),
    "attention": (attention.attention_mse, "scores"),
    "attention relation": (attention.attention_relation, "scores"),
    "value relation": (attention.value_relation, "values"),
}


@pytest.mark.parametrize("name", ON_ROWS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    same = shown(4)
    zero = ON_ROWS[name][0](same, same)
    np.testing.assert_allclose(zero.numpy(), np.zeros(ROWS), atol=1e-6)


@pytest.mark.parametrize("name", ON_ROWS)
def test_padding_changes_nothing(name):
    term, _ = ON_ROWS[name]
    student, teacher = shown(2), shown(4)
    before = term(student, teacher)
    pad = torch.tensor(MASK) == 0
    for outputs in (student, teacher):
        for state in (outputs.hidden, *outputs.states):
            state[pad] = 1e3 * torch.tensor(RNG.normal(size=(int(pad.sum()), state.shape[-1])), dtype=torch.float32)
        for layer in outputs.scores:
            for i in range(ROWS):
                layer[i][:, pad[i], :] = 777.0
                layer[i][:, :, pad[i]] = -777.0
        for layer in outputs.values:
            for i in range(ROWS):
                layer[i][:, pad[i]] = 777.0
    torch.testing.assert_close(term(student, teacher), before, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ON_ROWS)
def test_gradient_reaches_real_tokens_of_the_student_and_nothing_else(name):
    term, where = ON_ROWS[name]
    student, teacher = shown(2), shown(4)
    found = getattr(student, where)
    leaves = [x.requires_grad_() for x in (found if isinstance(found, tuple) else (found,))]
    term(student, teacher).sum().backward()
    reached = [x.grad for x in leaves if x.grad is not None]
    assert reached and all(torch.isfinite(g).all() for g in reached)
    for i in range(ROWS):
        # a row of one token has one key: nothing to learn there from a distribution over keys
        assert any(g[i].abs().max() > 0 for g in reached) or (i == 2 and "relation" in name)
    axis = {"hidden": 1, "states": 1, "scores": 3, "values": 2}[where]
    for g in reached:
        moved = g.abs().movedim(axis, 1).flatten(2).sum(-1)
        assert float(moved[torch.tensor(MASK) == 0].sum()) == 0
    assert all(x.grad is None for x in (teacher.hidden, *teacher.states, *teacher.scores, *teacher.values))


@pytest.mark.parametrize("name", ON_ROWS)
def test_half_precision_is_computed_in_float32(name):
    term, where = ON_ROWS[name]
    student, teacher = shown(2), shown(4)
    for outputs in (student, teacher):
        found = getattr(outputs, where)
        low = found.bfloat16() if where == "hidden" else tuple(x.bfloat16() for x in found)
        setattr(outputs, where, low)
    low = term(student, teacher)
    for outputs in (student, teacher):
        found = getattr(outputs, where)
        setattr(outputs, where, found.float() if where == "hidden" else tuple(x.float() for x in found))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, term(student, teacher), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ON_ROWS)
def test_a_rows_number_does_not_hang_on_the_other_rows(name):
    term, _ = ON_ROWS[name]
    student, teacher = shown(2), shown(4)
    every = term(student, teacher)
    for index in ([2, 0, 1], [1], []):
        some = torch.tensor(index, dtype=torch.long)
        found = term(student.take(some, LENGTH), teacher.take(some, LENGTH))
        assert found.shape == (len(index),)
        torch.testing.assert_close(found, every[some], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ON_ROWS)
def test_gradient_is_finite_where_the_student_is_its_teacher(name):
    term, where = ON_ROWS[name]
    student, teacher = shown(4), shown(4)
    found = getattr(student, where)
    leaves = [x.requires_grad_() for x in (found if isinstance(found, tuple) else (found,))]
    term(student, teacher).sum().backward()
    for leaf in leaves:
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()
