"""Execution modes of a model: padded, bucketed, packed and variable-length forwards over the rows of a batch.

Each mode is a class with the interface of `Execution`; `execution_for` chooses one by its name. All give the same outputs
within rounding; they differ in the tokens they run.

Decoders get position ids and no mask: padding is on the right, so no token sees it, and transformers keeps the tokens of
documents apart where position ids begin anew. The families of `packing.CAUSAL` do that (tests compare each document with
itself alone); of others, documents become rows of their own.
"""

from __future__ import annotations

import contextlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn

from kdlab.models import documents, last_layer, packing
from kdlab.models.attention import capture, varlen
from kdlab.models.batch_counts import BatchCounts, counts_of
from kdlab.models.head import Head
from kdlab.types import Batch, Outputs, moved


class EncoderRunner:
    """Forwards of the encoder half of a transformers model, as execution modes need them.

    `head`: that of the model; `per_row`: it reads one vector a row, not one a token; `autocast`: the half-precision type in
    which the model runs (None: as the enclosing context sets it).
    """

    def __init__(self, model: transformers.PreTrainedModel, head: Head) -> None:
        self.model, self.per_row, self.causal = model, head.per_row, head.causal
        self.autocast: torch.dtype | None = None
        self.last_layer_alone: bool | None = None  # the answer of `last_layer.can_run` at the last forward
        takes_segments = "token_type_ids" in inspect.signature(model.base_model.forward).parameters
        self._segments = takes_segments and getattr(model.config, "type_vocab_size", 0) > 1

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """The context for a forward: autocast to the type `autocast`, if there is one."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, self.autocast)

    def run(self, inputs: dict[str, Any], wants: frozenset[str]) -> Outputs:
        """Run all layers on the `inputs` of transformers' forward, on either side, but position ids on the host: `hidden`, and
        the wanted states, scores and values."""
        sequences = documents.known_sequences(inputs.get("position_ids") if self.causal else None)
        inputs = self._accepted(inputs)
        if "states" in wants:
            inputs["output_hidden_states"] = True
        attention = wants & {"scores", "values"}
        recording = capture.recording() if attention else contextlib.nullcontext()
        with self.precision(), _without_pooler(self.model.base_model), sequences, recording as recorded:
            answer = self.model.base_model(**inputs)
        outputs = Outputs(hidden=answer.last_hidden_state)
        if "states" in wants:
            outputs.states = answer.hidden_states
        if recorded is not None:
            outputs.scores, outputs.values = capture.checked(recorded, self.model)
        return outputs

    def run_for(self, chosen: last_layer.ChosenTokens, inputs: dict[str, Any]) -> Tensor:
        """Run the last layer for the chosen tokens only: their last hidden states (U, H)."""
        with self.precision():
            return last_layer.run(self.model, self._accepted(inputs), chosen)

    def _accepted(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A copy of `inputs` on the model's device, without segments where the model takes none; a decoder keeps no keys and
        values."""
        device = self.model.device
        accepted = {name: moved(x, device) for name, x in inputs.items() if self._segments or name != "token_type_ids"}
        return {**accepted, "use_cache": False} if self.causal else accepted

    def padded(self, batch: Batch) -> dict[str, Any]:
        """The inputs of transformers' forward for the padded rows of a batch."""
        if self.causal and packing.can_pack(self.model):
            return {"input_ids": batch.input_ids, "position_ids": documents.positions(batch.host)}
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_types is not None:
            inputs["token_type_ids"] = batch.token_types
        return inputs


@contextlib.contextmanager
def _without_pooler(base: nn.Module) -> Iterator[None]:
    """Leave out a base model's pooler inside the block: the head half of `Encoder` runs it.

    Not a copy of the base model: transformers would add its hooks for hidden states to the layers once more.
    """
    pooler = base._modules.get("pooler")
    if pooler is None:
        yield
        return
    base._modules["pooler"] = None
    try:
        yield
    finally:
        base._modules["pooler"] = pooler


class Execution(ABC):
    """A way to run an encoder over the rows of a batch."""

    name: ClassVar[str]

    def __init__(self, runner: EncoderRunner) -> None:
        self.runner = runner

    @classmethod
    def supports(cls, model: transformers.PreTrainedModel) -> bool:
        """True if the model's family can run in this mode."""
        return True

    @abstractmethod
    def encode(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        """Hidden states of the rows, as `kdlab.models.encoder.Encoder.encode` describes them."""

    @abstractmethod
    def executed(self, batch: Batch, wants: frozenset[str], asks: bool = True) -> tuple[int, ...]:
        """Tokens and pairs of tokens of a forward, as `kdlab.models.encoder.Encoder.executed` describes them."""


class PaddedExecution(Execution):
    """Run each batch as it comes, padded to its longest row."""

    name = "padded"

    def encode(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        return replace(self.runner.run(self.runner.padded(batch), wants), mask=batch.attention_mask)

    def executed(self, batch: Batch, wants: frozenset[str], asks: bool = True) -> tuple[int, ...]:
        rows, length = batch.input_ids.shape
        return rows * length, rows * length * length


class BucketedExecution(Execution):
    """Run rows of similar length together, each group padded to its own longest row."""

    name = "bucketed"

    def encode(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        groups = packing.buckets(packing.lengths_of(batch))
        rows = [batch.take(torch.tensor(group)) for group in groups]
        parts = [self.runner.run(self.runner.padded(some), wants) for some in rows]
        order = torch.tensor([i for group in groups for i in group]).argsort()
        return packing.merge_outputs(parts, moved(order, batch.rows.device), batch.attention_mask)

    def executed(self, batch: Batch, wants: frozenset[str], asks: bool = True) -> tuple[int, ...]:
        counts = counts_of(batch)
        return counts.once("bucketed", lambda: self._count(counts.lengths))

    @staticmethod
    def _count(lengths: tuple[int, ...]) -> tuple[int, int]:
        sizes = [(len(group), max(lengths[i] for i in group)) for group in packing.buckets(lengths)]
        return sum(n * longest for n, longest in sizes), sum(n * longest**2 for n, longest in sizes)


class PackedExecution(Execution):
    """Run several sequences in one row of tokens, without padding between them (`kdlab.models.packing`).

    The last layer runs only for the tokens whose state is needed (`kdlab.models.last_layer`).
    """

    name = "packed"

    @classmethod
    def supports(cls, model: transformers.PreTrainedModel) -> bool:
        return packing.can_pack(model)

    def encode(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        model = self.runner.model
        packed = packing.PackedRows(batch, packing.first_position(model))
        inputs = packed.inputs
        if not self.runner.causal:
            inputs = {**inputs, "attention_mask": packed.attention_mask(model.dtype)}
        needed = needed_tokens(self.runner, batch, wants)
        if needed is not None:
            places = packed.on_host.flatten().index_select(0, _indices(needed))
            chosen = last_layer.ChosenTokens.among(places, packed.layout.rows, packed.layout.width)
            vectors = self.runner.run_for(chosen.to(batch.rows.device), inputs)
            return _outputs_of(self.runner, needed, vectors, batch.attention_mask)
        outputs = self.runner.run(inputs, wants)
        assert outputs.hidden is not None
        hidden = packed.unpack(outputs.hidden)
        # the last of the states is the last hidden state, unless the family normalises it once more
        states = outputs.states and tuple(hidden if x is outputs.hidden else packed.unpack(x) for x in outputs.states)
        return Outputs(
            hidden=hidden,
            mask=batch.attention_mask,
            states=states,
            scores=outputs.scores and tuple(packed.unpack_scores(x) for x in outputs.scores),
            values=outputs.values and tuple(packed.unpack_values(x) for x in outputs.values),
        )

    def executed(self, batch: Batch, wants: frozenset[str], asks: bool = True) -> tuple[int, ...]:
        counts, narrow = counts_of(batch), narrows(self.runner, batch, wants, asks)
        return counts.once(("packed", narrow), lambda: self._count(counts, narrow))

    @staticmethod
    def _count(counts: BatchCounts, narrow: bool) -> tuple[int, ...]:
        layout = packing.layout(counts.lengths)
        whole = layout.tokens, layout.tokens * layout.width
        if not narrow:
            return whole
        if counts.needed is None:
            return *whole, len(counts.lengths), layout.rows * layout.most * layout.width
        most = counts.needed.new_zeros(layout.rows).index_add(0, layout.row, counts.needed).max()
        return *whole, int(counts.needed.sum()), layout.rows * int(most) * layout.width


class VarlenExecution(Execution):
    """Run one row of all real tokens by variable-length attention kernels (`kdlab.models.attention.varlen`), else packed.

    Packed where the kernels cannot be used: in float32, under dropout of attention weights, where attention is recorded.
    """

    name = "varlen"

    @classmethod
    def supports(cls, model: transformers.PreTrainedModel) -> bool:
        return model.config.model_type in packing.PACKED

    def __init__(self, runner: EncoderRunner) -> None:
        super().__init__(runner)
        model = runner.model
        if not capture.prepared(model):  # another user of these layers may record their attention
            varlen.prepare(model)
        self._packed = PackedExecution(runner)
        # modules with a scaling factor are self-attention: their dropout is of attention weights
        self._attention_dropout: list[Any] = [
            m.dropout for m in model.modules() if hasattr(m, "scaling") and hasattr(m, "dropout")
        ]

    @property
    def kernels_usable(self) -> bool:
        """True where the model's attention and dropout allow the kernels now, in half precision."""
        model = self.runner.model
        if not varlen.prepared(model):
            return False
        return not model.training or all(dropout.p == 0 for dropout in self._attention_dropout)

    @property
    def half_precision(self) -> bool:
        """True where a forward now runs in half precision, which the kernels need."""
        return torch.is_autocast_enabled("cuda") or self.runner.model.dtype in (torch.bfloat16, torch.float16)

    def encode(self, batch: Batch, wants: frozenset[str]) -> Outputs:
        if not (self.kernels_usable and self.half_precision) or wants & {"scores", "values"}:
            return self._packed.encode(batch, wants)
        flat = packing.FlatLayout(batch, packing.first_position(self.runner.model))
        needed = needed_tokens(self.runner, batch, wants)
        if needed is not None:
            counts = needed.sum(1)
            bounds = moved(packing.sequence_bounds(counts), batch.rows.device)
            with varlen.sequences(flat.bounds, flat.shape[1], bounds, int(counts.max())):
                chosen = last_layer.ChosenTokens.of_one_row(flat.indices(needed))
                vectors = self.runner.run_for(chosen, flat.inputs)
            return _outputs_of(self.runner, needed, vectors, batch.attention_mask)
        with varlen.sequences(flat.bounds, flat.shape[1]):
            outputs = self.runner.run(flat.inputs, wants)
        assert outputs.hidden is not None
        hidden = flat.unpack(outputs.hidden)
        states = outputs.states and tuple(hidden if x is outputs.hidden else flat.unpack(x) for x in outputs.states)
        return Outputs(hidden=hidden, mask=batch.attention_mask, states=states)

    def executed(self, batch: Batch, wants: frozenset[str], asks: bool = True) -> tuple[int, ...]:
        if not self.kernels_usable:
            return self._packed.executed(batch, wants, asks)
        counts, narrow = counts_of(batch), narrows(self.runner, batch, wants, asks)
        return counts.once(("varlen", narrow), lambda: self._count(counts, narrow))

    @staticmethod
    def _count(counts: BatchCounts, narrow: bool) -> tuple[int, ...]:
        whole = counts.tokens, sum(n * n for n in counts.lengths)
        if not narrow:
            return whole
        if counts.needed is None:
            return *whole, len(counts.lengths), counts.tokens
        return *whole, int(counts.needed.sum()), int(counts.needed @ torch.tensor(counts.lengths))


EXECUTIONS: dict[str, type[Execution]] = {
    mode.name: mode for mode in (PaddedExecution, BucketedExecution, PackedExecution, VarlenExecution)
}


def execution_on(device: torch.device, name: str, precision: str) -> str:
    """The mode of an `exec` setting on a device: "varlen" for packed batches in half precision where its kernels run."""
    if name != "packed" or not precision.startswith(("bf16", "16")):
        return name
    return "varlen" if varlen.available(device) else "packed"


def execution_for(name: str, runner: EncoderRunner) -> Execution:
    """The execution mode called `name`, or the next best: packed for a decoder in place of kernels, which are not causal
    here, and bucketed where the model's family cannot run without padding."""
    modes = (
        (EXECUTIONS[name], PackedExecution, BucketedExecution)
        if name == "varlen"
        else (EXECUTIONS[name], BucketedExecution)
    )
    return next(mode(runner) for mode in modes if mode.supports(runner.model))


def narrows(runner: EncoderRunner, batch: Batch, wants: frozenset[str], asks: bool = True) -> bool:
    """True if the last layer runs only for the tokens whose last state is needed: first tokens and predictions. `asks` False:
    if the last forward could do so, without another look at the model."""
    if wants or runner.per_row == (batch.labels.ndim == 2):
        return False  # labels of another kind than the head's do not determine the needed tokens
    if asks or runner.last_layer_alone is None:
        runner.last_layer_alone = last_layer.can_run(runner.model)
    return runner.last_layer_alone


def needed_tokens(runner: EncoderRunner, batch: Batch, wants: frozenset[str]) -> Tensor | None:
    """Mask (k, L), on the host, of tokens whose last state is needed. None if the full layer must run (`narrows`)."""
    if not narrows(runner, batch, wants):
        return None
    batch = batch.host
    real = batch.attention_mask.bool()
    needed = torch.zeros_like(real) if runner.per_row else batch.labelled() & real
    return needed.index_fill(1, needed.new_zeros(1, dtype=torch.long), True)


def _outputs_of(runner: EncoderRunner, needed: Tensor, vectors: Tensor, mask: Tensor) -> Outputs:
    """Outputs with the last hidden states `vectors` (U, H) of the `needed` tokens; NaN elsewhere, so that misuse shows."""
    if runner.per_row:
        return Outputs(hidden=vectors.unsqueeze(1), mask=mask)
    hidden = vectors.new_full((mask.numel(), vectors.shape[-1]), torch.nan)
    places = moved(_indices(needed), vectors.device)
    return Outputs(hidden=hidden.index_copy(0, places, vectors).view(*mask.shape, -1), mask=mask)


def _indices(mask: Tensor) -> Tensor:
    """Indices (U,) of the true values of a mask, in its flattened order."""
    return mask.flatten().nonzero().squeeze(1)
