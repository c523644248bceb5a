"""Knowledge terms on hidden states against NumPy and SciPy: loops over rows, layers and tokens, as the papers write them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from kdlab.errors import UserError
from kdlab.methods.knowledge import hidden_states
from kdlab.types import Outputs
from tests.support.student_views import ROWS, assert_agrees, numpy, real, shown, unit

RNG = np.random.default_rng(0)


def test_cosine_is_one_minus_cos_over_real_tokens():
    s, t = RNG.normal(size=(3, 5, 8)), RNG.normal(size=(3, 5, 8))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    found = hidden_states.cosine(
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


def test_patient_sums_squared_distances_of_unit_cls_states_over_the_mapped_layers():
    student, teacher = shown(3), shown(6)
    s, t = numpy(student.states), numpy(teacher.states)
    mapped = [(1, 2), (2, 4)]  # PKD-Skip, 3 layers of 6; states[0] are the embeddings
    squared = [sum(np.sum((unit(s[m][i, 0]) - unit(t[n][i, 0])) ** 2) for m, n in mapped) for i in range(ROWS)]
    assert_agrees(hidden_states.patient(student, teacher), squared)
    ksm = [(1, 2), (2, 4), (3, 6)]
    plain = [sum(np.sqrt(np.sum((unit(s[m][i, 0]) - unit(t[n][i, 0])) ** 2)) for m, n in ksm) for i in range(ROWS)]
    assert_agrees(hidden_states.patient(student, teacher, layers="uniform", squared=False), plain)
    last = [np.sum((unit(s[1][i, 0]) - unit(t[5][i, 0])) ** 2) for i in range(ROWS)]
    assert_agrees(hidden_states.patient(student, teacher, layers=[5]), last)


@pytest.mark.parametrize(("layers", "mapped", "width"), [(6, 5, 768), (3, 2, 768), (3, 2, 384)])
def test_pkds_average_is_the_mean_squared_error_of_its_public_code(layers, mapped, width):
    """BERT-PKD's script: mse_loss of the stacked unit [CLS] states of the mapped layers, which beta 100 belongs to.

    Only for 5 layers of width 768 this is 0.026 times the sum of Eq. 7.
    """
    rng = torch.Generator().manual_seed(layers)
    states = [tuple(torch.randn(ROWS, 2, width, generator=rng) for _ in range(n + 1)) for n in (layers, 12)]
    student, teacher = (Outputs(states=one) for one in states)
    step = 12 // layers
    s, t = (
        torch.nn.functional.normalize(torch.stack([one[n * by][:, 0] for n in range(1, layers)], 1), dim=2)
        for one, by in zip(states, (1, step), strict=True)
    )
    found = hidden_states.patient(student, teacher, average=True)
    torch.testing.assert_close(found.mean(), torch.nn.functional.mse_loss(s, t))
    weight = 100 * found / hidden_states.patient(student, teacher)
    torch.testing.assert_close(weight, torch.full((ROWS,), 100 / (mapped * width)))
    assert (abs(float(weight[0]) - 0.026) < 1e-4) == (layers == 6)


def test_hidden_and_embedding_mse_are_over_real_tokens_and_width():
    student, teacher = shown(2), shown(4)
    s, t = numpy(student.states), numpy(teacher.states)

    def layer(m: int, n: int, i: int) -> float:
        return float(np.mean([(s[m][i, j] - t[n][i, j]) ** 2 for j in real(i)]))

    assert_agrees(hidden_states.embedding_mse(student, teacher), [layer(0, 0, i) for i in range(ROWS)])
    assert_agrees(hidden_states.hidden_mse(student, teacher), [layer(1, 2, i) + layer(2, 4, i) for i in range(ROWS)])
    assert_agrees(hidden_states.hidden_mse(student, teacher, layers="last"), [layer(1, 3, i) for i in range(ROWS)])


# ---- RelK of KSM


def flow(states: list[np.ndarray], layer: int, row: int) -> np.ndarray:
    """Eq. 16 for a layer and the next."""
    return np.outer(states[layer][row, 0], states[layer + 1][row, 0]) / states[layer].shape[-1]


@pytest.mark.parametrize(
    ("depths", "layers", "mapped"),
    [
        ((3, 6), "skip", [(1, 2), (2, 4)]),
        ((3, 6), "uniform", [(1, 2), (2, 4)]),  # (3, 6) too, but the student's layer 3 has no next
        ((3, 6), "last", [(1, 4), (2, 5)]),
        ((6, 12), "skip", [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ((3, 3), "skip", [(1, 1), (2, 2)]),
        ((4, 2), [1, 1, 1], [(1, 1), (2, 1), (3, 1)]),  # a shallower teacher
        ((4, 12), [11], [(1, 11)]),
    ],
)
def test_relation_compares_fsp_matrices_of_adjacent_layers(depths, layers, mapped):
    student, teacher = shown(depths[0], seed=1), shown(depths[1])
    s, t = numpy(student.states), numpy(teacher.states)
    wanted = [sum(np.mean((flow(s, m, i) - flow(t, n, i)) ** 2) for m, n in mapped) for i in range(ROWS)]
    assert_agrees(hidden_states.relation(student, teacher, layers=layers), wanted)


def test_relation_of_tiny_states_by_hand():
    def states(*rows: list[float]) -> Outputs:
        return Outputs(states=tuple(torch.tensor([[row]]) for row in rows))

    student = states([9.0, 9.0], [1.0, 2.0], [3.0, 0.0])  # G = [[3, 0], [6, 0]] / 2
    teacher = states([7.0, 7.0], [1.0, 0.0], [0.0, 4.0])  # G = [[0, 4], [0, 0]] / 2
    assert hidden_states.relation(student, teacher).tolist() == [(9 + 16 + 36) / 4 / 4]


@given(
    scale=st.floats(1e-4, 1.0), seed=st.integers(0, 99), width=st.sampled_from([1, 2, 17]), size=st.floats(0.1, 30.0)
)
@settings(max_examples=40, deadline=None)
def test_relation_is_exact_however_near_the_student_is(scale, seed, width, size):
    rng = np.random.default_rng(seed)
    t = [(rng.normal(size=(2, 1, width)) * size).astype(np.float32) for _ in range(3)]
    s = [(x + rng.normal(size=x.shape) * scale * size).astype(np.float32) for x in t]
    found = hidden_states.relation(*(Outputs(states=tuple(map(torch.tensor, x))) for x in (s, t)))
    wide = [[x.astype(np.float64) for x in states] for states in (s, t)]
    wanted = [np.mean((flow(wide[0], 1, i) - flow(wide[1], 1, i)) ** 2) for i in range(2)]
    # of float32 only rounding is lost, for what is subtracted are states, never matrices
    a, b, c, d = wide[0][1], wide[0][2], wide[1][1], wide[1][2]
    bound = np.sum((a - c) ** 2, -1) * np.sum(b**2, -1) + np.sum(c**2, -1) * np.sum((b - d) ** 2, -1)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * bound.max() / width**4)


def test_relation_of_layers_without_a_next_is_refused_in_one_line():
    for student, teacher, layers in [(1, 4, "skip"), (3, 4, [2, 4]), (2, 1, [1])]:
        with pytest.raises(UserError, match="a layer and the next") as error:
            hidden_states.relation(shown(student), shown(teacher), layers=layers)
        assert "\n" not in str(error.value)


# ---- dynamic objective alignment of DeKD


def most_informative(states: list[np.ndarray], count: int, row: int) -> list[int]:
    scores = {n: entropy(softmax(states[n][row, 0])) for n in range(1, len(states))}
    return sorted(sorted(scores, key=lambda n: -scores[n])[:count])


@given(
    layers=st.integers(1, 8),
    count=st.integers(1, 8),
    seed=st.integers(0, 99),
    rows=st.integers(0, 4),
    width=st.integers(2, 9),
)
@settings(max_examples=60, deadline=None)
def test_informative_layers_are_those_of_the_highest_entropy_in_depth_order(layers, count, seed, rows, width):
    count = min(count, layers)
    rng = np.random.default_rng(seed)
    states = [rng.normal(size=(rows, 2, width)).astype(np.float32) * 2 for _ in range(layers + 1)]
    found = hidden_states.informative_layers(tuple(map(torch.tensor, states)), count)
    assert found.dtype == torch.int64 and found.shape == (rows, count)
    wide = [x.astype(np.float64) for x in states]
    for i, chosen in enumerate(found.tolist()):
        assert chosen == sorted(set(chosen))
        each = {n: entropy(softmax(wide[n][i, 0])) for n in range(1, layers + 1)}
        left_out = [value for n, value in each.items() if n not in chosen]
        assert min(each[n] for n in chosen) >= max(left_out, default=0) - 1e-5


def test_of_equally_informative_layers_the_lower_are_taken():
    same = (torch.tensor([[[1.0, 2.0]]]),) * 5
    assert hidden_states.informative_layers(same, 2).tolist() == [[1, 2]]


def test_aligned_sums_distances_to_the_rows_own_informative_layers():
    student, teacher = shown(3), shown(7)
    s, t = numpy(student.states), numpy(teacher.states)
    chosen = [most_informative(t, 3, i) for i in range(ROWS)]
    assert len({tuple(c) for c in chosen}) > 1  # rows differ
    wanted = [
        sum(np.sum((unit(s[m][i, 0]) - unit(t[n][i, 0])) ** 2) for m, n in enumerate(chosen[i], start=1))
        for i in range(ROWS)
    ]
    assert_agrees(hidden_states.aligned(student, teacher), wanted)
    mask = hidden_states.informative_layer_mask(student, teacher)
    assert mask.dtype == torch.bool
    assert [[n + 1 for n in range(7) if row[n]] for row in mask.tolist()] == chosen


def test_aligned_with_as_many_layers_is_patient_on_all_layers():
    student, teacher = shown(4, seed=1), shown(4)
    torch.testing.assert_close(
        hidden_states.aligned(student, teacher), hidden_states.patient(student, teacher, layers="uniform")
    )


def test_aligning_with_a_shallower_teacher_is_refused_in_one_line():
    for refused in (
        lambda: hidden_states.aligned(shown(4), shown(3)),
        lambda: hidden_states.informative_layer_mask(shown(4), shown(3)),
        lambda: hidden_states.informative_layers(shown(3).states, 4),
    ):
        with pytest.raises(UserError, match="the teacher has 3 layers and the student 4") as error:
            refused()
        assert "\n" not in str(error.value)
