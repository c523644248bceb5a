"""Knowledge terms on attention against NumPy and SciPy: loops over rows, heads and tokens, as the papers write them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from kdlab.errors import UserError
from kdlab.methods.knowledge import attention
from tests.support.student_views import ROWS, assert_agrees, numpy, real, shown


def test_attention_mse_is_over_heads_and_pairs_of_real_tokens():
    student, teacher = shown(2, heads=3), shown(4, heads=3)
    s, t = numpy(student.scores), numpy(teacher.scores)

    def layer(m: int, n: int, i: int) -> float:
        pairs = [(a, j, key) for a in range(3) for j in real(i) for key in real(i)]
        return sum((s[m - 1][i, a, j, key] - t[n - 1][i, a, j, key]) ** 2 for a, j, key in pairs) / len(pairs)

    assert_agrees(attention.attention_mse(student, teacher), [layer(1, 2, i) + layer(2, 4, i) for i in range(ROWS)])
    assert_agrees(attention.attention_mse(student, teacher, layers=[3]), [layer(1, 3, i) for i in range(ROWS)])


def test_attention_relation_is_the_divergence_of_the_last_layers_from_the_teachers():
    student, teacher = shown(2, heads=3), shown(4, heads=3)
    s, t = numpy(student.scores)[-1], numpy(teacher.scores)[-1]
    wanted = []
    for i in range(ROWS):
        keys = real(i)
        each = [entropy(softmax(t[i, a, j, keys]), softmax(s[i, a, j, keys])) for a in range(3) for j in keys]
        wanted.append(np.mean(each))
    assert_agrees(attention.attention_relation(student, teacher), wanted)


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
    assert_agrees(attention.value_relation(student, teacher), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_agrees(attention.value_relation(student, teacher), wanted)


@pytest.mark.parametrize("name", ["attention_mse", "attention_relation", "value_relation"])
def test_attention_of_another_number_of_heads_is_refused(name):
    with pytest.raises(UserError, match="the student has 2, the teacher 3"):
        getattr(attention, name)(shown(2, heads=2), shown(2, heads=3))


@pytest.mark.parametrize("documents", [None, [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]])
def test_decoders_are_compared_on_the_tokens_before_in_the_same_document(documents):
    student, teacher = shown(2, heads=3), shown(4, heads=3)
    student.causal = True
    student.documents = None if documents is None else torch.tensor(documents)
    s, t, v, w = (numpy(x) for x in (student.scores, teacher.scores, student.values, teacher.values))

    def before(i: int, j: int) -> list[int]:
        return [k for k in real(i) if k <= j and (documents is None or documents[i][k] == documents[i][j])]

    def mean(of) -> list[float]:
        return [np.mean([of(i, a, j, before(i, j)) for a in range(3) for j in real(i)]) for i in range(ROWS)]

    def relation(values: np.ndarray, i: int, a: int, j: int, keys: list[int]) -> np.ndarray:
        return softmax(values[i, a, keys] @ values[i, a, j] / np.sqrt(values.shape[-1]))

    wanted = mean(lambda i, a, j, keys: entropy(softmax(t[-1][i, a, j, keys]), softmax(s[-1][i, a, j, keys])))
    assert_agrees(attention.attention_relation(student, teacher), wanted)
    wanted = mean(lambda i, a, j, keys: entropy(relation(w[-1], i, a, j, keys), relation(v[-1], i, a, j, keys)))
    assert_agrees(attention.value_relation(student, teacher), wanted)
    wanted = []
    for i in range(ROWS):
        pairs = [(a, j, k) for a in range(3) for j in real(i) for k in before(i, j)]
        each = [[(s[m][i][p] - t[n][i][p]) ** 2 for p in pairs] for m, n in ((0, 1), (1, 3))]
        wanted.append(sum(np.mean(layer) for layer in each))
    assert_agrees(attention.attention_mse(student, teacher), wanted)
