"""Knowledge terms: what a student learns from, each a pure function (student, teacher) to one number a unit or row.

Terms on logits give (U,), one number a unit (a masked position, or a classified row); all others give (k,), one number
a row: means over a row's real tokens and heads, sums over layers as in the papers. The distiller weights, averages and
adds them, in one place. Everything is computed in float32; the teacher's answer comes detached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab import layermaps
from kdlab.errors import UserError
from kdlab.types import Outputs

Term = Callable[..., Tensor]


def reads(*on: str, teacher: bool = True) -> Callable[[Term], Term]:
    """Mark what a term reads: `on` fields of Outputs, and whether it needs the teacher's answer."""

    def mark(term: Term) -> Term:
        term.on, term.teacher = frozenset(on), teacher  # pyright: ignore[reportFunctionMemberAccess]
        return term

    return mark


def _function(term: Any) -> Any:
    return _function(term.func) if isinstance(term, functools.partial) else term


def on_logits(term: Term) -> bool:
    """Whether a term (or a partial of one) gives one number a unit; otherwise it gives one a row."""
    return "logits" in _function(term).on


def asks_teacher(term: Term) -> bool:
    """Whether a term (or a partial of one) reads the teacher's answer."""
    return _function(term).teacher


def wants(term: Term) -> frozenset[str]:
    """What a term (or a partial of one) reads besides logits and last hidden states: of "states", "scores", "values"."""
    return _function(term).on - {"logits", "hidden"}


# ---- on logits: (U,)


@reads("logits")
def soft_cross_entropy(student: Outputs, teacher: Outputs, temperature: float = 1.0) -> Tensor:
    """temperature^2 * KL(softmax(t / temperature) || softmax(s / temperature)), (U,), in nats.

    Hinton et al. 2015; CE_soft of DistilBERT's published script, which takes the divergence (the teacher's entropy is
    a constant for the student). Logits (U, C) of both. Raises UserError for C = 1, where it would always be 0.
    """
    if student.logits.shape[-1] < 2:  # pyright: ignore[reportOptionalMemberAccess]
        raise UserError(
            "a soft cross-entropy needs two classes or more, the student has one output: for regression take mean_squared_error"
        )
    s = F.log_softmax(student.logits.float() / temperature, -1)  # pyright: ignore[reportOptionalMemberAccess]
    t = F.log_softmax(teacher.logits.float() / temperature, -1)  # pyright: ignore[reportOptionalMemberAccess]
    return temperature**2 * F.kl_div(s, t, reduction="none", log_target=True).sum(-1)


@reads("logits")
def mean_squared_error(student: Outputs, teacher: Outputs) -> Tensor:
    """Mean over the C outputs of (s - t)^2, (U,): distillation of logits (U, C) without a temperature, and of regression."""
    return (student.logits.float() - teacher.logits.float()).square().mean(-1)  # pyright: ignore


@reads("logits", teacher=False)
def label_cross_entropy(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """Cross-entropy of logits (U, C) with labels (U,), in nats: the masked-LM loss, or FinK of KSM. Asks no teacher."""
    return F.cross_entropy(student.logits.float(), student.labels, reduction="none")  # pyright: ignore


@reads("logits", teacher=False)
def label_squared_error(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """(s - y)^2 of one output (U, 1) and real-valued labels (U,), (U,): the loss of regression. Asks no teacher."""
    return (student.logits[:, 0].float() - student.labels.float()).square()  # pyright: ignore


@reads("logits", teacher=False)
def label_loss(student: Outputs, teacher: Outputs | None = None) -> Tensor:
    """What labels teach, (U,): cross-entropy where they are classes, the squared error where they are numbers."""
    numbers = student.labels.is_floating_point()  # pyright: ignore[reportOptionalMemberAccess]
    return label_squared_error(student) if numbers else label_cross_entropy(student)


@reads("logits")
def soft_loss(student: Outputs, teacher: Outputs, temperature: float = 1.0) -> Tensor:
    """What a teacher's answer teaches, (U,): the softened divergence over classes, the squared error of one output."""
    one = student.logits.shape[-1] == 1  # pyright: ignore[reportOptionalMemberAccess]
    return mean_squared_error(student, teacher) if one else soft_cross_entropy(student, teacher, temperature)


# ---- on hidden states: (k,)


@reads("hidden")
def cosine(student: Outputs, teacher: Outputs) -> Tensor:
    """1 - cos between the last hidden states of student and teacher, mean over each row's real tokens, (k,).

    DistilBERT (Sanh et al. 2019). Hidden states (k, L, H) of equal H, mask (k, L).
    """
    distance = 1 - F.cosine_similarity(student.hidden.float(), teacher.hidden.float(), dim=-1)  # pyright: ignore
    mask = student.mask.to(distance.dtype)  # pyright: ignore[reportOptionalMemberAccess]
    return (distance * mask).sum(1) / mask.sum(1).clamp_min(1)


@reads("states")
def patient(student: Outputs, teacher: Outputs, layers: str | Sequence[int] = "skip", squared: bool = True) -> Tensor:
    """Sum over mapped layers of the squared distance between unit-normalised [CLS] states, (k,).

    BERT-PKD (Sun et al. 2019); Dynamic KD, Eq. 12. [CLS] is token 0. BERT-PKD's public code takes the mean over layers
    and over H instead of the sums of the equation, so its weight beta is H * layers times ours. `squared` False: the
    distance itself, as FeaK of KSM, Eq. 15 (with layers="uniform", for that sum takes all student layers).
    """
    found = _mapped(student.states, teacher.states, layers, above=1)
    apart = [F.normalize(s[:, 0].float(), dim=-1) - F.normalize(t[:, 0].float(), dim=-1) for s, t in found]
    return torch.stack([d.square().sum(-1) if squared else torch.linalg.vector_norm(d, dim=-1) for d in apart]).sum(0)


@reads("states")
def embedding_mse(student: Outputs, teacher: Outputs) -> Tensor:
    """Mean squared error between the embeddings' outputs, over real tokens and H, (k,). TinyBERT, L_embd."""
    return _token_mse(student.states[0], teacher.states[0], student.mask)  # pyright: ignore


@reads("states")
def hidden_mse(student: Outputs, teacher: Outputs, layers: str | Sequence[int] = "uniform") -> Tensor:
    """Sum over mapped layers of the mean squared error between hidden states, over real tokens and H, (k,).

    TinyBERT (Jiao et al. 2020): L_hidn, summed over layers with weight one. Embeddings: `embedding_mse`.
    """
    found = _mapped(student.states, teacher.states, layers, above=1)
    return torch.stack([_token_mse(s, t, student.mask) for s, t in found]).sum(0)  # pyright: ignore


# ---- on attention: (k,)


@reads("scores")
def attention_mse(student: Outputs, teacher: Outputs, layers: str | Sequence[int] = "uniform") -> Tensor:
    """Sum over mapped layers of the mean squared error between attention scores, over heads and pairs of real tokens, (k,).

    TinyBERT (Jiao et al. 2020): L_attn, scores before softmax, summed over layers with weight one. The public code takes
    the mean over padding too. As many heads in both.
    """
    found = _mapped(student.scores, teacher.scores, layers, above=0)
    return torch.stack([_score_mse(s, t, student.mask) for s, t in found]).sum(0)  # pyright: ignore


@reads("scores")
def attention_relation(student: Outputs, teacher: Outputs) -> Tensor:
    """KL(teacher || student) of the last layers' attention distributions, mean over heads and real queries, (k,), in nats.

    MiniLM (Wang et al. 2020), L_AT. As many heads in both. The distributions are over all real tokens, so for a last
    layer with a sliding window (ModernBERT's local ones) over more than it attends to.
    """
    return _divergence(student.scores[-1], teacher.scores[-1], student.mask)  # pyright: ignore


@reads("values")
def value_relation(student: Outputs, teacher: Outputs) -> Tensor:
    """KL(teacher || student) of softmax(V V^T / sqrt(d)) of the last layers' values, mean over heads and real tokens, (k,).

    MiniLM (Wang et al. 2020), L_VR, in nats. As many heads in both; their size d may differ.
    """
    s, t = (_products(outputs.values[-1]) for outputs in (student, teacher))  # pyright: ignore
    return _divergence(s, t, student.mask)  # pyright: ignore[reportArgumentType]


def _mapped(
    student: Sequence[Tensor] | None, teacher: Sequence[Tensor] | None, layers: str | Sequence[int], above: int
) -> list[tuple[Tensor, Tensor]]:
    """The pairs of tensors that a layer map joins; `above` 1 where embeddings come first, else 0."""
    assert student is not None and teacher is not None
    found = layermaps.pairs(layers, len(student) - above, len(teacher) - above)
    return [(student[m - 1 + above], teacher[n - 1 + above]) for m, n in found]


def _token_mse(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    error = (s.float() - t.float()).square().mean(-1)
    real = mask.to(error.dtype)
    return (error * real).sum(1) / real.sum(1).clamp_min(1)


def _score_mse(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    _same_heads(s, t)
    error = (s.float() - t.float()).square().mean(1)
    real = mask.to(error.dtype)
    pair = real[:, :, None] * real[:, None, :]
    return (error * pair).sum((1, 2)) / pair.sum((1, 2)).clamp_min(1)


def _same_heads(s: Tensor, t: Tensor) -> None:
    if s.shape[1] != t.shape[1]:
        raise UserError(
            f"attention can be compared only between as many heads: the student has {s.shape[1]}, the teacher {t.shape[1]}"
        )


def _products(values: Tensor) -> Tensor:
    with torch.autocast(values.device.type, enabled=False):  # it would take the product in half precision
        values = values.float()
        return values @ values.transpose(2, 3) / values.shape[-1] ** 0.5


def _divergence(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """Mean over heads and real queries of KL(softmax(t) || softmax(s)) over real keys; s, t (k, A, L, L), mask (k, L)."""
    _same_heads(s, t)
    padding = mask[:, None, None, :] == 0
    least = torch.finfo(torch.float32).min  # not -inf: 0 * (-inf + inf) would be NaN in the sum
    log_s, log_t = (F.log_softmax(x.float().masked_fill(padding, least), -1) for x in (s, t))
    each = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1).mean(1)
    real = mask.to(each.dtype)
    return (each * real).sum(1) / real.sum(1).clamp_min(1)
