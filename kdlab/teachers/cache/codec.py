"""A teacher's answer taken apart into rows of bytes, and put together again; the bits stay as they are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdlab.methods.knowledge import sparse_logits
from kdlab.models.encoder import Encoder
from kdlab.types import Batch, Outputs

CHUNK = 256  # units whose logits exist at one moment
Project = Callable[[Tensor], Tensor]
Draw = Callable[[int, int], np.ndarray]  # row of the batch, how many units -> (units, k) in [0, 1)

_DTYPES = [np.dtype(name) for name in ("float32", "uint16", "float16", "float64", "uint16", "int32")]
_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_BF16, _SHORT, _LONG = 1, 4, 5  # numpy has no bfloat16; tokens of a vocabulary up to 2^16, and of larger ones
_TOKENS = {"hidden": (0,), "states": (0,), "scores": (1, 2), "values": (1,)}  # dimensions of one row that count tokens


@dataclass(frozen=True)
class CacheSpec:
    """What is kept of a teacher's answer to a row.

    `logits`: of which units, "row" (a classifier's one), "labelled" (masked positions), "tokens" (every real one), None.
    `vocabulary`: all logits of a unit ("full"), the `k` largest ("topk"), or `k` tokens drawn at `temperature`
    ("sampled"). `hidden`: the last hidden state of "all" tokens, of the "first", None. `others`: of "states", "scores",
    "values".
    """

    logits: str | None = None
    vocabulary: str = "full"
    k: int = 0
    temperature: float = 1.0
    hidden: str | None = None
    others: tuple[str, ...] = ()

    def units(self, batch: Batch) -> Tensor:
        """Where (k, L) bool the units stand whose logits are kept."""
        if self.logits == "tokens":
            return batch.attention_mask.bool()
        if self.logits == "labelled":
            return batch.labelled()
        found = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
        found[:, 0] = self.logits == "row"
        return found

    @property
    def reads(self) -> frozenset[str]:
        """What is wanted of the teacher's forward, as `Encoder.encode` takes it."""
        whole = self.hidden == "all" or self.logits == "tokens"
        return frozenset(self.others) | frozenset({"hidden"} if whole else ())

    @property
    def columns(self) -> int:
        """How many arrays the logits of a unit take."""
        return 0 if self.logits is None else 2 if self.vocabulary == "topk" else 1

    def bytes(
        self, units: float, length: float, squared: float, outputs: int, cast: Sequence[int], width: int
    ) -> float:
        """About how many bytes a row takes: its `units`, tokens (`length`, and `squared`), C or V `outputs`; `cast` the
        model's (layers, hidden size, heads); `width` of a number."""
        layers, hidden, heads = cast
        each = {"full": width * outputs, "topk": (width + 4) * self.k, "sampled": 4 * self.k}[self.vocabulary]
        each -= 2 * self.k if self.vocabulary != "full" and outputs <= 2**16 else 0
        sizes = {"states": (layers + 1) * length * hidden, "values": layers * length * hidden}
        sizes["scores"] = layers * heads * squared
        tokens = {"all": length, "first": 1}.get(self.hidden or "", 0)
        kept = tokens * hidden + sum(sizes[name] for name in self.others)
        return 64 + (units * each if self.logits else 0) + 4 * kept


@dataclass
class UnitLogits:
    """The logits of a batch's units, made whole a few at a time from what is kept of each."""

    keeps: CacheSpec
    outputs: int
    where: Tensor
    units: list[tuple[np.ndarray, ...]]
    codes: tuple[int, ...]

    def index(self, row: Tensor, place: Tensor) -> Tensor:
        """Numbers (U,) of the units at `row`, `place` (U,)."""
        number = (self.where.flatten().cumsum(0) - 1).view(self.where.shape)
        return number[row, torch.zeros_like(place) if self.keeps.logits == "row" else place]

    def of(self, index: Tensor) -> Tensor:
        """Logits (n, C) of the units numbered `index` (n,)."""
        if not len(index):
            return torch.zeros(0, self.outputs, device=index.device)
        columns = zip(*(self.units[i] for i in index.tolist()), strict=True)
        found = [_tensor(np.stack(one), code).to(index.device) for one, code in zip(columns, self.codes, strict=True)]
        if self.keeps.vocabulary == "topk":
            return sparse_logits.logits_of_top(found[0], found[1], self.outputs)
        if self.keeps.vocabulary == "sampled":
            return sparse_logits.logits_of_sample(found[0], self.outputs, self.keeps.temperature)
        return found[0]


def taken_apart(
    keeps: CacheSpec, encoder: Encoder, project: Project, batch: Batch, outputs: int, draw: Draw
) -> list[bytes]:
    """One forward over `batch`; what is kept of each row. `draw` gives the numbers that decide a sample."""
    shown = encoder.encode(batch, keeps.reads)
    assert shown.hidden is not None
    rows: list[list[np.ndarray]] = [[] for _ in range(len(batch))]
    codes: list[int] = []
    if keeps.logits is not None:
        where = keeps.units(batch)
        counts = where.sum(1).tolist()
        vectors = encoder.vectors(shown, *where.nonzero(as_tuple=True))
        uniform = None
        if keeps.vocabulary == "sampled":
            uniform = torch.from_numpy(np.concatenate([draw(i, count) for i, count in enumerate(counts)]))
        starts = range(0, len(vectors), CHUNK) if len(vectors) else [0]
        chunks = []
        for i in starts:
            logits = project(vectors[i : i + CHUNK]) if len(vectors) else vectors.new_zeros(0, outputs)
            chunks.append(_reduced(keeps, logits, outputs, None if uniform is None else uniform[i : i + CHUNK]))
        for column in zip(*chunks, strict=True):
            codes.append(column[0][1])
            parts = np.split(np.concatenate([array for array, _ in column]), np.cumsum(counts)[:-1])
            for row, part in zip(rows, parts, strict=True):
                row.append(part)
    lengths = batch.attention_mask.sum(1).tolist()
    layers = [("hidden", shown.hidden)] if keeps.hidden is not None else []
    layers += [(name, layer) for name in keeps.others for layer in getattr(shown, name)]
    for name, layer in layers:
        array, code = _array(layer)
        codes.append(code)
        for row, whole, length in zip(rows, array, lengths, strict=True):
            used = 1 if name == "hidden" and keeps.hidden == "first" else length
            row.append(whole[tuple(slice(used if d in _TOKENS[name] else None) for d in range(whole.ndim))])
    return [_packed(row, codes) for row in rows]


def _reduced(keeps: CacheSpec, logits: Tensor, outputs: int, uniform: Tensor | None) -> list[tuple[np.ndarray, int]]:
    tokens = _SHORT if outputs <= 2**16 else _LONG
    if keeps.vocabulary == "topk":
        values, ids = sparse_logits.top_tokens(logits, keeps.k)
        return [_array(values), (ids.cpu().numpy().astype(_DTYPES[tokens]), tokens)]
    if uniform is not None:
        drawn = sparse_logits.sample_tokens(logits, uniform, keeps.temperature)
        return [(drawn.cpu().numpy().astype(_DTYPES[tokens]), tokens)]
    return [_array(logits)]


def put_together(
    keeps: CacheSpec, batch: Batch, payloads: Sequence[np.ndarray], outputs: int, layers: int
) -> tuple[Outputs, UnitLogits | None]:
    """The outputs that a model of `layers` layers showed for the rows of `batch`, zero at padding, and the logits."""
    unpacked = [_unpacked(payload) for payload in payloads]
    codes, rows = unpacked[0][0], [arrays for _, arrays in unpacked]
    shown, units, start = Outputs(mask=batch.attention_mask), None, keeps.columns
    if start:
        parts = [unit for arrays in rows for unit in zip(*arrays[:start], strict=True)]
        units = UnitLogits(keeps, outputs, keeps.units(batch), parts, tuple(codes[:start]))

    def padded(number: int, name: str, length: int) -> Tensor:
        shape = [length if d in _TOKENS[name] else n for d, n in enumerate(rows[0][number].shape)]
        whole = np.zeros((len(rows), *shape), _DTYPES[codes[number]])
        for i, arrays in enumerate(rows):
            whole[(i, *(slice(n) for n in arrays[number].shape))] = arrays[number]
        return _tensor(whole, codes[number]).to(batch.input_ids.device)

    length = batch.input_ids.shape[1]
    if keeps.hidden is not None:
        shown.hidden = padded(start, "hidden", 1 if keeps.hidden == "first" else length)
        start += 1
    for name in keeps.others:
        count = layers + 1 if name == "states" else layers
        setattr(shown, name, tuple(padded(start + i, name, length) for i in range(count)))
        start += count
    return shown, units


def _array(tensor: Tensor) -> tuple[np.ndarray, int]:
    """A tensor's bits as an array, and the code of its type."""
    tensor, code = tensor.detach().cpu().contiguous(), _CODES[tensor.dtype]
    return (tensor.view(torch.uint16) if code == _BF16 else tensor).numpy(), code


def _tensor(array: np.ndarray, code: int) -> Tensor:
    """What `_array` was given; tokens as int64."""
    if code in (_SHORT, _LONG):
        return torch.from_numpy(array.astype(np.int64))
    return torch.from_numpy(array).view(torch.bfloat16) if code == _BF16 else torch.from_numpy(array)


def _packed(arrays: Sequence[np.ndarray], codes: Sequence[int]) -> bytes:
    """Arrays and the codes of their types as bytes that `_unpacked` reads."""
    head = [struct.pack("<I", len(arrays))]
    head += [struct.pack(f"<BB{a.ndim}I", code, a.ndim, *a.shape) for a, code in zip(arrays, codes, strict=True)]
    return b"".join([*head, *(np.ascontiguousarray(a).tobytes() for a in arrays)])


def _unpacked(payload: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """The codes and arrays of a row, the latter without copying."""
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
