"""Raw attention scores and values of any unmodified transformers encoder that goes through transformers' AttentionInterface.

    prepare(model)                      # once
    with recording() as seen:           # student and teacher each in their own
        model(...)
    scores, values = checked(seen, model)

transformers' `output_attentions` gives weights after softmax, and an empty tuple under sdpa. TinyBERT needs scores
before softmax, MiniLM the values too. So `prepare` switches a model to an attention function that is registered with
transformers here: the family's own eager attention, and a copy of what it was given while a recording is open.
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
    """What self-attention saw, in the order of the layers; see `checked` for shapes."""

    scores: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


_open: ContextVar[AttentionRecording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recording() -> Iterator[AttentionRecording]:
    """Everything a prepared model's attention sees inside the block, with gradient if there is one.

    Of nested recordings the innermost records. Each thread has its own.
    """
    seen = AttentionRecording()
    token = _open.set(seen)
    try:
        yield seen
    finally:
        _open.reset(token)


def prepare(model: transformers.PreTrainedModel) -> None:
    """Make `model` compute eager attention that a `recording` can read. Its outputs, and what is saved, stay as they are.

    Raises UserError for families that do not go through transformers' AttentionInterface (deberta-v2, mpnet).
    """
    model.set_attn_implementation(NAME)
    if not prepared(model):
        raise UserError(
            f"attention cannot be read from a {model.config.model_type} model: it does not go through transformers' "
            "attention interface, as bert, roberta, distilbert, electra or modernbert do; choose knowledge without attention"
        )


def prepared(model: transformers.PreTrainedModel) -> bool:
    """Whether `prepare` took, and nothing has changed the model's attention since."""
    return model.config._attn_implementation == NAME


def checked(
    seen: AttentionRecording, model: transformers.PreTrainedModel
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The scores (k, A, L, L) and values (k, A, L, d) of each layer of `model`, after one forward inside `seen`.

    Scores are scaled, before mask and softmax; A heads of size d. Raises UserError unless exactly as many layers were
    recorded as the model has: a loss zipped over too few of them would be 0 and teach nothing.
    """
    depth = model.config.num_hidden_layers
    if not len(seen.scores) == len(seen.values) == depth:
        raise UserError(
            f"attention of {len(seen.scores)} layers was read from a {model.config.model_type} model of {depth} layers; "
            "one forward of an encoder that goes through transformers' attention interface was expected"
        )
    return tuple(seen.scores), tuple(seen.values)


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
    """transformers' signature of an attention function; query (k, A, L, d), key and value of A heads or of groups of them."""
    seen = _open.get()
    if seen is not None:
        changed = [name for name in ("position_bias", "softcap") if kwargs.get(name) is not None]
        if changed:
            raise UserError(f"attention with a {changed[0]} cannot be read: its scores are more than scaled products")
        group = query.shape[1] // key.shape[1]
        keys = key if group == 1 else key.repeat_interleave(group, 1)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen.scores.append(
            query @ keys.transpose(2, 3) * scale
        )  # computed again in `own`: 1 % of a layer at length 128
        seen.values.append(value if group == 1 else value.repeat_interleave(group, 1))
    own = own_eager(type(module))
    return own(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)


def own_eager(kind: type) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The eager attention of a module's family, which transformers defines beside the module."""
    for base in kind.__mro__:
        found = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if found is not None:
            return found
    raise UserError(f"attention cannot be read from {kind.__name__}: no eager attention is defined beside it")


transformers.AttentionInterface.register(NAME, _recorded)
AttentionMaskInterface.register(NAME, eager_mask)
