"""Run the last layer only for the tokens whose states the head reads.

A classifier reads the last hidden state of the first token, masked-LM those of the masked positions. For these the last
layer needs keys and values of all tokens, but queries, attention outputs and the feed-forward of these tokens only:
about a sixth of a classifier's last layer. The states equal those of the full layer within rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kdlab.models.attention import capture
from kdlab.types import moved

# modules whose hooks do not read outputs: those of transformers remain after a forward that returned states and are
# idle then; those of FSDP and `kdlab.models.sharding` gather sharded layers and announce forwards
HARMLESS_HOOKS = ("transformers.utils.output_capturing", "torch.distributed.fsdp", "kdlab.models.sharding")

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class _Structure:
    """Attribute names and computation of a family's layers.

    `stack`: attribute of the base model that holds the layers; `attention`: a layer's self-attention, with the
    projections `names` of query, key and value; `rest`: output (U, H) of a layer from its attention context (U, H) and
    its input states (U, H) of U tokens.
    """

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
    """U chosen tokens in R rows of W tokens, at most M in a row.

    `places` (U,): flat index among the R W tokens; `slots` (U,): flat index among the R M queries; `columns` (R, M):
    index within its row of each query's token (0 where a row has fewer than M).
    """

    places: Tensor
    slots: Tensor
    columns: Tensor

    def to(self, device: torch.device) -> ChosenTokens:
        """The same tokens on a device, for which the host does not wait."""
        return ChosenTokens(*(moved(x, device) for x in (self.places, self.slots, self.columns)))

    @classmethod
    def of_one_row(cls, places: Tensor) -> ChosenTokens:
        """Tokens at `places` (U,) of a single row, in this order."""
        return cls(places, torch.arange(len(places), device=places.device), places.unsqueeze(0))

    @classmethod
    def among(cls, places: Tensor, rows: int, width: int) -> ChosenTokens:
        """Tokens at flat indices `places` (U,) of `rows` rows of `width` tokens."""
        row = places // width
        counts = torch.bincount(row, minlength=rows)
        most = int(counts.max())
        order = row.argsort(stable=True)
        rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row[order]]
        slots = row * most + torch.empty_like(row).index_copy(0, order, rank)
        columns = row.new_zeros(rows * most).index_copy(0, slots, places % width)
        return cls(places, slots, columns.view(rows, most))


def can_run(model: Any) -> bool:
    """True if a transformers model's last layer can run for chosen tokens only.

    Its family must be known, its classes those of transformers, and no hook or replaced forward may read its outputs.
    """
    structure = STRUCTURES.get(model.config.model_type)
    config = model.config
    if structure is None or getattr(config, "is_decoder", False):
        return False
    if config.output_hidden_states or config.output_attentions:
        return False
    base = model.base_model
    stack = getattr(base, structure.stack)
    layer = stack.layer[-1]
    unmodified = all(_is_known(type(module)) for module in (base, stack, layer))
    return unmodified and not any(map(_is_observed, (base, stack, *every_module(layer))))


def every_module(module: nn.Module) -> list[nn.Module]:
    """`module.modules()`, a shared one as often as it has a place. For questions of each step: it takes a tenth of the time."""
    found = [module]
    for one in found:  # it grows
        found += [child for child in one._modules.values() if child is not None]
    return found


def _kind(kind: type[nn.Module]) -> type[nn.Module]:
    """Class of a module; of a sharded one, the class that FSDP wrapped."""
    return next(base for base in kind.__mro__ if not base.__module__.startswith("torch.distributed.fsdp"))


@functools.cache  # each forward asks for three classes
def _is_known(kind: type[nn.Module]) -> bool:
    """True if a class, or the one that FSDP wrapped, is of transformers."""
    return _kind(kind).__module__.startswith("transformers.models.")


def _shallow_copy(module: nn.Module) -> Any:
    """Shallow copy of a module: it shares parameters, children, and the hooks that gather sharded parameters."""
    kind = _kind(type(module))
    copied = kind.__new__(kind)  # copy.copy would make another sharded module
    vars(copied).update(vars(module))
    return copied


def _is_observed(module: Any) -> bool:
    """True if a module has a hook that may read its outputs, or a replaced forward."""
    held = module.__dict__
    # nearly always there is none: the question of each module in each forward is kept short
    if not (
        held["_forward_hooks"] or held["_forward_pre_hooks"] or held["_backward_hooks"] or held["_backward_pre_hooks"]
    ):
        return "forward" in held
    return "forward" in held or any(
        not (getattr(hook, "__module__", None) or "").startswith(HARMLESS_HOOKS)
        for kind in HOOKS
        if held[kind]
        for hook in held[kind].values()
    )


def run(model: Any, inputs: dict[str, Any], chosen: ChosenTokens) -> Tensor:
    """Last hidden states (U, H) of the chosen tokens, for `inputs` of a model for which `can_run` is true."""
    structure = STRUCTURES[model.config.model_type]
    base = _shallow_copy(model.base_model)
    stack = _shallow_copy(getattr(base, structure.stack))
    *layers, layer = stack.layer
    last = _shallow_copy(layer)
    last.forward = functools.partial(_forward, layer, structure, chosen)
    stack._modules = {**stack._modules, "layer": nn.ModuleList([*layers, last])}
    base._modules = {**base._modules, structure.stack: stack}
    if "pooler" in base._modules:  # its input would be (U, H); the head half of `Encoder` runs the pooler
        base._modules["pooler"] = None
    return base(**inputs).last_hidden_state


def _forward(
    layer: Any,
    structure: _Structure,
    chosen: ChosenTokens,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    *_: object,
    **__: object,
) -> Tensor:
    """Output (U, H) of a layer for the chosen tokens."""
    block = structure.attention(layer)
    query, key, value = (getattr(block, name) for name in structure.names)
    rows, most = chosen.columns.shape

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, block.attention_head_size)).transpose(1, 2)

    tokens = hidden_states.flatten(0, 1).index_select(0, chosen.places)
    queries = query(tokens)
    queries = queries.new_zeros(rows * most, queries.shape[-1]).index_copy(0, chosen.slots, queries)
    if attention_mask is not None and attention_mask.shape[2] > 1:
        every = torch.arange(rows, device=chosen.columns.device).unsqueeze(1)
        attention_mask = attention_mask[every, 0, chosen.columns].unsqueeze(1)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        block.config._attn_implementation, capture.eager_attention(type(block))
    )
    attended, _weights = attend(
        block, heads(queries.view(rows, most, -1)), heads(key(hidden_states)), heads(value(hidden_states)),
        attention_mask, dropout=block.dropout.p if block.training else 0.0, scaling=block.scaling,
    )  # fmt: skip
    context = attended.reshape(rows * most, -1).index_select(0, chosen.slots)
    return structure.rest(layer, context, tokens)
