"""Models from a folder or the Hub, and students made out of teachers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import safetensors
import torch
import transformers
from torch import nn

from kdlab.errors import UserError
from kdlab.models import safe_loading
from kdlab.runtime.progress import adopt
from kdlab.types import TaskShape


def load_masked_lm(source: str | Path, revision: str | None = None) -> transformers.PreTrainedModel:
    """A masked-LM model in float32 from a folder or the Hub. Safetensors only, no remote code.

    Raises UserError where transformers cannot load it, naming the source.
    """
    return _load(transformers.AutoModelForMaskedLM, "a masked-LM model", source, revision)


def load_classifier(source: str | Path, revision: str | None = None) -> transformers.PreTrainedModel:
    """A classifier in float32 from a folder or the Hub, as it is. Raises UserError as `load_masked_lm` does."""
    return _load(transformers.AutoModelForSequenceClassification, "a classifier", source, revision)


def with_new_classifier(source: str | Path, revision: str | None, shape: TaskShape) -> transformers.PreTrainedModel:
    """The encoder at `source` with a new head for a task, whatever head it comes with.

    The head is drawn from torch's global generator, so seed that first. Raises UserError as `load_masked_lm` does.
    """
    names = shape.labels or ("score",)
    loaded = _load(
        transformers.AutoModelForSequenceClassification,
        "an encoder",
        source,
        revision,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        problem_type="regression" if shape.regression else "single_label_classification",
        ignore_mismatched_sizes=True,
    )
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "classifier_pooling"):
        config.classifier_pooling = "cls"
    model = type(loaded)(config).float()  # a head that came along may number the classes otherwise
    model.base_model.load_state_dict(loaded.base_model.state_dict())
    return model


adopt(huggingface_hub.utils.tqdm, "downloading")


def _load(kind: Any, what: str, source: str | Path, revision: str | None, **more: Any) -> transformers.PreTrainedModel:
    safe_loading.check(source)
    try:
        return kind.from_pretrained(
            str(source), revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **more
        )
    except Exception as error:  # of some thirty kinds, where files are damaged
        raise UserError(f"cannot load {what} from {source}: {_first_line(error)}") from error


def has_head(source: str | Path, config: Any, kind: Any = transformers.AutoModelForMaskedLM) -> bool:
    """Whether the weights at `source` come with the head of an auto class `kind` (an encoder alone has none).

    For a local folder the names in its safetensors file tell; a Hub name is taken to be what its config says it is.
    """
    file = Path(source) / "model.safetensors"
    if not file.is_file():
        named = {
            transformers.AutoModelForMaskedLM: ("MaskedLM", "PreTraining"),
            transformers.AutoModelForSequenceClassification: ("SequenceClassification",),
        }[kind]
        return any(part in name for name in config.architectures or () for part in named)
    with torch.device("meta"):
        model = kind.from_config(config)
    wanted = {name for name in model.state_dict() if not name.startswith(model.base_model_prefix + ".")}
    try:
        with safetensors.safe_open(str(file), framework="pt") as weights:
            return bool(wanted & set(weights.keys()))
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{file} is damaged or no safetensors file: {_first_line(error)}; copy or download it again"
        ) from error


def labels_of(config: Any) -> tuple[str, ...]:
    """The class names of a classifier's config, in the order of its logits."""
    return tuple(str(config.id2label[i]) for i in range(len(config.id2label)))


def with_new_head(source: str | Path, counts: np.ndarray, mask_id: int) -> transformers.PreTrainedModel:
    """An encoder from a folder with a masked-LM head that starts where a short training can finish.

    `counts` (V,) occurrences of each token in the training text. Untrained heads start from noise; here the output
    bias is the tokens' log frequency, the head's square layer hands its input through (gelu(x + 3) is about x + 3, and
    the normalisation takes the constant out again), and the embedding of the mask token, which such encoders have
    never seen in training, is the mean embedding of the text. Choices of ours, each measured to help on its own.
    """
    model = load_masked_lm(source)
    embeddings: Any = model.get_input_embeddings().weight
    output: Any = model.get_output_embeddings()
    head = [m for name, module in model._modules.items() if module and name != model.base_model_prefix
            for m in module.modules()]  # fmt: skip
    seen = torch.from_numpy(counts[: len(embeddings)].astype(np.float32))
    with torch.no_grad():
        if getattr(output, "bias", None) is not None:
            output.bias.copy_(((seen + 0.1) / (seen + 0.1).sum()).log())
        embeddings[mask_id] = (seen / seen.sum()) @ embeddings
        for module in head:
            if isinstance(module, nn.Linear) and module is not output and module.in_features == module.out_features:
                nn.init.eye_(module.weight)
                nn.init.constant_(module.bias, 3.0)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
    model.tie_weights()
    return model


def load_config(source: str | Path, revision: str | None = None) -> Any:
    """The config of a model folder or Hub name; UserError where there is none."""
    safe_loading.check(source)
    try:
        config = transformers.AutoConfig.from_pretrained(str(source), revision=revision, trust_remote_code=False)
    except Exception as error:  # of any kind, where a value is not of the type that its family expects
        raise UserError(f"cannot load a model's config from {source}: {_first_line(error)}") from error
    safe_loading.check_config(source, config)
    return config


def load_tokenizer(source: str | Path, revision: str | None = None) -> transformers.PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder or Hub name; UserError where there is none."""
    safe_loading.check(source, weights=False)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(source), revision=revision, use_fast=True, trust_remote_code=False
        )
    except Exception as error:  # of any kind, and plain `Exception` from the tokenizers' own reader
        raise UserError(f"cannot load a tokenizer from {source}: {_first_line(error)}") from error
    if not getattr(tokenizer, "is_fast", False) or tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer in {source} must be a fast one with a mask token")
    return tokenizer


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def blocks(model: transformers.PreTrainedModel) -> nn.ModuleList:
    """The list of transformer layers of a model: the ModuleList under its encoder as long as the config says."""
    depth = model.config.num_hidden_layers
    found = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not found:
        raise UserError(
            f"no list of {depth} layers found in a {model.config.model_type} model (layers shared, as in albert?)"
        )
    return found[0]


def pick_layers(
    layers: int | str | Sequence[int], depth: int, pick: str = "even", key: str = "student.layers"
) -> list[int]:
    """The teacher's layers a student starts from: an explicit list, or that many of them, or "all".

    A number takes evenly spaced ones (`pick` "even": 6 of 12 gives 0, 2, 4, 7, 9, 11, the published DistilBERT choice)
    or the first ("first": Dynamic KD and KSM). UserError, which calls it `key`, when out of range.
    """
    if layers == "all":
        return list(range(depth))
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise UserError(f"{key}={layers}: the teacher has {depth} layers, so 1 to {depth} can be taken")
        return (
            list(range(layers))
            if pick == "first"
            else [round(x) for x in torch.linspace(0, depth - 1, layers).tolist()]
        )
    if isinstance(layers, str) or not layers or any(not isinstance(x, int) or not 0 <= x < depth for x in layers):
        raise UserError(f"{key}={layers}: the teacher's layers are numbered 0 to {depth - 1}")
    return list(layers)


def student_from(teacher: transformers.PreTrainedModel, layers: Sequence[int]) -> transformers.PreTrainedModel:
    """A shallower copy of `teacher` with its layers `layers`, its embeddings and its head.

    DistilBERT's initialisation (Sanh et al. 2019). New memory: training the student leaves the teacher as it is.
    """
    blocks(teacher)  # refuses families whose layers cannot be told apart
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    for name in ("layer_types", "mlp_layer_types"):  # per-layer settings of newer families
        if isinstance(getattr(config, name, None), list):
            setattr(config, name, [getattr(config, name)[i] for i in layers])
    student = type(teacher)(config)
    prefix = next(name for name, module in teacher.named_modules() if module is blocks(teacher)) + "."
    source = teacher.state_dict()
    for i, layer in enumerate(layers):
        start = f"{prefix}{layer}."
        source.update(
            {f"\0{prefix}{i}.{k[len(start) :]}": v for k, v in teacher.state_dict().items() if k.startswith(start)}
        )
    wanted = {k: source.get("\0" + k, source.get(k)) for k in student.state_dict()}
    missing = [k for k, v in wanted.items() if v is None]
    if missing:
        raise UserError(f"cannot build a student from this teacher: it has no {missing[0]}")
    student.load_state_dict(wanted)  # pyright: ignore[reportArgumentType]
    student.tie_weights()
    return student.float()


def smaller(teacher: transformers.PreTrainedModel, layers: int, hidden: int) -> transformers.PreTrainedModel:
    """A student of the teacher's family and head with `layers` layers of width `hidden`, drawn at random.

    It has as many attention heads as the teacher, so that attention can be compared, and a feed-forward of the same
    multiple of the width. The teacher's weights do not fit, so none are copied. Draws from torch's global generator.
    UserError where the width is no multiple of the number of heads.
    """
    config = copy.deepcopy(teacher.config)
    check_width(config, hidden)
    scale = hidden / config.hidden_size
    config.num_hidden_layers = layers
    names = ("intermediate_size",) if "intermediate_size" in config.to_dict() else ("hidden_dim",)
    for name in names:
        setattr(config, name, round(getattr(config, name) * scale))
    config.hidden_size = hidden
    for name in ("layer_types", "mlp_layer_types"):
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
    """Fix every parameter whose name contains one of `names`; returns how many numbers that fixes."""
    count = 0
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.requires_grad_(False)
            count += parameter.numel()
    return count


def set_dropout(model: nn.Module, probability: float) -> None:
    """Give every dropout of `model` this probability; the config, and so a saved model, keeps its own."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
