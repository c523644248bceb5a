"""Encoders as the rest of the package sees them, and students made out of teachers.

`Encoder` splits any masked-LM model of transformers in two: `encode` gives the last hidden states, `project` turns
chosen vectors into logits over the vocabulary. So vocabulary work is done at the positions that need it and a tensor
of rows x length x vocabulary is never made.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from kdlab.errors import UserError


class _Given(nn.Module):
    """Stands in for a model's encoder and answers with the hidden states it is handed as embeddings."""

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)  # pyright: ignore[reportArgumentType]


class Encoder(nn.Module):
    """A masked-LM model of any encoder family, in two halves that share its parameters.

    `model` stays an ordinary transformers model (for `save_pretrained`). The head half is a shallow copy of it whose
    encoder hands through what it is given, so every family's own head runs, unmodified (BERT, RoBERTa, DistilBERT,
    ELECTRA, MPNet, DeBERTa-v2, ModernBERT).
    """

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        head = copy.copy(model)
        head._modules = {**model._modules, model.base_model_prefix: _Given()}
        self._head = (head,)  # a tuple, so that its parameters are registered once

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states (k, L, H) of `input_ids` (k, L)."""
        return self.model.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def project(self, vectors: Tensor) -> Tensor:
        """Logits (U, V) of hidden vectors (U, H)."""
        self._head[0].training = self.training
        return self._head[0](inputs_embeds=vectors.unsqueeze(0)).logits.squeeze(0)

    def head_parameters(self) -> list[nn.Parameter]:
        """Every trained parameter that `project` reads, tied embeddings included."""
        own = set(self.model.base_model.parameters())
        head = [p for name, module in self.model._modules.items() if name != self.model.base_model_prefix and module
                for p in module.parameters()]  # fmt: skip
        return [p for p in dict.fromkeys(head) if p.requires_grad and (p not in own or p is self._tied())]

    def _tied(self) -> Tensor | None:
        output = self.model.get_output_embeddings()
        return None if output is None else output.weight  # pyright: ignore[reportReturnType]


def features(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of hidden states (k, L, H) over real tokens, mask (k, L): a row's representation in masked-LM (k, H)."""
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)


def load_masked_lm(source: str | Path, revision: str | None = None) -> transformers.PreTrainedModel:
    """A masked-LM model in float32 from a folder or the Hub. Safetensors only, no remote code.

    Raises UserError where transformers cannot load it, naming the source.
    """
    try:
        return transformers.AutoModelForMaskedLM.from_pretrained(
            str(source), revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot load a masked-LM model from {source}: {_first_line(error)}") from error


def has_head(source: str | Path, config: Any) -> bool:
    """Whether the weights at `source` come with a masked-LM head (an encoder alone, as of sentence embeddings, has none).

    For a local folder the names in its safetensors file tell; a Hub name is taken to be what its config says it is.
    """
    file = Path(source) / "model.safetensors"
    if not file.is_file():
        return any("MaskedLM" in name or "PreTraining" in name for name in config.architectures or ())
    with torch.device("meta"):
        model = transformers.AutoModelForMaskedLM.from_config(config)
    wanted = {name for name in model.state_dict() if not name.startswith(model.base_model_prefix + ".")}
    try:
        with safetensors.safe_open(str(file), framework="pt") as weights:
            return bool(wanted & set(weights.keys()))
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{file} is damaged or no safetensors file: {_first_line(error)}; copy or download it again"
        ) from error


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


def pick_layers(layers: int | Sequence[int], depth: int) -> list[int]:
    """The teacher's layers a student starts from: an explicit list, or that many evenly spaced ones.

    6 of 12 gives 0, 2, 4, 7, 9, 11, the published DistilBERT choice. UserError when out of range.
    """
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise UserError(f"student.layers={layers}: the teacher has {depth} layers, so 1 to {depth} can be taken")
        return [round(x) for x in torch.linspace(0, depth - 1, layers).tolist()]
    if not layers or any(not isinstance(x, int) or not 0 <= x < depth for x in layers):
        raise UserError(f"student.layers={list(layers)}: the teacher's layers are numbered 0 to {depth - 1}")
    return list(layers)


def student_from(teacher: transformers.PreTrainedModel, layers: Sequence[int]) -> transformers.PreTrainedModel:
    """A shallower copy of `teacher` with its layers `layers`, its embeddings and its masked-LM head.

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
