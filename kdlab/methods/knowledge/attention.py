"""Knowledge terms on attention, (k,): one number a row (`kdlab.methods.knowledge.base` has the contract of a term).

Of decoders, the tokens before a token in its own document take the place of all tokens (`Outputs.causal`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import token_mean
from kdlab.methods.knowledge.layer_maps import LayerMap, paired_layers
from kdlab.methods.marks import needs
from kdlab.types import Outputs


@needs("scores")
def attention_mse(student: Outputs, teacher: Outputs, layers: LayerMap = "uniform") -> Tensor:
    """Sum over mapped layers of the mean squared error between attention scores, over heads and pairs of real tokens,
    (k,).

    TinyBERT (Jiao et al. 2020): L_attn, scores before softmax, summed over layers with weight one. The public code
    takes the mean over padding too. Both need the same number of heads.
    """
    pairs = paired_layers(layers, student.scores, teacher.scores)
    return torch.stack([_score_mse(s, t, student) for s, t in pairs]).sum(0)  # pyright: ignore


@needs("scores")
def attention_relation(student: Outputs, teacher: Outputs) -> Tensor:
    """KL(teacher || student) of the last layers' attention distributions, mean over heads and real queries, (k,), in
    nats.

    MiniLM (Wang et al. 2020), L_AT. Both need the same number of heads. The distributions are over all real tokens, so
    for a last layer with a sliding window (ModernBERT's local ones) over more tokens than it attends to.
    """
    return _divergence(student.scores[-1], teacher.scores[-1], student)  # pyright: ignore


@needs("values")
def value_relation(student: Outputs, teacher: Outputs) -> Tensor:
    """KL(teacher || student) of softmax(V V^T / sqrt(d)) of the last layers' values, mean over heads and real tokens,
    (k,).

    MiniLM (Wang et al. 2020), L_VR, in nats. As many heads in both; their size d may differ.
    """
    s, t = (_products(outputs.values[-1]) for outputs in (student, teacher))  # pyright: ignore
    return _divergence(s, t, student)


def _score_mse(s: Tensor, t: Tensor, student: Outputs) -> Tensor:
    _same_heads(s, t)
    error = (s.float() - t.float()).square().mean(1)
    real = student.mask.to(error.dtype)  # pyright: ignore[reportOptionalMemberAccess]
    pair = real[:, :, None] * _readable(student)
    return (error * pair).sum((1, 2)) / pair.sum((1, 2)).clamp_min(1)


def _same_heads(s: Tensor, t: Tensor) -> None:
    if s.shape[1] != t.shape[1]:
        raise UserError(
            f"attention can be compared only between as many heads: the student has {s.shape[1]}, the teacher {t.shape[1]}"
        )


def _products(values: Tensor) -> Tensor:
    with torch.autocast(values.device.type, enabled=False):  # autocast would compute the product in half precision
        values = values.float()
        return values @ values.transpose(2, 3) / values.shape[-1] ** 0.5


def _readable(outputs: Outputs) -> Tensor:
    """The tokens that each token reads, (k, L, L) bool, or (k, 1, L) where all read the same: real ones; of a decoder,
    those before it and itself, in its document."""
    mask = outputs.mask
    assert mask is not None
    real = mask.bool().unsqueeze(1)
    if not outputs.causal:
        return real
    token = torch.arange(mask.shape[1], device=mask.device)
    before = real & (token.unsqueeze(1) >= token)
    documents = outputs.documents
    return before if documents is None else before & (documents.unsqueeze(2) == documents.unsqueeze(1))


def _divergence(s: Tensor, t: Tensor, student: Outputs) -> Tensor:
    """Mean over heads and real queries of KL(softmax(t) || softmax(s)) over the keys they read; s, t (k, A, L, L)."""
    _same_heads(s, t)
    padding = ~_readable(student).unsqueeze(1)
    least = torch.finfo(torch.float32).min  # not -inf: 0 * (-inf + inf) would be NaN in the sum
    log_s, log_t = (F.log_softmax(x.float().masked_fill(padding, least), -1) for x in (s, t))
    divergence = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1).mean(1)
    return token_mean(divergence, student.mask)  # pyright: ignore[reportArgumentType]
