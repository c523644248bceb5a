"""Record raw attention scores and values of unmodified encoders that use transformers' AttentionInterface.

    prepare(model)                      # once
    with recording() as recorded:       # one for each model
        model(...)
    scores, values = checked(recorded, model)

transformers' `output_attentions` returns weights after softmax, and an empty tuple under sdpa. TinyBERT needs scores
before softmax, MiniLM the values too. So `prepare` switches a model to an attention function that this module registers
with transformers: it runs the eager attention of the model's family, and records while a recording is open.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import transformers
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from kdlab.errors import UserError

NAME = "kdlab_recorded"


@dataclass
class AttentionRecording:
    """Recorded attention in the order of the layers; see `checked` for shapes."""

    scores: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


_open: ContextVar[AttentionRecording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recording() -> Iterator[AttentionRecording]:
    """Record the attention of prepared models inside the block; gradients flow through the recorded tensors.

    The innermost of nested recordings records. Recordings are local to a thread.
    """
    recorded = AttentionRecording()
    token = _open.set(recorded)
    try:
        yield recorded
    finally:
        _open.reset(token)


def prepare(model: transformers.PreTrainedModel) -> None:
    """Switch `model` to eager attention that a `recording` can record; its outputs and saved files do not change.

    UserError for families that do not use transformers' AttentionInterface (deberta-v2, mpnet).
    """
    model.set_attn_implementation(NAME)
    if not prepared(model):
        raise UserError(
            f"attention cannot be read from a {model.config.model_type} model: it does not use transformers' "
            "attention interface, as bert, roberta, distilbert, electra or modernbert do; choose knowledge without attention"
        )


def prepared(model: transformers.PreTrainedModel) -> bool:
    """True if `prepare` succeeded and nothing has changed the model's attention since."""
    return model.config._attn_implementation == NAME


def checked(
    recorded: AttentionRecording, model: transformers.PreTrainedModel
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Scores (k, A, L, L) and values (k, A, L, d) of each layer of `model`, from the recording of one forward.

    Scores are scaled, before mask and softmax; A heads of size d. UserError unless the recording has exactly as many
    layers as the model: a loss zipped over too few of them would be 0.
    """
    depth = model.config.num_hidden_layers
    if not len(recorded.scores) == len(recorded.values) == depth:
        raise UserError(
            f"attention of {len(recorded.scores)} layers was read from a {model.config.model_type} model of {depth} layers; "
            "one forward of an encoder that uses transformers' attention interface was expected"
        )
    return tuple(recorded.scores), tuple(recorded.values)


def _recorded(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention function with the signature of transformers; query (k, A, L, d), key and value of A heads or fewer."""
    recorded = _open.get()
    if recorded is not None:
        unsupported = [name for name in ("position_bias", "softcap") if kwargs.get(name) is not None]
        if unsupported:
            raise UserError(
                f"attention with a {unsupported[0]} cannot be read: its scores are more than scaled products"
            )
        group = query.shape[1] // key.shape[1]
        keys = key if group == 1 else key.repeat_interleave(group, 1)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        # `eager` computes the scores again: 1 % of a layer at length 128
        recorded.scores.append(query @ keys.transpose(2, 3) * scale)
        recorded.values.append(value if group == 1 else value.repeat_interleave(group, 1))
    eager = eager_attention(type(module))
    return eager(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)


def eager_attention(kind: type) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Eager attention function in the Python module of an attention class `kind`; UserError if it has none."""
    for base in kind.__mro__:
        function = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise UserError(f"attention cannot be read from {kind.__name__}: no eager attention is defined beside it")


transformers.AttentionInterface.register(NAME, _recorded)
AttentionMaskInterface.register(NAME, eager_mask)
