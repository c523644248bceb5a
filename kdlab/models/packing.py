"""Padding-free execution: several sequences share a row of tokens, each seeing itself alone.

A padded batch is as long as its longest row; of short texts most of it is padding. Packed, sequences are laid end to end
in fewer rows, with position ids that begin anew and an attention mask that is block-diagonal, through the unmodified
transformers model; then they are put back in their own rows. What comes out equals padded execution within rounding.
Where a GPU has kernels for it (`kdlab.models.varlen`), there is one row of all tokens and no mask.
Models whose positions cannot be given run in buckets instead: rows of similar length together, padded to their own
longest.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.types import Batch, Outputs

WIDTHS = (32, 64, 96, 128)  # tokens of a packed row that are tried; attention costs more in longer ones
BUCKET_COST = 64  # tokens that one more run of a model is worth

# model types that take `position_ids` and a mask (k, 1, L, L), and how many positions they leave out at the beginning
# (None: the padding token's id and one more)
PACKED: dict[str, int | None] = {
    "bert": 0, "electra": 0, "distilbert": 0, "roberta": None, "xlm-roberta": None, "camembert": None,
}  # fmt: skip


def packs(model: Any) -> bool:
    """Whether a transformers model can run packed."""
    return model.config.model_type in PACKED


def first_position(model: Any) -> int:
    """The number of a sequence's first position in a model's embeddings."""
    first = PACKED[model.config.model_type]
    return model.config.pad_token_id + 1 if first is None else first


@dataclass(frozen=True)
class PackedLayout:
    """Where the rows of a batch lie in `rows` packed rows of `width` tokens: row (k,), first token (k,) of each."""

    rows: int
    width: int
    row: Tensor
    start: Tensor

    @property
    def tokens(self) -> int:
        """Tokens that are run, padding included."""
        return self.rows * self.width


@functools.lru_cache(maxsize=16)  # student and teachers run the same rows
def layout(lengths: tuple[int, ...]) -> PackedLayout:
    """The layout of sequences of `lengths` tokens with the fewest tokens to run, over a few widths.

    First fit decreasing: the longest sequences first, each into the first row that has room.
    """
    longest = max(lengths, default=1)
    found = [_fit(lengths, width) for width in sorted({max(width, longest) for width in (*WIDTHS, longest)})]
    return min(found, key=lambda one: one.tokens)


def _fit(lengths: Sequence[int], width: int) -> PackedLayout:
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    row, start = [0] * len(lengths), [0] * len(lengths)
    rooms: list[tuple[int, int]] = []  # (room left, row) of each row, ascending
    count = 0
    for i in order:
        need = lengths[i]
        place = bisect.bisect_left(rooms, (need, -1))
        if place < len(rooms):
            room, where = rooms.pop(place)
        else:
            room, where, count = width, count, count + 1
        row[i], start[i] = where, width - room
        bisect.insort(rooms, (room - need, where))
    return PackedLayout(max(count, 1), width, torch.tensor(row), torch.tensor(start))


class PackedRows:
    """A batch in its layout: the inputs of a model, and the way back."""

    def __init__(self, batch: Batch, first_position: int) -> None:
        device = batch.input_ids.device
        self.mask = batch.attention_mask
        real = self.mask.bool()
        self.layout = layout(tuple(real.sum(1).tolist()))
        rows, width = self.layout.rows, self.layout.width
        begin = (self.layout.row * width + self.layout.start).to(device)
        token = torch.arange(batch.input_ids.shape[1], device=device)
        self.places = begin.unsqueeze(1) + token.clamp_max(width - 1)  # (k, L), of each token
        last = rows * width - 1
        self.places = torch.where(real, self.places, begin.unsqueeze(1)).clamp_max(last)
        taken = self.places[real]
        self.rows = torch.arange(len(batch), device=device).unsqueeze(1).expand_as(self.places)

        def packed(values: Tensor, fill: int) -> Tensor:
            return values.new_full((rows * width,), fill).index_copy(0, taken, values[real]).view(rows, width)

        positions = (token + first_position).expand_as(self.places)
        owner = packed(self.rows, -1)  # what is left over sees itself alone, or its softmax would be of nothing
        self.inputs: dict[str, Any] = {
            "input_ids": packed(batch.input_ids, 0),
            "position_ids": packed(positions, first_position),
        }
        if batch.token_types is not None:
            self.inputs["token_type_ids"] = packed(batch.token_types, 0)
        self.same = (owner.unsqueeze(1) == owner.unsqueeze(2)).unsqueeze(1)  # (R, 1, W, W)

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """(R, 1, W, W), to be added to attention scores."""
        lowest = torch.finfo(dtype).min
        return torch.zeros(self.same.shape, dtype=dtype, device=self.same.device).masked_fill(~self.same, lowest)

    def unpack(self, hidden: Tensor) -> Tensor:
        """States (R, W, H) of the packed rows as (k, L, H), zero at padding."""
        found = hidden.flatten(0, 1)[self.places]
        return found * self.mask.unsqueeze(-1).to(found.dtype)

    def unpack_scores(self, scores: Tensor) -> Tensor:
        """Attention scores (R, A, W, W) as (k, A, L, L); what is said of padding has no meaning, as ever."""
        width = self.layout.width
        row, inside = self.places // width, self.places % width
        found = scores[row[:, :1, None], :, inside.unsqueeze(2), inside.unsqueeze(1)]  # (k, L, L, A)
        return found.permute(0, 3, 1, 2)

    def unpack_values(self, values: Tensor) -> Tensor:
        """Attention values (R, A, W, d) as (k, A, L, d)."""
        return values.transpose(1, 2).flatten(0, 1)[self.places].transpose(1, 2)


def bounds_of(lengths: Tensor) -> Tensor:
    """Where sequences of `lengths` (k,) tokens, laid end to end, begin and end: (k + 1,) int32."""
    return F.pad(lengths.cumsum(0), (1, 0)).int()


class FlatLayout:
    """A batch as one row of its real tokens, for `kdlab.models.varlen`: the inputs of a model, and the way back."""

    def __init__(self, batch: Batch, first_position: int) -> None:
        self.shape = batch.attention_mask.shape
        real = batch.attention_mask.bool()
        self.places = real.flatten().nonzero().squeeze(1)  # (T,)
        self.bounds = bounds_of(real.sum(1))
        positions = torch.arange(self.shape[1], device=real.device) + first_position
        self.inputs: dict[str, Any] = {
            "input_ids": batch.input_ids.flatten()[self.places].unsqueeze(0),
            "position_ids": positions.expand(self.shape).flatten()[self.places].unsqueeze(0),
        }
        if batch.token_types is not None:
            self.inputs["token_type_ids"] = batch.token_types.flatten()[self.places].unsqueeze(0)

    def inside(self, chosen: Tensor) -> Tensor:
        """Where (U,) in the row the chosen tokens lie, (k, L) bool of the padded batch."""
        return chosen.flatten()[self.places].nonzero().squeeze(1)

    def unpack(self, hidden: Tensor) -> Tensor:
        """States (1, T, H) as (k, L, H), zero at padding."""
        found = hidden.new_zeros(self.shape.numel(), hidden.shape[-1])
        return found.index_copy(0, self.places, hidden[0]).view(*self.shape, -1)


@functools.lru_cache(maxsize=16)
def buckets(lengths: tuple[int, ...]) -> list[list[int]]:
    """The rows in groups of similar length, so that padding each to its longest costs least.

    Dynamic programming over the different lengths, where one more group is worth `BUCKET_COST` tokens.
    """
    rows: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        rows.setdefault(length, []).append(i)
    sizes = sorted(rows)
    before = [0]  # rows of the first n lengths
    for size in sizes:
        before.append(before[-1] + len(rows[size]))
    best: list[tuple[float, int]] = [
        (0.0, 0)
    ]  # of the first n lengths: the least cost, and where the last group begins
    for n, size in enumerate(sizes, 1):
        best.append(min((best[m][0] + (before[n] - before[m]) * size + BUCKET_COST, m) for m in range(n)))
    groups, end = [], len(sizes)
    while end:
        begin = best[end][1]
        groups.append([i for size in sizes[begin:end] for i in rows[size]])
        end = begin
    return groups[::-1]


def joined(parts: Sequence[Outputs], order: Tensor, mask: Tensor) -> Outputs:
    """The outputs of groups of rows as those of one batch; `order` (k,) puts the rows back."""
    length = mask.shape[1]

    def whole(found: Sequence[Tensor], *tokens: int) -> Tensor:
        padded = []
        for x in found:
            shape = list(x.shape)
            for dimension in tokens:
                shape[dimension] = length
            # F.pad counts dimensions from the last
            room = [n for d in reversed(range(x.ndim)) for n in (0, shape[d] - x.shape[d])]
            padded.append(F.pad(x, room))
        return torch.cat(padded)[order]

    def layers(name: str, *tokens: int) -> tuple[Tensor, ...] | None:
        if getattr(parts[0], name) is None:
            return None
        return tuple(whole(found, *tokens) for found in zip(*(getattr(part, name) for part in parts), strict=True))

    states, hidden = layers("states", 1), whole([part.hidden for part in parts], 1)  # pyright: ignore
    return Outputs(hidden=hidden, mask=mask, states=states, scores=layers("scores", 2, 3), values=layers("values", 2))
