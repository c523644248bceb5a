"""Padding-free execution: several sequences share a row of tokens, and each attends only to itself.

A padded batch is as long as its longest row, so a batch of short texts is mostly padding. Packing concatenates
sequences in fewer rows, with position ids that restart at each sequence and a block-diagonal attention mask. The
transformers model is unmodified, and its outputs are unpacked to the rows of the batch. They equal those of padded
execution within rounding. With GPU kernels for it (`kdlab.models.attention.varlen`), all tokens form one row without a mask.
Models that take no position ids run in buckets instead: rows of similar length together, each bucket padded to its
longest row.
"""

from __future__ import annotations

import bisect
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.models import documents
from kdlab.types import Batch, Outputs, moved

WIDTHS = (32, 64, 96, 128)  # candidate widths of packed rows in tokens; attention costs more in longer rows
BUCKET_COST = 64  # cost of one more forward, in tokens

# model types that accept `position_ids` and a mask (k, 1, L, L), and the id of their first position
# (None: the id of the padding token plus 1)
PACKED: dict[str, int | None] = {
    "bert": 0, "electra": 0, "distilbert": 0, "roberta": None, "xlm-roberta": None, "camembert": None,
}  # fmt: skip


# decoders whose position ids keep the sequences of a row apart
CAUSAL = frozenset({
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo2", "gpt2", "gpt_neox",
})  # fmt: skip


def lengths_of(batch: Batch) -> tuple[int, ...]:
    """The number of tokens of each row."""
    return tuple(batch.host.attention_mask.sum(1).tolist())


def can_pack(model: Any) -> bool:
    """True if a transformers model can run packed."""
    return model.config.model_type in PACKED or model.config.model_type in CAUSAL


def first_position(model: Any) -> int:
    """Position id of the first token of a sequence in a model's position embeddings."""
    first = PACKED.get(model.config.model_type, 0)
    return model.config.pad_token_id + 1 if first is None else first


@dataclass(frozen=True)
class PackedLayout:
    """Placement of the k rows of a batch in `rows` packed rows of `width` tokens.

    `row` (k,): packed row of each; `start` (k,): its first token there; `most`: the largest number of them in a packed row.
    """

    rows: int
    width: int
    row: Tensor
    start: Tensor
    most: int

    @property
    def tokens(self) -> int:
        """Number of tokens of a forward, padding included."""
        return self.rows * self.width


@functools.lru_cache(maxsize=16)  # student and teachers run the same rows
def layout(lengths: tuple[int, ...]) -> PackedLayout:
    """Layout of sequences of `lengths` tokens with the fewest tokens in total, among the candidate widths.

    Best fit decreasing: the longest sequences first, each into the fullest row that has space for it.
    """
    longest = max(lengths, default=1)
    fits = {width: _fit(lengths, width) for width in sorted({max(width, longest) for width in (*WIDTHS, longest)})}
    width = min(fits, key=lambda width: fits[width][0] * width)
    rows, row, start = fits[width]
    return PackedLayout(rows, width, torch.tensor(row), torch.tensor(start), max(Counter(row).values(), default=0))


def _fit(lengths: Sequence[int], width: int) -> tuple[int, list[int], list[int]]:
    """The number of packed rows of `width` tokens, the packed row of each sequence, and its first token there."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    row, start = [0] * len(lengths), [0] * len(lengths)
    free: list[tuple[int, int]] = []  # (free tokens, row) of each packed row, ascending
    count = 0
    for i in order:
        length = lengths[i]
        fit = bisect.bisect_left(free, (length, -1))
        if fit < len(free):
            space, packed_row = free.pop(fit)
        else:
            space, packed_row, count = width, count, count + 1
        row[i], start[i] = packed_row, width - space
        bisect.insort(free, (space - length, packed_row))
    return max(count, 1), row, start


class PackedRows:
    """A packed batch: the inputs of a model, and the inverse mapping of its outputs.

    It is packed on the host, where `inputs` are too. `on_host` (k, L), there, and `places`, on the batch's device: the flat
    index of each token.
    """

    def __init__(self, batch: Batch, first_position: int) -> None:
        device, self.mask, batch = batch.input_ids.device, batch.attention_mask, batch.host
        real = batch.attention_mask.bool()
        self.layout = layout(lengths_of(batch))
        rows, width = self.layout.rows, self.layout.width
        begin = (self.layout.row * width + self.layout.start).unsqueeze(1)
        token = torch.arange(batch.input_ids.shape[1])
        self.on_host = torch.where(real, begin + token.clamp_max(width - 1), begin).clamp_max(rows * width - 1)
        self.places = moved(self.on_host, device)
        targets = self.on_host[real]

        def packed(values: Tensor, fill: int) -> Tensor:
            return values.new_full((rows * width,), fill).index_copy(0, targets, values[real]).view(rows, width)

        # unused tokens attend to each other: a softmax over no key would be NaN
        owner = packed(torch.arange(len(batch)).unsqueeze(1).expand_as(self.on_host), -1)
        self.owner = moved(owner, device)
        self.inputs: dict[str, Any] = {
            "input_ids": packed(batch.input_ids, 0),
            "position_ids": packed(documents.positions(batch) + first_position, first_position),
        }
        if batch.token_types is not None:
            self.inputs["token_type_ids"] = packed(batch.token_types, 0)

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """Additive attention mask (R, 1, W, W): 0 within a sequence, the lowest value of `dtype` elsewhere."""
        same = (self.owner.unsqueeze(1) == self.owner.unsqueeze(2)).unsqueeze(1)
        return torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill(~same, torch.finfo(dtype).min)

    def unpack(self, hidden: Tensor) -> Tensor:
        """States (R, W, H) of the packed rows as (k, L, H), zero at padding."""
        states = hidden.flatten(0, 1)[self.places]
        return states * self.mask.unsqueeze(-1).to(states.dtype)

    def unpack_scores(self, scores: Tensor) -> Tensor:
        """Attention scores (R, A, W, W) as (k, A, L, L); those of padding are undefined, as in padded execution."""
        width = self.layout.width
        row, column = self.places // width, self.places % width
        unpacked = scores[row[:, :1, None], :, column.unsqueeze(2), column.unsqueeze(1)]  # (k, L, L, A)
        return unpacked.permute(0, 3, 1, 2)

    def unpack_values(self, values: Tensor) -> Tensor:
        """Attention values (R, A, W, d) as (k, A, L, d)."""
        return values.transpose(1, 2).flatten(0, 1)[self.places].transpose(1, 2)


def sequence_bounds(lengths: Tensor) -> Tensor:
    """Cumulative boundaries (k + 1,) int32 of concatenated sequences of `lengths` (k,) tokens."""
    return F.pad(lengths.cumsum(0), (1, 0)).int()


class FlatLayout:
    """A batch as one row of its T real tokens, for `kdlab.models.attention.varlen`: inputs, on the host, and the inverse mapping.

    `on_host` (T,), there, and `places`, on the batch's device: the flat index of each token in the padded batch.
    """

    def __init__(self, batch: Batch, first_position: int) -> None:
        device, batch = batch.input_ids.device, batch.host
        self.shape = batch.attention_mask.shape
        real = batch.attention_mask.bool()
        self.on_host = real.flatten().nonzero().squeeze(1)
        self.places = moved(self.on_host, device)
        self.bounds = moved(sequence_bounds(real.sum(1)), device)
        positions = torch.arange(self.shape[1]) + first_position

        def flat(values: Tensor) -> Tensor:
            return values.expand(self.shape).flatten()[self.on_host].unsqueeze(0)

        self.inputs: dict[str, Any] = {"input_ids": flat(batch.input_ids), "position_ids": flat(positions)}
        if batch.token_types is not None:
            self.inputs["token_type_ids"] = flat(batch.token_types)

    def indices(self, chosen: Tensor) -> Tensor:
        """Indices (U,) in the row of the tokens that the mask `chosen` (k, L) of the padded batch, on the host, selects."""
        return moved(chosen.flatten()[self.on_host].nonzero().squeeze(1), self.places.device)

    def unpack(self, hidden: Tensor) -> Tensor:
        """States (1, T, H) as (k, L, H), zero at padding."""
        states = hidden.new_zeros(self.shape.numel(), hidden.shape[-1])
        return states.index_copy(0, self.places, hidden[0]).view(*self.shape, -1)


@functools.lru_cache(maxsize=16)
def buckets(lengths: tuple[int, ...]) -> list[list[int]]:
    """Group rows of similar length, at the least cost of padding each group to its longest row.

    Dynamic programming over the distinct lengths; each group costs `BUCKET_COST` tokens besides.
    """
    rows: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        rows.setdefault(length, []).append(i)
    sizes = sorted(rows)
    before = [0]  # number of rows with one of the first n lengths
    for size in sizes:
        before.append(before[-1] + len(rows[size]))
    best: list[tuple[float, int]] = [(0.0, 0)]  # for the first n lengths: (least cost, start of the last group)
    for n, size in enumerate(sizes, 1):
        best.append(min((best[m][0] + (before[n] - before[m]) * size + BUCKET_COST, m) for m in range(n)))
    groups, end = [], len(sizes)
    while end:
        begin = best[end][1]
        groups.append([i for size in sizes[begin:end] for i in rows[size]])
        end = begin
    return groups[::-1]


def merge_outputs(parts: Sequence[Outputs], order: Tensor, mask: Tensor) -> Outputs:
    """Merge the outputs of groups of rows into those of one batch; `order` (k,) restores the order of rows."""
    length = mask.shape[1]

    def whole(tensors: Sequence[Tensor], *tokens: int) -> Tensor:
        padded = []
        for x in tensors:
            shape = list(x.shape)
            for dimension in tokens:
                shape[dimension] = length
            # F.pad counts dimensions from the last
            padding = [n for d in reversed(range(x.ndim)) for n in (0, shape[d] - x.shape[d])]
            padded.append(F.pad(x, padding))
        return torch.cat(padded)[order]

    def layers(name: str, *tokens: int) -> tuple[Tensor, ...] | None:
        if getattr(parts[0], name) is None:
            return None
        return tuple(whole(layer, *tokens) for layer in zip(*(getattr(part, name) for part in parts), strict=True))

    states, hidden = layers("states", 1), whole([part.hidden for part in parts], 1)  # pyright: ignore
    return Outputs(hidden=hidden, mask=mask, states=states, scores=layers("scores", 2, 3), values=layers("values", 2))
