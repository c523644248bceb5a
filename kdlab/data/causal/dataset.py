"""Rows of causal language models, tokenised once into memory-mapped NumPy files.

`prepare` writes the folder, `TokenizedDocuments` reads one split of it. All documents lie in tokens.npy, one after the
other; a split's rows are lists of documents, so that several short ones can share a row.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.data.causal.encoding import REFUSE, Document, example_documents, key_of, text_documents
from kdlab.data.causal.packing import pack as pack_rows
from kdlab.errors import UserError
from kdlab.runtime.progress import ProgressBar
from kdlab.runtime.seeding import stable
from kdlab.storage.files import require_space, user_errors
from kdlab.types import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEW = 20  # documents; a smaller text is split within its documents
SPLITS = ("train", "heldout")
TEACHERS = "teachers.npy"


@dataclass
class CausalStats:
    """Counts of prepared rows.

    `documents` read, and their `characters`; `sequences` (rows), `tokens` and `labels` (tokens that are predicted) of both
    splits, and of the held-out one; `pieces`: documents in rows, of which long texts give several; `dropped`: pieces
    without a label or shorter than they may be, and examples with too long a prompt; `cut`: examples cut at their end.
    """

    documents: int = 0
    characters: int = 0
    sequences: int = 0
    tokens: int = 0
    labels: int = 0
    pieces: int = 0
    dropped: int = 0
    cut: int = 0
    heldout_sequences: int = 0
    heldout_tokens: int = 0
    heldout_labels: int = 0


@dataclass
class _Pieces:
    """Facts of each piece, in the order of tokens.npy."""

    lengths: array = field(default_factory=lambda: array("q"))
    labels: array = field(default_factory=lambda: array("q"))
    documents: array = field(default_factory=lambda: array("q"))
    keys: array = field(default_factory=lambda: array("q"))  # of the piece's own tokens
    sides: array = field(default_factory=lambda: array("q"))  # of what decides its split
    given: array = field(default_factory=lambda: array("b"))  # 1 held out, 0 not, -1 a share decides
    teachers: list[str | None] = field(default_factory=list)  # of adopt=by_column


def prepare(
    source: Any,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    max_length: int,
    min_length: int = 3,
    heldout: float | None = 0.05,
    seed: int = 0,
    pack: bool = True,
    long_prompts: str = REFUSE,
) -> None:
    """Tokenise `source`, of documents or of examples, into the existing folder `out`.

    Texts end with the end token; longer ones than `max_length` are cut into several documents, of which those under
    `min_length` tokens are dropped. Examples are cut at their end (`kdlab.data.causal.encoding.example_documents`). `pack`:
    short documents share rows of at most `max_length` tokens.

    About a share `heldout` of the documents is held out, chosen by a stable hash of (seed, text), of an example its prompt:
    the same whatever their order, and never one text on both sides. Fewer than `FEW` texts are split within them, in one
    stretch each. Examples that say themselves whether they are held out stay where they are. None: all are held out.

    Files: tokens.npy (N,) int32, targets.npy (N,) bool, bounds.npy, labels.npy and keys.npy by document, teachers.npy where the
    examples name some; SPLIT/documents.npy and rows.npy; token_counts.npy (V,) int64, how often each token is a label of a training row; stats.json. UserError for
    too little text, a full disk, values out of range, and faults of the source's files.
    """
    if not 2 < min_length <= max_length or not (heldout is None or 0 < heldout < 1):
        raise UserError(
            f"min_length {min_length}, max_length {max_length}, heldout {heldout}; "
            "2 < min_length <= max_length, and heldout is a share between 0 and 1"
        )
    if (size := source.size()) is not None:  # a token takes 5 bytes and stands for 2 bytes of text or more (English: 5)
        require_space(out, 3 * size, "the tokenised text")
    stats, pieces, doing = CausalStats(), _Pieces(), "writing the tokenised text"
    with user_errors(doing, out), ProgressBar("tokenising the text", size, "characters") as bar, ExitStack() as stack:
        tokens = stack.enter_context(ArrayWriter(out / "tokens.npy", np.int32))
        targets = stack.enter_context(ArrayWriter(out / "targets.npy", np.bool_))
        for number, document in enumerate(_documents(source, tokenizer, max_length, long_prompts, stats, bar)):
            _write(document, number, min_length, max_length, tokens, targets, pieces, stats)
    if heldout is None:
        held = np.ones(len(pieces.lengths), dtype=bool)
    else:
        held = _split(pieces, heldout, seed, text=hasattr(source, "documents"))
    if not held.any() or (held.all() and heldout is not None):
        raise UserError(
            f"the text is too short: {stats.documents} documents with {stats.characters} characters give "
            f"{len(held)} rows of at most {max_length} tokens, of which {int(held.sum())} are held out; two are the least "
            "(one to learn from, one held out)"
        )
    with user_errors(doing, out):
        _finish(out, pieces, held, max_length, pack, len(tokenizer), stats)


def _documents(
    source: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    long_prompts: str,
    stats: CausalStats,
    bar: ProgressBar,
) -> Iterator[Document]:
    """The tokenised documents of a source of texts or of examples; counts what is read and what is left out."""

    def counted(values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            stats.documents += 1
            texts = [value] if isinstance(value, str) else [value.prompt, value.completion]
            texts += [] if isinstance(value, str) else [message["content"] for message in value.messages]
            stats.characters += sum(map(len, texts))
            yield value
            bar.to(stats.characters)

    if hasattr(source, "documents"):
        yield from text_documents(counted(source.documents()), tokenizer)
        return
    for document in example_documents(counted(source.examples()), tokenizer, max_length, long_prompts):
        if document is None:
            stats.dropped += 1
        else:
            stats.cut += document.cut > 0
            yield document


def _write(
    document: Document,
    number: int,
    min_length: int,
    max_length: int,
    tokens: ArrayWriter,
    targets: ArrayWriter,
    pieces: _Pieces,
    stats: CausalStats,
) -> None:
    """Append a document in pieces of `max_length` tokens; no piece predicts its first token."""
    several = len(document.ids) > max_length
    for start in range(0, len(document.ids), max_length):
        part = slice(start, start + max_length)
        ids, wanted = document.ids[part], document.targets[part].copy()
        wanted[:1] = False
        if not wanted.any() or (several and len(ids) < min_length):
            stats.dropped += 1
            continue
        tokens.append(ids)
        targets.append(wanted)
        pieces.lengths.append(len(ids))
        pieces.labels.append(int(wanted.sum()))
        pieces.documents.append(number)
        pieces.keys.append(key_of(ids))
        pieces.sides.append(document.key)
        pieces.given.append(-1 if document.heldout is None else int(document.heldout))
        pieces.teachers.append(document.teacher)


def _split(pieces: _Pieces, share: float, seed: int, text: bool) -> np.ndarray:
    """Mask (n,) bool of the pieces that are held out."""
    given, sides = np.array(pieces.given, dtype=np.int8), np.array(pieces.sides, dtype=np.int64)
    if (given >= 0).any():
        return given == 1
    distinct, place = np.unique(sides, return_inverse=True)
    if text and len(distinct) < FEW:
        return _stretches(np.array(pieces.documents, dtype=np.int64), share, seed)
    draws = np.array([stable("held out", seed, int(side)) / 2**63 for side in distinct])
    chosen = draws < share
    if len(distinct) > 1:  # no side may be empty
        chosen[draws.argmin()], chosen[draws.argmax()] = True, False
    return chosen[place]


def _stretches(documents: np.ndarray, share: float, seed: int) -> np.ndarray:
    """One stretch of that share of the pieces of each document, at a place that the seed decides: held-out text is not
    interleaved with training text."""
    held = np.zeros(len(documents), dtype=bool)
    numbers, sizes = np.unique(documents, return_counts=True)
    counts = np.round(share * sizes).astype(np.int64)
    if len(sizes) and counts.sum() == 0:
        counts[sizes.argmax()] = 1
    if len(sizes) and counts.sum() == sizes.sum():
        counts[sizes.argmax()] -= 1
    for number, size, count in zip(numbers.tolist(), sizes.tolist(), counts.tolist(), strict=True):
        start = stable("stretch", seed, number) % (size - count + 1)
        held[np.flatnonzero(documents == number)[start : start + count]] = True
    return held


def _finish(
    out: Path, pieces: _Pieces, held: np.ndarray, max_length: int, pack: bool, vocabulary: int, stats: CausalStats
) -> None:
    """Write what is known once all documents are: bounds, rows of both splits, counts."""
    lengths, labels = np.array(pieces.lengths, dtype=np.int64), np.array(pieces.labels, dtype=np.int64)
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    np.save(out / "bounds.npy", bounds)
    np.save(out / "labels.npy", labels)
    np.save(out / "keys.npy", np.array(pieces.keys, dtype=np.int64))
    if any(teacher is not None for teacher in pieces.teachers):
        np.save(out / TEACHERS, np.array(pieces.teachers, dtype=np.str_))
    rows = {}
    for split in SPLITS:
        own = np.flatnonzero(held if split == "heldout" else ~held)
        order, row_bounds = (
            pack_rows(lengths[own], max_length) if pack else (np.arange(len(own)), np.arange(len(own) + 1))
        )
        (out / split).mkdir()
        np.save(out / split / "documents.npy", own[order])
        np.save(out / split / "rows.npy", row_bounds.astype(np.int64))
        rows[split] = len(row_bounds) - 1
    tokens, targets = (np.load(out / name, mmap_mode="r") for name in ("tokens.npy", "targets.npy"))
    counts = np.zeros(vocabulary, dtype=np.int64)
    for piece in np.flatnonzero(~held).tolist():
        part = slice(int(bounds[piece]), int(bounds[piece + 1]))
        np.add.at(counts, tokens[part][targets[part]], 1)
    np.save(out / "token_counts.npy", counts)
    stats.sequences, stats.heldout_sequences = sum(rows.values()), rows["heldout"]
    stats.tokens, stats.heldout_tokens = int(lengths.sum()), int(lengths[held].sum())
    stats.labels, stats.heldout_labels = int(labels.sum()), int(labels[held].sum())
    stats.pieces = len(lengths)
    (out / "stats.json").write_text(json.dumps(asdict(stats), indent=1) + "\n")


class ArrayWriter:
    """A one-dimensional .npy file that grows: the header is written again at the end, with the length."""

    def __init__(self, path: Path, kind: Any) -> None:
        self._file = path.open("wb")
        self._kind = np.dtype(kind)
        self._length = 0
        self._header()

    def _header(self) -> None:
        """Write the header; NumPy leaves room in it for any length, so it keeps its size."""
        description = {
            "descr": np.lib.format.dtype_to_descr(self._kind),
            "fortran_order": False,
            "shape": (self._length,),
        }
        np.lib.format.write_array_header_1_0(self._file, description)

    def append(self, values: np.ndarray) -> None:
        """Append values (n,)."""
        self._file.write(np.ascontiguousarray(values, dtype=self._kind).tobytes())
        self._length += len(values)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._header()


class TokenizedDocuments:
    """The rows of a prepared split, straight from the memory-mapped files.

    `documents[row]` is (ids (L,), labels (L,), document numbers (L,)), int64, as `kdlab.types.Batch` has them; `lengths` (N,)
    tokens and `labels` (N,) labels of each row.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = Path(folder), split
        self._open()

    def _open(self) -> None:
        self._tokens, self._targets, self._bounds, labels, self._keys = (
            np.load(self._folder / f"{name}.npy", mmap_mode="r")
            for name in ("tokens", "targets", "bounds", "labels", "keys")
        )
        self._documents = np.load(self._folder / self._split / "documents.npy", mmap_mode="r")
        self._rows = np.load(self._folder / self._split / "rows.npy", mmap_mode="r")
        lengths = np.diff(self._bounds)[self._documents]
        self.lengths = np.add.reduceat(lengths, self._rows[:-1]) if len(self) else np.zeros(0, dtype=np.int64)
        own = np.asarray(labels)[self._documents]
        self.labels = np.add.reduceat(own, self._rows[:-1]) if len(self) else np.zeros(0, dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_split": self._split}  # a loader process maps the files again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._rows) - 1

    def documents_of(self, row: int) -> np.ndarray:
        """Numbers of the documents of a row, ascending."""
        return self._documents[self._rows[row] : self._rows[row + 1]]

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = self.documents_of(row).tolist()
        parts = [slice(int(self._bounds[number]), int(self._bounds[number + 1])) for number in own]
        ids = np.concatenate([self._tokens[part] for part in parts]).astype(np.int64)
        wanted = np.concatenate([self._targets[part] for part in parts])  # never the first token of a document
        labels = np.full(len(ids), IGNORE, dtype=np.int64)
        labels[:-1] = np.where(wanted[1:], ids[1:], IGNORE)
        return ids, labels, np.repeat(np.arange(len(own)), [part.stop - part.start for part in parts])

    def teachers(self) -> list[str]:
        """The teacher that the data name for each row, as it is written; each row is one document."""
        return np.load(self._folder / TEACHERS)[self._documents].tolist()

    def equal_rows(self, rows: np.ndarray) -> np.ndarray:
        """Indices, sorted, of all rows with a document that has the same tokens as one of `rows`, themselves included."""
        keys = np.asarray(self._keys)[self._documents]
        row_of = np.repeat(np.arange(len(self)), np.diff(self._rows))
        wanted = np.unique(keys[np.isin(row_of, rows)])
        return np.unique(row_of[np.isin(keys, wanted)])


def read_stats(folder: Path) -> CausalStats:
    """Read the counts that `prepare` wrote into a folder."""
    return CausalStats(**json.loads((Path(folder) / "stats.json").read_text()))
