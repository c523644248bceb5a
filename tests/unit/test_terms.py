"""Knowledge terms against NumPy and SciPy: loops over rows, layers, heads and tokens, as the papers write them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from kdlab import terms
from kdlab.errors import UserError
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


# ---- states, scores and values

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])  # a row of one real token too
ROWS, LENGTH = MASK.shape


def shown(layers: int, heads: int = 2, width: int = 6, size: int = 3) -> Outputs:
    """Random states, scores and values of a model, float32."""

    def draw(count: int, *shape: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor(RNG.normal(size=shape), dtype=torch.float32) for _ in range(count))

    return Outputs(
        hidden=draw(1, ROWS, LENGTH, width)[0],
        mask=torch.tensor(MASK),
        states=draw(layers + 1, ROWS, LENGTH, width),
        scores=draw(layers, ROWS, heads, LENGTH, LENGTH),
        values=draw(layers, ROWS, heads, LENGTH, size),
    )


def real(row: int) -> list[int]:
    return [j for j in range(LENGTH) if MASK[row, j]]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt(np.sum(vector**2))


def assert_agrees(found: torch.Tensor, wanted: list[float]) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-5, atol=1e-6)


def numpy(tensors: tuple[torch.Tensor, ...] | None) -> list[np.ndarray]:
    assert tensors is not None
    return [x.numpy().astype(np.float64) for x in tensors]


def test_patient_sums_squared_distances_of_unit_cls_states_over_the_mapped_layers():
    student, teacher = shown(3), shown(6)
    s, t = numpy(student.states), numpy(teacher.states)
    mapped = [(1, 2), (2, 4)]  # PKD-Skip, 3 layers of 6; states[0] are the embeddings
    squared = [sum(np.sum((unit(s[m][i, 0]) - unit(t[n][i, 0])) ** 2) for m, n in mapped) for i in range(ROWS)]
    assert_agrees(terms.patient(student, teacher), squared)
    ksm = [(1, 2), (2, 4), (3, 6)]
    plain = [sum(np.sqrt(np.sum((unit(s[m][i, 0]) - unit(t[n][i, 0])) ** 2)) for m, n in ksm) for i in range(ROWS)]
    assert_agrees(terms.patient(student, teacher, layers="uniform", squared=False), plain)
    last = [np.sum((unit(s[1][i, 0]) - unit(t[5][i, 0])) ** 2) for i in range(ROWS)]
    assert_agrees(terms.patient(student, teacher, layers=[5]), last)


def test_hidden_and_embedding_mse_are_over_real_tokens_and_width():
    student, teacher = shown(2), shown(4)
    s, t = numpy(student.states), numpy(teacher.states)

    def layer(m: int, n: int, i: int) -> float:
        return float(np.mean([(s[m][i, j] - t[n][i, j]) ** 2 for j in real(i)]))

    assert_agrees(terms.embedding_mse(student, teacher), [layer(0, 0, i) for i in range(ROWS)])
    assert_agrees(terms.hidden_mse(student, teacher), [layer(1, 2, i) + layer(2, 4, i) for i in range(ROWS)])
    assert_agrees(terms.hidden_mse(student, teacher, layers="last"), [layer(1, 3, i) for i in range(ROWS)])


def test_attention_mse_is_over_heads_and_pairs_of_real_tokens():
    student, teacher = shown(2, heads=3), shown(4, heads=3)
    s, t = numpy(student.scores), numpy(teacher.scores)

    def layer(m: int, n: int, i: int) -> float:
        pairs = [(a, j, key) for a in range(3) for j in real(i) for key in real(i)]
        return sum((s[m - 1][i, a, j, key] - t[n - 1][i, a, j, key]) ** 2 for a, j, key in pairs) / len(pairs)

    assert_agrees(terms.attention_mse(student, teacher), [layer(1, 2, i) + layer(2, 4, i) for i in range(ROWS)])
    assert_agrees(terms.attention_mse(student, teacher, layers=[3]), [layer(1, 3, i) for i in range(ROWS)])


def test_attention_relation_is_the_divergence_of_the_last_layers_from_the_teachers():
    student, teacher = shown(2, heads=3), shown(4, heads=3)
    s, t = numpy(student.scores)[-1], numpy(teacher.scores)[-1]
    wanted = []
    for i in range(ROWS):
        keys = real(i)
        each = [entropy(softmax(t[i, a, j, keys]), softmax(s[i, a, j, keys])) for a in range(3) for j in keys]
        wanted.append(np.mean(each))
    assert_agrees(terms.attention_relation(student, teacher), wanted)


def test_value_relation_compares_relations_of_values_whatever_their_size():
    student, teacher = shown(2, size=3), shown(4, size=5)
    s, t = numpy(student.values)[-1], numpy(teacher.values)[-1]
    wanted = []
    for i in range(ROWS):
        each = []
        for a in range(2):
            for j in real(i):
                of_student = softmax([s[i, a, j] @ s[i, a, key] / np.sqrt(3) for key in real(i)])
                of_teacher = softmax([t[i, a, j] @ t[i, a, key] / np.sqrt(5) for key in real(i)])
                each.append(entropy(of_teacher, of_student))
        wanted.append(np.mean(each))
    assert_agrees(terms.value_relation(student, teacher), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_agrees(terms.value_relation(student, teacher), wanted)


ON_ROWS = {
    "cosine": (terms.cosine, "hidden"),
    "patient": (terms.patient, "states"),
    "distance": (functools.partial(terms.patient, layers="uniform", squared=False), "states"),
    "embedding": (terms.embedding_mse, "states"),
    "hidden": (terms.hidden_mse, "states"),
    "attention": (terms.attention_mse, "scores"),
    "attention relation": (terms.attention_relation, "scores"),
    "value relation": (terms.value_relation, "values"),
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


@pytest.mark.parametrize("name", ["attention", "attention relation", "value relation"])
def test_attention_of_another_number_of_heads_is_refused(name):
    with pytest.raises(UserError, match="the student has 2, the teacher 3"):
        ON_ROWS[name][0](shown(2, heads=2), shown(2, heads=3))


def test_terms_say_what_they_read_even_as_partials():
    soft = functools.partial(functools.partial(terms.soft_cross_entropy), temperature=2.0)
    assert terms.on_logits(soft) and terms.asks_teacher(soft) and terms.wants(soft) == frozenset()
    for term in (terms.label_cross_entropy, terms.label_squared_error):
        assert terms.on_logits(term) and not terms.asks_teacher(term) and terms.wants(term) == frozenset()
    assert terms.on_logits(terms.mean_squared_error) and terms.asks_teacher(terms.mean_squared_error)
    assert terms.wants(functools.partial(functools.partial(terms.patient), squared=False)) == {"states"}
    for term, where in ON_ROWS.values():
        assert not terms.on_logits(term) and terms.asks_teacher(term)
        assert terms.wants(term) == {where} - {"hidden"}


def test_a_term_may_read_several_things_and_no_teacher():
    @terms.reads("scores", "values", "logits", teacher=False)
    def term(student, teacher=None):
        return student.logits

    assert terms.wants(term) == {"scores", "values"} and terms.on_logits(term) and not terms.asks_teacher(term)
