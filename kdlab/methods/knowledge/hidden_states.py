"""Knowledge terms on hidden states, (k,): one number a row (`kdlab.methods.knowledge.base` has the contract of a
term)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import token_mean
from kdlab.methods.knowledge.layer_maps import LayerMap, layer_pairs, paired_layers
from kdlab.methods.marks import needs
from kdlab.types import Outputs


@needs("hidden")
def cosine(student: Outputs, teacher: Outputs) -> Tensor:
    """1 - cos between the last hidden states of student and teacher, mean over each row's real tokens, (k,).

    DistilBERT (Sanh et al. 2019). Hidden states (k, L, H) of equal H, mask (k, L).
    """
    distance = 1 - F.cosine_similarity(student.hidden.float(), teacher.hidden.float(), dim=-1)  # pyright: ignore
    return token_mean(distance, student.mask)  # pyright: ignore[reportArgumentType]


@needs("states")
def patient(
    student: Outputs,
    teacher: Outputs,
    layers: LayerMap = "skip",
    squared: bool = True,
    average: bool = False,
) -> Tensor:
    """Sum over mapped layers of the squared distance between unit-normalised [CLS] states, (k,).

    BERT-PKD (Sun et al. 2019, Eq. 7); Dynamic KD, Eq. 12. [CLS] is token 0. `average`: the sum divided by the number of
    mapped layers times the width H of the compared states, the mean that BERT-PKD's public code takes and that its weight
    beta belongs to. `squared` False: the distance itself, as FeaK of KSM, Eq. 15 (with layers="uniform", for that sum
    takes all student layers).
    """
    pairs = paired_layers(layers, student.states, teacher.states, above=1)
    differences = [F.normalize(s[:, 0].float(), dim=-1) - F.normalize(t[:, 0].float(), dim=-1) for s, t in pairs]
    norms = [d.square().sum(-1) if squared else torch.linalg.vector_norm(d, dim=-1) for d in differences]
    total = torch.stack(norms).sum(0)
    return total / (len(pairs) * differences[0].shape[-1]) if average else total


@needs("states")
def embedding_mse(student: Outputs, teacher: Outputs) -> Tensor:
    """Mean squared error between the embeddings' outputs, over real tokens and H, (k,). TinyBERT, L_embd."""
    return _token_mse(student.states[0], teacher.states[0], student.mask)  # pyright: ignore


@needs("states")
def hidden_mse(student: Outputs, teacher: Outputs, layers: LayerMap = "uniform") -> Tensor:
    """Sum over mapped layers of the mean squared error between hidden states, over real tokens and H, (k,).

    TinyBERT (Jiao et al. 2020): L_hidn, summed over layers with weight one. Embeddings: `embedding_mse`.
    """
    pairs = paired_layers(layers, student.states, teacher.states, above=1)
    return torch.stack([_token_mse(s, t, student.mask) for s, t in pairs]).sum(0)  # pyright: ignore


@needs("states")
def relation(student: Outputs, teacher: Outputs, layers: LayerMap = "skip") -> Tensor:
    """Sum over adjacent student layers of the mean squared error between FSP matrices, (k,).

    RelK of KSM (Wang et al. 2023), Eq. 16 and 17; the flow of solution procedure is Yim et al. 2017. A row's matrix at
    layer i is G_i = h_i h_(i+1)^T / H of its [CLS] states (token 0), H the hidden size; the mean is over its H * H
    entries. Student layer i is mapped to teacher layer I(i), and G_i of the student learns from G_I(i) of the teacher,
    between I(i) and the teacher's next layer, I(i) + 1. With "skip" these are all i < M, as in the equation; other maps
    leave out the student's last layer, which has no next. The values are small: with H 768 and states of norm 15 (about
    BERT's) a layer of unrelated states gives 2 * 15^4 / 768^4, 3e-7. UserError if a mapped teacher layer has no next.
    """
    depths = len(student.states) - 1, len(teacher.states) - 1  # pyright: ignore[reportArgumentType]
    pairs = [(m, n) for m, n in layer_pairs(layers, *depths) if m < depths[0]]
    if not pairs or any(n == depths[1] for _, n in pairs):
        raise UserError(
            f"relations are between a layer and the next, layers={layers}: the student has {depths[0]} and needs 2 or "
            f"more, the teacher's are taken from 1 to {depths[1] - 1}, those before its last"
        )
    s, t = _cls(student.states), _cls(teacher.states)
    errors = [_outer_difference(s[m], s[m + 1], t[n], t[n + 1]) for m, n in pairs]
    return torch.stack(errors).sum(0) / s[0].shape[-1] ** 4


def informative_layers(teacher_states: Sequence[Tensor], count: int) -> Tensor:
    """The `count` most informative layers of each row, (k, count) int64, ascending, numbered from 1.

    A layer's information is the entropy of softmax over its [CLS] state (DeKD, Eq. 8; the divisor log|Y| there is a
    constant that changes no order, so it is left out). Of equal layers the lower ones are taken. `teacher_states` as in
    Outputs: the embeddings, which are not ranked, then each layer, (k, L, H). UserError for fewer layers than `count`.
    """
    layers = len(teacher_states) - 1
    if count > layers:
        raise UserError(
            f"the teacher has {layers} layers and the student {count}: aligning each student layer with an informative "
            "teacher layer needs a teacher at least as deep"
        )
    with torch.no_grad():
        log_p = F.log_softmax(torch.stack(_cls(teacher_states)[1:], 1), -1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        order = entropy.argsort(dim=1, descending=True, stable=True)
        return order[:, :count].sort(1).values + 1


def informative_layer_mask(student: Outputs, teacher: Outputs) -> Tensor:
    """Mask (k, N) of the teacher's N layers that `aligned` takes for each row."""
    assert student.states is not None and teacher.states is not None
    chosen = informative_layers(teacher.states, len(student.states) - 1) - 1
    mask = torch.zeros(len(chosen), len(teacher.states) - 1, dtype=torch.bool, device=chosen.device)
    return mask.scatter(1, chosen, True)


@needs("states", layer_mask=informative_layer_mask)
def aligned(student: Outputs, teacher: Outputs) -> Tensor:
    """Sum over the M student layers of the squared distance of unit [CLS] states to the M `informative_layers` ones,
    (k,).

    Dynamic objective alignment of DeKD, Eq. 8 and 9: each row's own M most informative teacher layers, in the order of
    their depth, one to one with the student's layers. The equations take the teacher's layers for every row, also where
    an assistant answers: `teacher: largest` of the term in the configuration. UserError for a teacher of fewer layers.
    """
    assert student.states is not None and teacher.states is not None
    s, t = (torch.stack(_cls(states)[1:], 1) for states in (student.states, teacher.states))
    chosen = informative_layers(teacher.states, s.shape[1]) - 1
    t = t.gather(1, chosen.unsqueeze(-1).expand(-1, -1, t.shape[-1]))
    return (F.normalize(s, dim=-1) - F.normalize(t, dim=-1)).square().sum((1, 2))


def _cls(states: Sequence[Tensor] | None) -> list[Tensor]:
    assert states is not None
    return [state[:, 0].float() for state in states]


def _outer_difference(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The squared Frobenius norm of a b^T - c d^T, (k,), for vectors (k, H).

    With u = a - c and v = b - d the difference is u b^T + c v^T: no H * H matrix, and no difference of large numbers.
    """
    u, v = a - c, b - d

    def dot(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(-1)

    return dot(u, u) * dot(b, b) + 2 * dot(u, c) * dot(b, v) + dot(c, c) * dot(v, v)


def _token_mse(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return token_mean((s.float() - t.float()).square().mean(-1), mask)
