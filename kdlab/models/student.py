"""Students made out of teachers: their layers, their initial weights, which parameters train, dropout."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import transformers
from torch import nn

from kdlab.errors import UserError
from kdlab.models.last_layer import every_module

_PER_LAYER = (
    "layer_types",
    "mlp_layer_types",
    "no_rope_layers",
)  # lists of settings, one a layer, in the configs of newer families


def transformer_layers(model: transformers.PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of a model: the ModuleList under its encoder that is as long as the config says.

    UserError where there is none (ALBERT shares one layer).
    """
    depth = model.config.num_hidden_layers
    lists = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise UserError(
            f"no list of {depth} layers found in a model of the family {model.config.model_type}: it shares its layers in groups, or has a form unknown here"
        )
    return lists[0]


def repeats_one_layer(config: Any) -> bool:
    """True for a family whose layers are one layer, run `num_hidden_layers` times (ALBERT with one group)."""
    return getattr(config, "num_hidden_groups", None) == 1 and getattr(config, "inner_group_num", 1) == 1


def check_layers(model: transformers.PreTrainedModel) -> None:
    """UserError for a model that no student can take layers of; it may be on the meta device."""
    if not repeats_one_layer(model.config):
        transformer_layers(model)


def pick_layers(
    layers: int | float | str | Sequence[int], depth: int, pick: str = "even", key: str = "student.layers"
) -> list[int]:
    """Indices of the teacher's layers that a student starts from.

    `layers`: a list of indices, a number of layers, a share of the teacher's `depth` in (0, 1), rounded, or "all". A number takes evenly spaced
    layers (`pick` "even": 6 of 12 gives 0, 2, 4, 7, 9, 11, the published DistilBERT choice) or the first ones ("first":
    Dynamic KD and KSM). UserError, naming the option `key`, for values out of range.
    """
    if layers == "all":
        return list(range(depth))
    if isinstance(layers, float):
        layers = max(1, round(layers * depth))
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise UserError(f"{key}={layers}: the teacher has {depth} layers, so 1 to {depth} can be taken")
        if pick == "first":
            return list(range(layers))
        return [round(x) for x in torch.linspace(0, depth - 1, layers).tolist()]
    if isinstance(layers, str) or not layers or any(not isinstance(x, int) or not 0 <= x < depth for x in layers):
        raise UserError(f"{key}={layers}: the teacher's layers are numbered 0 to {depth - 1}")
    return list(layers)


def student_from(teacher: transformers.PreTrainedModel, layers: Sequence[int]) -> transformers.PreTrainedModel:
    """A float32 copy of `teacher` with its layers at the indices `layers` only, its embeddings and its head.

    DistilBERT's initialisation (Sanh et al. 2019). The copy shares no memory with the teacher. Of a model that repeats
    one layer (ALBERT), the copy repeats it as often as there are `layers`. UserError for families whose layers cannot be
    found (`transformer_layers`).
    """
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    if repeats_one_layer(config):
        repeated = type(teacher)(config)
        repeated.load_state_dict(teacher.state_dict())
        repeated.tie_weights()
        return repeated.float()
    stack = transformer_layers(teacher)
    for name in _PER_LAYER:
        if isinstance(getattr(config, name, None), list):
            setattr(config, name, [getattr(config, name)[i] for i in layers])
    student = type(teacher)(config)
    prefix = next(name for name, module in teacher.named_modules() if module is stack) + "."

    def source_of(name: str) -> str:
        if not name.startswith(prefix):
            return name
        index, rest = name.removeprefix(prefix).split(".", 1)
        return f"{prefix}{layers[int(index)]}.{rest}"

    weights = teacher.state_dict()
    missing = [name for name in student.state_dict() if source_of(name) not in weights]
    if missing:
        raise UserError(f"cannot build a student from this teacher: it has no {missing[0]}")
    student.load_state_dict({name: weights[source_of(name)] for name in student.state_dict()})
    student.tie_weights()
    return student.float()


def with_classes(
    classifier: transformers.PreTrainedModel, order: Sequence[int] | None, names: Sequence[str]
) -> transformers.PreTrainedModel:
    """The same classifier, changed in place: output i is the one that was number `order[i]`, named `names[i]`.

    `order` None: the outputs stay where they are. UserError for a head without a linear layer of as many outputs.
    """
    inner = f"{classifier.base_model_prefix}."
    heads = [
        module
        for name, module in classifier.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inner) and module.out_features == len(names)
    ]
    if order is not None and not heads:
        raise UserError(
            f"the teacher's head ({type(classifier).__name__}) ends in no linear layer of {len(names)} outputs, so its classes "
            "cannot be put in the data's order: student.start=backbone"
        )
    if order is not None:
        with torch.no_grad():
            for parameter in heads[-1].parameters():
                parameter.copy_(parameter[list(order)].clone())
    classifier.config.id2label = dict(enumerate(names))
    classifier.config.label2id = {name: i for i, name in enumerate(names)}
    return classifier


def random_student(teacher: transformers.PreTrainedModel, layers: int, hidden: int) -> transformers.PreTrainedModel:
    """A float32 student of the teacher's family and head, `layers` layers of width `hidden`, with random weights.

    It has as many attention heads as the teacher, so that attention can be compared, and a feed-forward of the same
    multiple of the width. Weights are drawn from torch's global generator: seed it first. UserError where the width is no
    multiple of the number of heads.
    """
    config = copy.deepcopy(teacher.config)
    check_width(config, hidden)
    scale = hidden / config.hidden_size
    config.num_hidden_layers = layers
    for name in ("intermediate_size", "hidden_dim", "ffn_dim", "n_inner", "head_dim", "word_embed_proj_dim"):
        if isinstance(size := config.to_dict().get(name), int):  # GPT-2's feed-forward follows from its width
            setattr(config, name, round(size * scale))
    config.hidden_size = hidden
    for name in _PER_LAYER:
        if isinstance(getattr(config, name, None), list):
            setattr(config, name, getattr(config, name)[:layers])
    return type(teacher)(config).float()


def check_width(config: Any, hidden: int) -> None:
    """UserError where a width is no multiple of the number of attention heads."""
    if hidden % config.num_attention_heads:
        raise UserError(
            f"student.hidden={hidden}: a multiple of {config.num_attention_heads}, the number of the teacher's attention heads"
        )


def freeze(model: nn.Module, names: Sequence[str]) -> int:
    """Freeze every parameter whose name contains one of `names`; return the number of frozen scalars."""
    count = 0
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.requires_grad_(False)
            count += parameter.numel()
    return count


def check_recomputes(model: transformers.PreTrainedModel) -> None:
    """UserError for a model whose layers cannot run anew in the backward; it may be on the meta device."""
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"student.gradient_checkpointing=true: layers of the family {model.config.model_type} cannot run anew in the "
            "backward; student.gradient_checkpointing=false"
        )


def recompute_layers(model: transformers.PreTrainedModel) -> None:
    """Keep of each layer's forward its input alone, and run the layer anew, with the same dropout, in the backward (Chen et
    al. 2016). UserError as `check_recomputes`."""
    check_recomputes(model)
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # of transformers now, and of 5.0
    enable = next(getattr(model, name) for name in names if hasattr(model, name))
    enable({"use_reentrant": False})


def recomputable(model: nn.Module) -> list[nn.Module]:
    """The modules of a model in which transformers notes, as `gradient_checkpointing`, that layers run anew in the backward."""
    return [module for module in every_module(model) if hasattr(module, "gradient_checkpointing")]


def recomputes(layers: Iterable[nn.Module]) -> bool:
    """True if any of these modules (`recomputable`) runs anew in the backward."""
    return any(layer.__dict__.get("gradient_checkpointing", False) for layer in layers)


def set_dropout(model: nn.Module, probability: float) -> None:
    """Give every dropout module of `model` this probability; the config, and so a saved model, keeps its own."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
