"""Encoders as the rest of the package sees them, and students made out of teachers.

`Encoder` splits a masked-LM model or classifier of transformers in two: `encode` gives hidden states, `project` turns
chosen vectors into logits. So vocabulary work is done at the positions that need it and a tensor of
rows x length x vocabulary is never made.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from kdlab import attention, packing
from kdlab.errors import UserError
from kdlab.tasks import TaskShape
from kdlab.types import Batch, Outputs


class _Given(nn.Module):
    """Stands in for a model's encoder and answers with the hidden states it is handed as embeddings."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> BaseModelOutputWithPooling:
        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)  # pyright: ignore


class Encoder(nn.Module):
    """A model of any encoder family with a masked-LM head or a classifier, in two halves that share its parameters.

    `model` stays an ordinary transformers model (for `save_pretrained`). The head half is a shallow copy of it whose
    encoder hands through what it is given, so every family's own head runs, unmodified (BERT, RoBERTa, DistilBERT,
    ELECTRA, MPNet, DeBERTa-v2, ModernBERT). `per_row`: the head gives one answer a row, not one a token.
    `execution` "packed": without padding where the family allows it (`kdlab.packing`), else "bucketed": rows of similar
    length together; "padded": each batch as it comes. What comes out is the same within rounding.
    """

    def __init__(self, model: transformers.PreTrainedModel, execution: str = "padded") -> None:
        super().__init__()
        self.model = model
        self.execution = "bucketed" if execution == "packed" and not packing.packs(model) else execution
        self.per_row = is_classifier(model)
        base = model.base_model
        head = copy.copy(model)
        head._modules = {**model._modules, model.base_model_prefix: _Given(getattr(base, "pooler", None))}
        self._head = (head,)  # a tuple, so that its parameters are registered once
        self._segments = "token_type_ids" in inspect.signature(base.forward).parameters
        self._segments = self._segments and getattr(model.config, "type_vocab_size", 0) > 1

    def encode(self, batch: Batch, wants: frozenset[str] = frozenset()) -> Outputs:
        """What the layers make of the rows of `batch`: `hidden` and `mask`, and what is wanted of "states", "scores",
        "values". For the latter two `kdlab.attention.prepare` must have been called on the model."""
        if self.execution == "packed":
            return self._packed(batch, wants)
        if self.execution == "bucketed":
            return self._bucketed(batch, wants)
        given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_types is not None:
            given["token_type_ids"] = batch.token_types
        return replace(self._run(given, wants), mask=batch.attention_mask)

    def _run(self, given: dict[str, Any], wants: frozenset[str]) -> Outputs:
        """The encoder's outputs for the inputs of transformers' forward."""
        if not self._segments:
            given.pop("token_type_ids", None)
        if "states" in wants:
            given["output_hidden_states"] = True
        attends = wants & {"scores", "values"}
        with attention.recording() if attends else contextlib.nullcontext() as recorded:
            found = self.model.base_model(**given)
        shown = Outputs(hidden=found.last_hidden_state)
        if "states" in wants:
            shown.states = found.hidden_states
        if recorded is not None:
            shown.scores, shown.values = attention.checked(recorded, self.model)
        return shown

    def _packed(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        packed = packing.Packed(batch, packing.first_position(self.model))
        found = self._run({**packed.inputs, "attention_mask": packed.attention_mask(self.model.dtype)}, wants)
        assert found.hidden is not None
        hidden = packed.unpack(found.hidden)
        # the last of the states is the last hidden state, unless the family normalises it once more
        states = found.states and tuple(hidden if x is found.hidden else packed.unpack(x) for x in found.states)
        return Outputs(
            hidden=hidden,
            mask=batch.attention_mask,
            states=states,
            scores=found.scores and tuple(packed.unpack_scores(x) for x in found.scores),
            values=found.values and tuple(packed.unpack_values(x) for x in found.values),
        )

    def _bucketed(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        groups = packing.buckets(tuple(batch.attention_mask.sum(1).tolist()))
        parts = []
        for group in groups:
            some = batch.take(torch.tensor(group, device=batch.rows.device))
            given = {"input_ids": some.input_ids, "attention_mask": some.attention_mask}
            if some.token_types is not None:
                given["token_type_ids"] = some.token_types
            parts.append(self._run(given, wants))
        order = torch.tensor([i for group in groups for i in group], device=batch.rows.device).argsort()
        return packing.joined(parts, order, batch.attention_mask)

    def executed(self, batch: Batch) -> tuple[int, int]:
        """How many tokens a forward over `batch` runs, and how many pairs of tokens attend to each other."""
        rows, length = batch.input_ids.shape
        if self.execution == "padded":
            return rows * length, rows * length * length
        lengths = tuple(batch.attention_mask.sum(1).tolist())
        if self.execution == "packed":
            found = packing.layout(lengths)
            return found.tokens, found.tokens * found.width
        groups = packing.buckets(lengths)
        sizes = [(len(group), max(lengths[i] for i in group)) for group in groups]
        return sum(n * longest for n, longest in sizes), sum(n * longest**2 for n, longest in sizes)

    def vectors(self, shown: Outputs, row: Tensor, place: Tensor) -> Tensor:
        """The hidden vectors (U, H) that the head reads for units at `row`, `place` (U,) of what `encode` has shown."""
        assert shown.hidden is not None
        if self.per_row:
            return self.features(shown)[row]
        return shown.hidden[row, place]

    def features(self, shown: Outputs) -> Tensor:
        """A row's representation (k, H) in the last layer: of a classifier the vector its head reads ([CLS]), else the
        mean over real tokens."""
        assert shown.hidden is not None and shown.mask is not None
        if self.per_row and getattr(self.model.config, "classifier_pooling", "cls") == "cls":
            return shown.hidden[:, 0]
        weight = shown.mask.to(shown.hidden.dtype).unsqueeze(-1)
        return (shown.hidden * weight).sum(1) / weight.sum(1).clamp_min(1)

    def project(self, vectors: Tensor) -> Tensor:
        """Logits (U, V) or (U, C) of hidden vectors (U, H)."""
        self._head[0].training = self.training
        return self._head[0](inputs_embeds=vectors.unsqueeze(1)).logits.flatten(0, -2)

    def head_parameters(self) -> list[nn.Parameter]:
        """Every trained parameter that `project` reads, tied embeddings and an encoder's pooler included."""
        base = self.model.base_model
        own = set(base.parameters())
        head = [p for name, module in self.model._modules.items() if name != self.model.base_model_prefix and module
                for p in module.parameters()]  # fmt: skip
        pooler = getattr(base, "pooler", None)
        if self.per_row and pooler is not None:
            head += pooler.parameters()
            own -= set(pooler.parameters())
        return [p for p in dict.fromkeys(head) if p.requires_grad and (p not in own or p is self._tied())]

    def _tied(self) -> Tensor | None:
        output = self.model.get_output_embeddings()
        return None if output is None else output.weight  # pyright: ignore[reportReturnType]


def is_classifier(model: transformers.PreTrainedModel) -> bool:
    """Whether a model's head gives one answer a row."""
    return type(model).__name__.endswith("ForSequenceClassification")


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


def _load(kind: Any, what: str, source: str | Path, revision: str | None, **more: Any) -> transformers.PreTrainedModel:
    try:
        return kind.from_pretrained(
            str(source), revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **more
        )
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
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
    try:
        return transformers.AutoConfig.from_pretrained(str(source), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load a model's config from {source}: {_first_line(error)}") from error


def load_tokenizer(source: str | Path, revision: str | None = None) -> transformers.PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder or Hub name; UserError where there is none."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(source), revision=revision, use_fast=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load a tokenizer from {source}: {_first_line(error)}") from error
    if not getattr(tokenizer, "is_fast", False) or tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer in {source} must be a fast one with a mask token")
    return tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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
