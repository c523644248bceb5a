"""Encode a teacher's answer as bytes by row, and decode it again; the bits of its numbers stay.

An answer about some of a row's positions alone has one array more, which says which they are (`kdlab.teachers.cache.partial`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdlab.methods.knowledge import sparse_logits
from kdlab.models.encoder import Encoder
from kdlab.types import Batch, Outputs, moved

CHUNK = 256  # units with logits at a time
Project = Callable[[Tensor], Tensor]
Draw = Callable[[int, int], np.ndarray]  # row of the batch, number of units -> uniform numbers (units, k) in [0, 1)

_DTYPES = [np.dtype(name) for name in ("float32", "uint16", "float16", "float64", "uint16", "int32")]
_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_BF16, _SHORT, _LONG = 1, 4, 5  # numpy has no bfloat16; tokens of a vocabulary up to 2^16, and of larger ones
_TOKENS = {"hidden": (0,), "states": (0,), "scores": (1, 2), "values": (1,)}  # dimensions of one row that count tokens


@dataclass(frozen=True)
class CacheSpec:
    """The part of a teacher's answer about a row that a cache stores.

    `logits`: of the units "row" (a classifier's one), "labelled" (masked positions), "tokens" (every real one), or None.
    `vocabulary`: all logits of a unit ("full"), the `k` largest ("topk"), or `k` tokens drawn at `temperature`
    ("sampled"). `hidden`: the last hidden state of "all" tokens, of the "first", or None. `others`: further outputs among
    "states", "scores", "values".
    """

    logits: str | None = None
    vocabulary: str = "full"
    k: int = 0
    temperature: float = 1.0
    hidden: str | None = None
    others: tuple[str, ...] = ()

    def units(self, batch: Batch) -> Tensor:
        """Mask (k, L) bool, on the host, of the units whose logits are stored."""
        batch = batch.host
        if self.logits == "tokens":
            return batch.attention_mask.bool()
        if self.logits == "labelled":
            return batch.labelled()
        mask = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
        mask[:, 0] = self.logits == "row"
        return mask

    def every_unit(self, batch: Batch) -> Tensor:
        """Mask (k, L) bool, on the host, of the units that the rows have, those included whose labels selection has left
        out."""
        predicted = batch.host.predicted
        return self.units(batch) if self.logits != "labelled" or predicted is None else predicted

    def arrays(self, layers: int) -> int:
        """Number of arrays of a row's answer, about all its units, of a model of `layers` layers."""
        states = sum(layers + 1 if name == "states" else layers for name in self.others)
        return self.columns + int(self.hidden is not None) + states

    @property
    def reads(self) -> frozenset[str]:
        """The outputs needed of the teacher's forward besides logits, as `Encoder.encode` takes them."""
        whole = self.hidden == "all" or self.logits == "tokens"
        return frozenset(self.others) | frozenset({"hidden"} if whole else ())

    @property
    def columns(self) -> int:
        """Number of arrays that the logits of a unit take."""
        return 0 if self.logits is None else 2 if self.vocabulary == "topk" else 1

    def bytes(
        self, units: float, length: float, squared: float, outputs: int, sizes: Sequence[int], width: int
    ) -> float:
        """Approximate bytes of a row with `units` units and `length` tokens (`squared`: the mean of its square).

        `outputs`: C or V; `sizes`: the model's (layers, hidden size, heads); `width`: bytes of a number.
        """
        layers, hidden, heads = sizes
        each = {"full": width * outputs, "topk": (width + 4) * self.k, "sampled": 4 * self.k}[self.vocabulary]
        each -= 2 * self.k if self.vocabulary != "full" and outputs <= 2**16 else 0
        numbers = {"states": (layers + 1) * length * hidden, "values": layers * length * hidden}
        numbers["scores"] = layers * heads * squared
        tokens = {"all": length, "first": 1}.get(self.hidden or "", 0)
        states = tokens * hidden + sum(numbers[name] for name in self.others)
        return 64 + (units * each if self.logits else 0) + 4 * states


@dataclass
class UnitLogits:
    """The stored logits of a batch's units, decoded a few at a time.

    `spec`: the part of them that is stored; `outputs`: C or V; `mask` (k, L) bool, on the host, of the units; `units`: the
    stored arrays of each unit; `codes`: of the arrays' types; `device` of the logits.
    """

    spec: CacheSpec
    outputs: int
    mask: Tensor
    units: list[tuple[np.ndarray, ...]]
    codes: tuple[int, ...]
    device: torch.device

    def index(self, row: Tensor, token: Tensor) -> Tensor:
        """Numbers (U,) of the units at `row`, `token` (U,), all on the host."""
        number = (self.mask.flatten().cumsum(0) - 1).view(self.mask.shape)
        return number[row, torch.zeros_like(token) if self.spec.logits == "row" else token]

    def of(self, index: Tensor) -> Tensor:
        """Logits (n, C) of the units numbered `index` (n,); of tokens that are not stored, -1e4."""
        logits, tokens = self.stored(index)
        return logits if tokens is None else sparse_logits.whole_logits(logits, tokens, self.outputs)

    def stored(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """The stored logits (n, k) of the units numbered `index` (n,) and their tokens (n, k); or all (n, C) and None."""
        sparse = self.spec.vocabulary != "full"
        if not len(index):
            shape = (0, self.spec.k if sparse else self.outputs)
            tokens = torch.zeros(shape, dtype=torch.long, device=self.device) if sparse else None
            return torch.zeros(shape, device=self.device), tokens
        columns = zip(*(self.units[i] for i in index.tolist()), strict=True)
        arrays = [_tensor(np.stack(one), code) for one, code in zip(columns, self.codes, strict=True)]
        arrays = [moved(array, self.device) for array in arrays]
        if self.spec.vocabulary == "topk":
            return arrays[0], arrays[1]
        if self.spec.vocabulary == "sampled":
            return sparse_logits.logits_of_sample(arrays[0], self.spec.temperature), arrays[0]
        return arrays[0], None


def encode_rows(
    spec: CacheSpec,
    encoder: Encoder,
    project: Project,
    batch: Batch,
    outputs: int,
    draw: Draw,
    stamp: tuple[int, int] = (0, 0),
) -> list[bytes]:
    """Run a forward over `batch` and encode the stored part of each row's answer. `draw` returns a sample's numbers.

    `stamp`: the run and micro-step, of an answer about some of a row's positions.
    """
    answer = encoder.encode(batch, spec.reads)
    assert answer.hidden is not None
    rows: list[list[np.ndarray]] = [[] for _ in range(len(batch))]
    codes: list[int] = []
    if spec.logits is not None:
        mask, every = spec.units(batch), spec.every_unit(batch)
        counts = mask.sum(1).tolist()
        vectors = encoder.vectors(answer, *mask.nonzero(as_tuple=True))
        uniform = None
        if spec.vocabulary == "sampled":
            drawn = [
                draw(i, count) for i, count in enumerate(every.sum(1).tolist())
            ]  # of all, so that each keeps its own
            uniform = torch.from_numpy(np.concatenate(drawn))[mask[every]]
        starts = range(0, len(vectors), CHUNK) if len(vectors) else [0]
        chunks = []
        for i in starts:
            logits = project(vectors[i : i + CHUNK]) if len(vectors) else vectors.new_zeros(0, outputs)
            chunks.append(_reduced(spec, logits, outputs, None if uniform is None else uniform[i : i + CHUNK]))
        for column in zip(*chunks, strict=True):
            codes.append(column[0][1])
            parts = np.split(np.concatenate([array for array, _ in column]), np.cumsum(counts)[:-1])
            for row, part in zip(rows, parts, strict=True):
                row.append(part)
    lengths = batch.host.attention_mask.sum(1).tolist()
    layers = [("hidden", answer.hidden)] if spec.hidden is not None else []
    layers += [(name, layer) for name in spec.others for layer in getattr(answer, name)]
    for name, layer in layers:
        array, code = _array(layer)
        codes.append(code)
        for row, whole, length in zip(rows, array, lengths, strict=True):
            used = 1 if name == "hidden" and spec.hidden == "first" else length
            row.append(whole[tuple(slice(used if d in _TOKENS[name] else None) for d in range(whole.ndim))])
    if spec.logits == "labelled" and batch.predicted is not None:
        codes.append(_LONG)
        for row, units in zip(rows, spec.units(batch), strict=True):
            row.append(places_of(units, stamp))
    return [packed(row, codes) for row in rows]


def places_of(units: Tensor, stamp: tuple[int, int]) -> np.ndarray:
    """The positions (n, 3) int32 in the mask `units` (L,): the token, the run and the micro-step that asked for it."""
    tokens = units.nonzero().flatten().numpy()
    run, step = np.asarray(stamp, np.int64).astype(np.uint32).view(np.int32)
    return np.stack([tokens.astype(np.int32), np.full(len(tokens), run), np.full(len(tokens), step)], 1)


def _reduced(spec: CacheSpec, logits: Tensor, outputs: int, uniform: Tensor | None) -> list[tuple[np.ndarray, int]]:
    tokens = _SHORT if outputs <= 2**16 else _LONG
    if spec.vocabulary == "topk":
        values, ids = sparse_logits.top_tokens(logits, spec.k)
        return [_array(values), (ids.cpu().numpy().astype(_DTYPES[tokens]), tokens)]
    if uniform is not None:
        drawn = sparse_logits.sample_tokens(logits, uniform, spec.temperature)
        return [(drawn.cpu().numpy().astype(_DTYPES[tokens]), tokens)]
    return [_array(logits)]


def join_rows(
    spec: CacheSpec, batch: Batch, payloads: Sequence[np.ndarray], outputs: int, layers: int
) -> tuple[Outputs, UnitLogits | None]:
    """Decode the answer of a model of `layers` layers about the rows of `batch`: outputs, zero at padding, and logits."""
    decoded = [unpacked(payload) for payload in payloads]
    codes, rows = decoded[0][0], [arrays for _, arrays in decoded]
    answer, units, start = Outputs(mask=batch.attention_mask), None, spec.columns
    if start:
        parts = [unit for arrays in rows for unit in zip(*arrays[:start], strict=True)]
        mask = spec.every_unit(batch).clone()
        for i, arrays in enumerate(rows):
            if len(arrays) > spec.arrays(layers):
                mask[i] = False
                mask[i, torch.from_numpy(arrays[-1][:, 0].astype(np.int64))] = True
        units = UnitLogits(spec, outputs, mask, parts, tuple(codes[:start]), batch.input_ids.device)

    def padded(number: int, name: str, length: int) -> Tensor:
        shape = [length if d in _TOKENS[name] else n for d, n in enumerate(rows[0][number].shape)]
        whole = np.zeros((len(rows), *shape), _DTYPES[codes[number]])
        for i, arrays in enumerate(rows):
            whole[(i, *(slice(n) for n in arrays[number].shape))] = arrays[number]
        return moved(_tensor(whole, codes[number]), batch.input_ids.device)

    length = batch.input_ids.shape[1]
    if spec.hidden is not None:
        answer.hidden = padded(start, "hidden", 1 if spec.hidden == "first" else length)
        start += 1
    for name in spec.others:
        count = layers + 1 if name == "states" else layers
        setattr(answer, name, tuple(padded(start + i, name, length) for i in range(count)))
        start += count
    return answer, units


def _array(tensor: Tensor) -> tuple[np.ndarray, int]:
    """The bits of a tensor as an array, and the code of its type."""
    tensor, code = tensor.detach().cpu().contiguous(), _CODES[tensor.dtype]
    return (tensor.view(torch.uint16) if code == _BF16 else tensor).numpy(), code


def _tensor(array: np.ndarray, code: int) -> Tensor:
    """The tensor that `_array` got; tokens as int64."""
    if code in (_SHORT, _LONG):
        return torch.from_numpy(array.astype(np.int64))
    return torch.from_numpy(array).view(torch.bfloat16) if code == _BF16 else torch.from_numpy(array)


def packed(arrays: Sequence[np.ndarray], codes: Sequence[int]) -> bytes:
    """Pack arrays and the codes of their types as bytes for `unpacked`."""
    head = [struct.pack("<I", len(arrays))]
    head += [struct.pack(f"<BB{a.ndim}I", code, a.ndim, *a.shape) for a, code in zip(arrays, codes, strict=True)]
    return b"".join([*head, *(np.ascontiguousarray(a).tobytes() for a in arrays)])


def unpacked(payload: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """The codes and arrays of a row; the arrays are views of the payload."""
    view = payload.data
    (count,), offset = struct.unpack_from("<I", view), 4
    codes, shapes, arrays = [], [], []
    for _ in range(count):
        code, ndim = struct.unpack_from("<BB", view, offset)
        shapes.append(struct.unpack_from(f"<{ndim}I", view, offset + 2))
        codes.append(code)
        offset += 2 + 4 * ndim
    for code, shape in zip(codes, shapes, strict=True):
        dtype = _DTYPES[code]
        arrays.append(np.ndarray(shape, dtype, view, offset))
        offset += arrays[-1].nbytes
    return codes, arrays
