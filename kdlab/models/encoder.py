"""Encoders and decoders of transformers, split into an encoder half and a head half.

`Encoder.encode` gives hidden states, `Encoder.project` turns chosen vectors into logits. So the vocabulary projection runs
only at the positions that need it, and a tensor of rows x length x vocabulary is never made.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPooling
from transformers.pytorch_utils import Conv1D
from transformers.utils.generic import ModelOutput

from kdlab.models import documents, packing
from kdlab.models.attention import on_cpu
from kdlab.models.execution import EncoderRunner, execution_for
from kdlab.models.head import head_of_model
from kdlab.types import Batch, Outputs, moved


class _PassThrough(nn.Module):
    """Stand-in for the encoder `base`: it returns the embeddings it receives as hidden states, pooled if it has a pooler.

    A pooler reads the first token itself, but for ALBERT's, a plain linear layer whose activation is the encoder's.
    `causal`: the heads of decoders read an output with the fields of a cache.
    """

    def __init__(self, base: nn.Module, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.pooler: nn.Module | None = getattr(base, "pooler", None)
        self.activation: nn.Module | None = getattr(base, "pooler_activation", None)

    @property
    def decoder(self) -> _PassThrough:
        """Itself, for heads that call the decoder inside their base model (OPT)."""
        return self

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> ModelOutput:
        if self.causal:
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)  # pyright: ignore
        pooled = None
        if self.pooler is not None and self.activation is not None:
            pooled = self.activation(self.pooler(inputs_embeds[:, 0]))
        elif self.pooler is not None:
            pooled = self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)  # pyright: ignore


class Encoder(nn.Module):
    """A transformers model with a masked-LM head, a classifier or a causal language model's head, in two halves that share
    its parameters.

    `model` stays an ordinary transformers model (for `save_pretrained`). The head half is a shallow copy of it whose
    encoder passes its input through, so every family's own head runs unmodified (BERT, RoBERTa, DistilBERT, ELECTRA,
    MPNet, DeBERTa-v2, ModernBERT, ALBERT; Llama, Qwen, GPT-2, GPT-NeoX, Gemma). `per_row`: the head gives one answer a row (a classifier), not one a token.

    `execution`: the name of an execution mode (`kdlab.models.execution`): "padded", "bucketed", "packed" or "varlen". A
    family that cannot run without padding runs bucketed. Outputs are the same within rounding.
    """

    def __init__(self, model: transformers.PreTrainedModel, execution: str = "padded") -> None:
        super().__init__()
        on_cpu.prepare(model)
        self.model = model
        self.head = head_of_model(model)
        self.per_row = self.head.per_row
        self._runner = EncoderRunner(model, self.head)
        self._execution = execution_for(execution, self._runner)
        head = copy.copy(model)
        head._modules = {**model._modules, model.base_model_prefix: _PassThrough(model.base_model, self.head.causal)}
        self._head = (head,)  # a tuple, so that its parameters are registered once
        self._head_places: list[tuple[nn.Module, str]] | None = None

    @property
    def execution(self) -> str:
        """The name of the execution mode in use."""
        return self._execution.name

    def cast_weights(self, dtype: torch.dtype) -> None:
        """Store frozen matrices in half precision `dtype`, in place of casting them in each forward.

        It halves their memory. Outputs have the types they have under autocast, also outside of it: norms keep float32
        parameters, and embeddings are converted to float32, so that the residual stream stays float32. Trained parameters,
        such as adapters, keep float32, in which small updates are not lost. ValueError where nothing is frozen. A second
        call changes nothing.
        """
        if all(p.requires_grad for p in self.parameters()):
            raise ValueError("a model that is trained keeps its float32 weights")
        if self._runner.autocast is not None:
            return
        for module in self.modules():
            if isinstance(module, (nn.Linear, Conv1D, nn.Embedding)):
                for parameter in module.parameters(recurse=False):  # tied ones stay tied
                    if not parameter.requires_grad:
                        parameter.data = parameter.data.to(dtype)
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(_in_float32)
        self._runner.autocast = dtype

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """The type given to `cast_weights`; None: the weights are as they were loaded."""
        return self._runner.autocast

    def encode(self, batch: Batch, wants: frozenset[str] = frozenset()) -> Outputs:
        """Run the layers on the rows of `batch`: `hidden` (k, L, H) and `mask` (k, L), and what `wants` names.

        `wants`: any of "hidden", "states", "scores", "values"; for the last two,
        `kdlab.models.attention.capture.prepare` must have been called on the model. If it names anything, `hidden` holds
        all tokens. Else it is only defined where the batch makes its predictions: in classification it may be (k, 1, H),
        the first tokens; in masked-LM it may be NaN except at first tokens and masked positions.
        """
        return self(batch, wants)

    def forward(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        """`encode`, as the call of a module: its hooks gather the parameters of a sharded student."""
        if self._splits(batch):
            outputs = documents.encode_apart(self._execution.encode, batch, wants)
        else:
            outputs = self._execution.encode(batch, wants)
        outputs.documents, outputs.causal = batch.documents, self.head.causal
        return outputs

    def executed(self, batch: Batch, wants: frozenset[str] = frozenset(), asks: bool = True) -> tuple[int, ...]:
        """Numbers of tokens that a forward over `batch` runs, and of pairs of tokens that attend to each other.

        Where the last layer runs for some tokens only, the number of these and of their pairs follow. Arguments of
        `kdlab.models.flops.encoder`, in its order. `asks` False: whether it can is as at the last forward (the question takes
        longer than the counts).
        """
        return self._execution.executed(documents.apart(batch)[0] if self._splits(batch) else batch, wants, asks)

    def _splits(self, batch: Batch) -> bool:
        """True where documents share rows that the model's family cannot keep apart."""
        return batch.documents is not None and not packing.can_pack(self.model)

    def vectors(self, shown: Outputs, row: Tensor, place: Tensor) -> Tensor:
        """Hidden vectors (U, H) that the head reads for the units at `row` (U,), `place` (U,), on either side; `shown` is from
        `encode`."""
        assert shown.hidden is not None
        row = moved(row, shown.hidden.device)
        if self.per_row:
            return self.features(shown)[row]
        return shown.hidden[row, moved(place, shown.hidden.device)]

    def features(self, shown: Outputs) -> Tensor:
        """Last-layer representation (k, H) of each row: the vector a classifier's head reads, else the mean over real tokens.

        The head of a classifier reads the first token ([CLS]) unless its config pools otherwise.
        """
        assert shown.hidden is not None and shown.mask is not None
        if self.per_row and getattr(self.model.config, "classifier_pooling", "cls") == "cls":
            return shown.hidden[:, 0]
        weight = shown.mask.to(shown.hidden.dtype).unsqueeze(-1)
        return (shown.hidden * weight).sum(1) / weight.sum(1).clamp_min(1)

    def project(self, vectors: Tensor) -> Tensor:
        """Logits (U, V) or (U, C) of hidden vectors (U, H)."""
        self._head[0].training = self.training
        with self._runner.precision():
            return self._head[0](inputs_embeds=vectors.unsqueeze(1)).logits.flatten(0, -2)

    def head_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that `project` reads, tied embeddings and an encoder's pooler included."""
        if self._head_places is None:  # cached: a walk over all parameters is slow
            base = self.model.base_model
            encoder = set(base.parameters())
            heads = [m for name, m in self.model._modules.items() if name != self.model.base_model_prefix and m]
            pooler = getattr(base, "pooler", None)
            if self.per_row and pooler is not None:
                heads.append(pooler)
                encoder -= set(pooler.parameters())
            self._head_places = [
                (module, name) for head in heads for module in head.modules() for name, p in module._parameters.items()
                if p is not None and (p not in encoder or p is self._tied())
            ]  # fmt: skip
        parameters = dict.fromkeys(module._parameters[name] for module, name in self._head_places)
        return [p for p in parameters if p is not None and p.requires_grad]

    def _tied(self) -> Tensor | None:
        output = self.model.get_output_embeddings()
        return None if output is None else output.weight  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def dropout_mode(encoder: nn.Module, seed: int) -> Iterator[None]:
    """Run the block's forwards with dropout, drawn from `seed`; the encoder is in eval mode, and torch's global
    generators are as before, after it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        encoder.train()
        try:
            yield
        finally:
            encoder.eval()


def _in_float32(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()
