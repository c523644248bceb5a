"""The last layer for the tokens that are read, and for no others.

A classifier reads the last hidden state of the first token, masked-LM those of the masked positions. For these the last
layer needs keys and values of all tokens, but queries, attention's output and the feed-forward of the tokens that are
read alone: of a classifier's last layer a sixth is left. What comes out equals the whole layer's within rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kdlab.models import attention_capture as attention

# whose hooks look at nothing: transformers' own, which stay after a forward that was asked for states and then do
# nothing, and those that gather layers shared out over ranks and announce that
BLIND = ("transformers.utils.output_capturing", "torch.distributed.fsdp", "kdlab.models.sharding")


@dataclass(frozen=True)
class _Structure:
    """How a family's layer is made: `stack` of the model holds the layers, `attention` of a layer its self-attention
    with the projections `names` of query, key and value; `rest` makes (U, H) of a layer, what U tokens have attended to
    (U, H), and their states before it (U, H)."""

    stack: str
    attention: Callable[[Any], Any]
    names: tuple[str, str, str]
    rest: Callable[[Any, Tensor, Tensor], Tensor]


def _bert_rest(layer: Any, context: Tensor, tokens: Tensor) -> Tensor:
    return layer.feed_forward_chunk(layer.attention.output(context, tokens))


def _distilbert_rest(layer: Any, context: Tensor, tokens: Tensor) -> Tensor:
    attended = layer.sa_layer_norm(layer.attention.out_lin(context) + tokens)
    return layer.output_layer_norm(layer.ffn.ff_chunk(attended) + attended)


_BERT = _Structure("encoder", lambda layer: layer.attention.self, ("query", "key", "value"), _bert_rest)
_DISTILBERT = _Structure("transformer", lambda layer: layer.attention, ("q_lin", "k_lin", "v_lin"), _distilbert_rest)
STRUCTURES: dict[str, _Structure] = {
    **dict.fromkeys(("bert", "electra", "roberta", "xlm-roberta", "camembert"), _BERT), "distilbert": _DISTILBERT,
}  # fmt: skip


@dataclass(frozen=True)
class ChosenTokens:
    """The tokens that are read, U of R rows of W: `places` (U,) among all R W; `slots` (U,), where each asks among the
    R M queries of M a row; `inside` (R, M), the token of its row that a query is about (0 where there is none)."""

    places: Tensor
    slots: Tensor
    inside: Tensor

    @classmethod
    def of_one_row(cls, places: Tensor) -> ChosenTokens:
        """The tokens at `places` (U,) of a row, in this order."""
        return cls(places, torch.arange(len(places), device=places.device), places.unsqueeze(0))

    @classmethod
    def among(cls, places: Tensor, rows: int, width: int) -> ChosenTokens:
        """The tokens at `places` (U,) of `rows` rows of `width`."""
        row = places // width
        counts = torch.bincount(row, minlength=rows)
        most = int(counts.max())
        order = row.argsort(stable=True)
        rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row[order]]
        slots = row * most + torch.empty_like(row).index_copy(0, order, rank)
        inside = row.new_zeros(rows * most).index_copy(0, slots, places % width)
        return cls(places, slots, inside.view(rows, most))


def runs(model: Any) -> bool:
    """Whether a transformers model's last layer can run for some tokens alone: its family is known, its layers are
    transformers' own, and nobody looks at what they give."""
    structure = STRUCTURES.get(model.config.model_type)
    config = model.config
    if structure is None or getattr(config, "is_decoder", False):
        return False
    if config.output_hidden_states or config.output_attentions:
        return False
    base = model.base_model
    stack = getattr(base, structure.stack)
    layer = stack.layer[-1]
    own = all(_kind(module).__module__.startswith("transformers.models.") for module in (base, stack, layer))
    return own and not any(map(_watched, (base, stack, *layer.modules())))


def _kind(module: nn.Module) -> type[nn.Module]:
    """A module's class, that of a shared-out one without what torch adds to it."""
    return next(kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.distributed.fsdp"))


def _twin(module: nn.Module) -> Any:
    """A shallow copy of a module: it shares parameters, children, and the hooks that gather shared-out parameters."""
    kind = _kind(module)
    found = kind.__new__(kind)  # copy.copy would make another shared-out module
    vars(found).update(vars(module))
    return found


def _watched(module: Any) -> bool:
    """Whether a module has a hook of somebody who looks, or a forward of its own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "forward" in vars(module) or any(
        not (getattr(hook, "__module__", None) or "").startswith(BLIND) for found in hooks for hook in found.values()
    )


def run(model: Any, given: dict[str, Any], chosen: ChosenTokens) -> Tensor:
    """The last hidden states (U, H) of the chosen tokens, for the inputs `given` of a model that `runs`."""
    structure = STRUCTURES[model.config.model_type]
    whole = _twin(model.base_model)
    stack = _twin(getattr(whole, structure.stack))
    *layers, layer = stack.layer
    last = _twin(layer)
    last.forward = functools.partial(_forward, layer, structure, chosen)
    stack._modules = {**stack._modules, "layer": nn.ModuleList([*layers, last])}
    whole._modules = {**whole._modules, structure.stack: stack}
    if "pooler" in whole._modules:  # the head has its own look at the first token
        whole._modules["pooler"] = None
    return whole(**given).last_hidden_state


def _forward(
    layer: Any,
    structure: _Structure,
    chosen: ChosenTokens,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    *_: object,
    **__: object,
) -> Tensor:
    """What a layer's forward gives (U, H) for the chosen tokens."""
    own = structure.attention(layer)
    query, key, value = (getattr(own, name) for name in structure.names)
    rows, most = chosen.inside.shape

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, own.attention_head_size)).transpose(1, 2)

    tokens = hidden_states.flatten(0, 1).index_select(0, chosen.places)
    asked = query(tokens)
    asked = asked.new_zeros(rows * most, asked.shape[-1]).index_copy(0, chosen.slots, asked)
    if attention_mask is not None and attention_mask.shape[2] > 1:
        every = torch.arange(rows, device=chosen.inside.device).unsqueeze(1)
        attention_mask = attention_mask[every, 0, chosen.inside].unsqueeze(1)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, attention.own_eager(type(own)))
    found, _weights = attend(
        own, heads(asked.view(rows, most, -1)), heads(key(hidden_states)), heads(value(hidden_states)),
        attention_mask, dropout=own.dropout.p if own.training else 0.0, scaling=own.scaling,
    )  # fmt: skip
    context = found.reshape(rows * most, -1).index_select(0, chosen.slots)
    return structure.rest(layer, context, tokens)
