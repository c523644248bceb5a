"""Encoders as the rest of the package sees them.

`Encoder` splits a masked-LM model or classifier of transformers in two: `encode` gives hidden states, `project` turns
chosen vectors into logits. So vocabulary work is done at the positions that need it and a tensor of
rows x length x vocabulary is never made.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from kdlab.models import attention_capture, last_layer, packing, varlen
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
    `execution` "packed": without padding where the family allows it (`kdlab.models.packing`), else "bucketed": rows of similar
    length together; "padded": each batch as it comes; "varlen": packed, by kernels for it where they can be used (not
    under dropout of attention, nor where attention is read). What comes out is the same within rounding. Without padding
    the last layer runs for the tokens that are read alone (`kdlab.models.last_layer`).
    """

    def __init__(self, model: transformers.PreTrainedModel, execution: str = "padded") -> None:
        super().__init__()
        self.model = model
        packs = packing.packs(model) or execution not in ("packed", "varlen")
        self.execution = execution if packs else "bucketed"
        if self.execution == "varlen" and not attention_capture.prepared(
            model
        ):  # who shares its layers may read attention
            varlen.prepare(model)
        # each layer's dropout of attention weights: what says how attention is scaled is self-attention
        self._attention_dropout = [
            m.dropout for m in model.modules() if hasattr(m, "scaling") and hasattr(m, "dropout")
        ]
        self.per_row = is_classifier(model)
        base = model.base_model
        head = copy.copy(model)
        head._modules = {**model._modules, model.base_model_prefix: _Given(getattr(base, "pooler", None))}
        self._head = (head,)  # a tuple, so that its parameters are registered once
        self._head_places: list[tuple[nn.Module, str]] | None = None
        self._segments = "token_type_ids" in inspect.signature(base.forward).parameters
        self._segments = self._segments and getattr(model.config, "type_vocab_size", 0) > 1
        self._held: torch.dtype | None = None

    def hold(self, dtype: torch.dtype) -> None:
        """Keep the matrices of a frozen model in `dtype` (half precision), as autocast makes them anew for each forward.

        That takes half of the memory. What comes out has the types it has under autocast, wherever it is called: norms
        keep their float32 numbers, and embeddings are handed on in float32, so that what is added up from layer to layer
        is. ValueError for a model that is trained, whose small updates would be lost.
        """
        if any(p.requires_grad for p in self.parameters()):
            raise ValueError("a model that is trained keeps its float32 weights")
        if self._held is not None:
            return
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                for parameter in module.parameters(recurse=False):  # tied ones stay tied
                    parameter.data = parameter.data.to(dtype)
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(_in_float32)
        self._held = dtype

    @property
    def held(self) -> torch.dtype | None:
        """What `hold` was given."""
        return self._held

    def _lowered(self) -> contextlib.AbstractContextManager[object]:
        """Where a model that is held in half precision runs."""
        if self._held is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, self._held)

    def encode(self, batch: Batch, wants: frozenset[str] = frozenset()) -> Outputs:
        """What the layers make of the rows of `batch`: `hidden` and `mask`, and what is wanted of "states", "scores",
        "values". For the latter two `kdlab.models.attention_capture.prepare` must have been called on the model.

        `hidden` is that of all tokens if anything is wanted, it itself ("hidden") or another. Else only where the batch
        makes its predictions is sure: in classification it may be (k, 1, H), of the first tokens; in masked-LM NaN at
        all but first tokens and masked positions.
        """
        if self._flat and self._half and not wants & {"scores", "values"}:
            return self._in_one_row(batch, wants)
        if self.execution in ("packed", "varlen"):
            return self._packed(batch, wants)
        if self.execution == "bucketed":
            return self._bucketed(batch, wants)
        given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_types is not None:
            given["token_type_ids"] = batch.token_types
        return replace(self._run(given, wants), mask=batch.attention_mask)

    def _known(self, given: dict[str, Any]) -> dict[str, Any]:
        """Inputs without segments where the model knows none."""
        return {name: x for name, x in given.items() if self._segments or name != "token_type_ids"}

    def _run(self, given: dict[str, Any], wants: frozenset[str]) -> Outputs:
        """The encoder's outputs for the inputs of transformers' forward."""
        given = self._known(given)
        if "states" in wants:
            given["output_hidden_states"] = True
        attends = wants & {"scores", "values"}
        with self._lowered(), attention_capture.recording() if attends else contextlib.nullcontext() as recorded:
            found = self.model.base_model(**given)
        shown = Outputs(hidden=found.last_hidden_state)
        if "states" in wants:
            shown.states = found.hidden_states
        if recorded is not None:
            shown.scores, shown.values = attention_capture.checked(recorded, self.model)
        return shown

    def _run_of(self, chosen: last_layer.ChosenTokens, given: dict[str, Any]) -> Tensor:
        """The last hidden states (U, H) of the chosen tokens, as `_run`."""
        with self._lowered():
            return last_layer.run(self.model, self._known(given), chosen)

    def _read(self, batch: Batch, wants: frozenset[str]) -> Tensor | None:
        """Whose last hidden state is read (k, L) bool, where the last layer can run for these alone; None: all."""
        if wants or self.execution not in ("packed", "varlen") or not last_layer.runs(self.model):
            return None
        if self.per_row == (batch.labels.ndim == 2):  # labels of another kind than the head's say nothing
            return None
        real = batch.attention_mask.bool()
        read = torch.zeros_like(real) if self.per_row else batch.labelled() & real
        return read.index_fill(1, read.new_zeros(1, dtype=torch.long), True)

    def _of_read(self, read: Tensor, vectors: Tensor, mask: Tensor) -> Outputs:
        """Outputs with the last hidden states `vectors` (U, H) of the tokens that are `read`."""
        if self.per_row:
            return Outputs(hidden=vectors.unsqueeze(1), mask=mask)
        hidden = vectors.new_full((mask.numel(), vectors.shape[-1]), torch.nan)  # whoever reads them in error sees it
        return Outputs(hidden=hidden.index_copy(0, _places(read), vectors).view(*mask.shape, -1), mask=mask)

    @property
    def _flat(self) -> bool:
        """Whether a forward now, in half precision, is one over a single row of tokens."""
        if self.execution != "varlen" or not varlen.prepared(self.model):
            return False
        return not self.model.training or all(dropout.p == 0 for dropout in self._attention_dropout)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def _half(self) -> bool:
        return torch.is_autocast_enabled("cuda") or self.model.dtype in (torch.bfloat16, torch.float16)

    def _in_one_row(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        flat = packing.FlatLayout(batch, packing.first_position(self.model))
        read = self._read(batch, wants)
        if read is not None:
            counts = read.sum(1)
            with varlen.sequences(flat.bounds, flat.shape[1], packing.bounds_of(counts), int(counts.max())):
                chosen = last_layer.ChosenTokens.of_one_row(flat.inside(read))
                vectors = self._run_of(chosen, flat.inputs)
            return self._of_read(read, vectors, batch.attention_mask)
        with varlen.sequences(flat.bounds, flat.shape[1]):
            found = self._run(flat.inputs, wants)
        assert found.hidden is not None
        hidden = flat.unpack(found.hidden)
        states = found.states and tuple(hidden if x is found.hidden else flat.unpack(x) for x in found.states)
        return Outputs(hidden=hidden, mask=batch.attention_mask, states=states)

    def _packed(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        packed = packing.PackedRows(batch, packing.first_position(self.model))
        given = {**packed.inputs, "attention_mask": packed.attention_mask(self.model.dtype)}
        read = self._read(batch, wants)
        if read is not None:
            places = packed.places.flatten().index_select(0, _places(read))
            chosen = last_layer.ChosenTokens.among(places, packed.layout.rows, packed.layout.width)
            vectors = self._run_of(chosen, given)
            return self._of_read(read, vectors, batch.attention_mask)
        found = self._run(given, wants)
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

    def executed(self, batch: Batch, wants: frozenset[str] = frozenset()) -> tuple[int, ...]:
        """How many tokens a forward over `batch` runs, and how many pairs of tokens attend to each other; then, where the
        last layer runs for some tokens alone, how many these are, and their pairs (as `flops.encoder` takes them)."""
        rows, length = batch.input_ids.shape
        if self.execution == "padded":
            return rows * length, rows * length * length
        lengths = tuple(batch.attention_mask.sum(1).tolist())
        read = self._read(batch, wants)
        counts = None if read is None else read.sum(1).cpu()
        if self._flat:
            whole = sum(lengths), sum(n * n for n in lengths)
            return whole if counts is None else (*whole, int(counts.sum()), int(counts @ torch.tensor(lengths)))
        if self.execution in ("packed", "varlen"):
            found = packing.layout(lengths)
            whole = found.tokens, found.tokens * found.width
            if counts is None:
                return whole
            most = counts.new_zeros(found.rows).index_add(0, found.row, counts).max()
            return *whole, int(counts.sum()), found.rows * int(most) * found.width
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
        with self._lowered():
            return self._head[0](inputs_embeds=vectors.unsqueeze(1)).logits.flatten(0, -2)

    def head_parameters(self) -> list[nn.Parameter]:
        """Every trained parameter that `project` reads, tied embeddings and an encoder's pooler included."""
        if self._head_places is None:  # where they are is looked for once: to go through all parameters takes a while
            base = self.model.base_model
            own = set(base.parameters())
            heads = [m for name, m in self.model._modules.items() if name != self.model.base_model_prefix and m]
            pooler = getattr(base, "pooler", None)
            if self.per_row and pooler is not None:
                heads.append(pooler)
                own -= set(pooler.parameters())
            self._head_places = [
                (module, name) for head in heads for module in head.modules() for name, p in module._parameters.items()
                if p is not None and (p not in own or p is self._tied())
            ]  # fmt: skip
        found = dict.fromkeys(module._parameters[name] for module, name in self._head_places)
        return [p for p in found if p is not None and p.requires_grad]

    def _tied(self) -> Tensor | None:
        output = self.model.get_output_embeddings()
        return None if output is None else output.weight  # pyright: ignore[reportReturnType]


def _places(read: Tensor) -> Tensor:
    """Where (U,) a mask is true, counted through all of it."""
    return read.flatten().nonzero().squeeze(1)


def is_classifier(model: transformers.PreTrainedModel) -> bool:
    """Whether a model's head gives one answer a row."""
    return type(model).__name__.endswith("ForSequenceClassification")


def _in_float32(module: nn.Module, given: Any, found: Tensor) -> Tensor:
    return found.float()
