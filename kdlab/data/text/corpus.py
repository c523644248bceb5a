"""A corpus, tokenised once: memory-mapped Arrow files of token sequences, for training and held out.

`prepare` writes the folder, `load` opens it. The documents of a source are cut into sequences of at most `max_length`
tokens at document bounds, shorter rests than `min_length` are dropped (DistilBERT's script: 12 and 512). Memory stays
bounded by a batch of text, whatever the size of the source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kdlab.data.text.mapped import MappedTable
from kdlab.data.text.sources import TextSource
from kdlab.data.text.tokenization import tokenised
from kdlab.errors import UserError
from kdlab.runtime.progress import ProgressBar
from kdlab.runtime.seeding import stable
from kdlab.storage.files import require_space, user_errors

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

FEW = 20  # documents; a smaller corpus is split within its documents
PREFIX = 16  # tokens of a sequence that are compared before the whole sequence is
RELEASED = 2_048  # rows that are read before their pages are given back; each may lie on a page of its own
RECORDS = 1_000_000  # tokens in a record batch of the Arrow files
SPLITS = ("train", "heldout")
_WEIGHTS = np.cumprod(np.full(PREFIX, 0x9E3779B97F4A7C15, np.uint64))  # of a hash, modulo 2**64
_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "doc": pa.int32()})


@dataclass
class CorpusStats:
    """Counts of a prepared corpus.

    `documents` and `characters` read; `sequences` and `tokens` of both splits (special tokens included) and of the held-out
    one; `dropped` pieces of documents, shorter than a sequence may be; `unknown` pieces dropped for unknown tokens.
    """

    documents: int = 0
    characters: int = 0
    sequences: int = 0
    tokens: int = 0
    dropped: int = 0
    unknown: int = 0
    heldout_sequences: int = 0
    heldout_tokens: int = 0


def prepare(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    min_length: int = 12,
    max_length: int = 512,
    heldout: float = 0.05,
    seed: int,
    max_unknown: float | None = None,
) -> None:
    """Tokenise `source` into the existing folder `out`: train/, heldout/, token_counts.npy (V,) int64, stats.json.

    A sequence has `min_length` to `max_length` tokens, special tokens included (classifier and separator, or begin and
    end), and is stored with the number of its document. `token_counts.npy` counts the tokens of train/. `max_unknown`:
    share of a sequence's tokens, special ones included, that may not be unknown (None: any; DistilBERT's script: 0.5).

    About a share `heldout` of the documents that give a sequence are held out, chosen by a stable hash of (seed, document
    number); see `_split` for short corpora. Progress is reported (`kdlab.runtime.progress`). All cores tokenise
    (RAYON_NUM_THREADS limits them).

    UserError for text of fewer than two sequences, a tokenizer without special tokens, a full disk, lengths or shares out
    of range, and faults of the source's files.
    """
    ends = _special_ends(tokenizer)
    if not 2 < min_length <= max_length or not 0 < heldout < 1:
        raise UserError(
            f"min_length {min_length}, max_length {max_length}, heldout {heldout}; "
            "2 < min_length <= max_length, and heldout is a share between 0 and 1"
        )
    if (size := source.size()) is not None:  # a token takes 4 bytes and stands for 2 bytes of text or more (English: 5)
        require_space(out, 2 * size, "the tokenised text")
    stats, doing = CorpusStats(), "writing the tokenised text"
    with user_errors(doing, out), ProgressBar("tokenising the text", size, "characters") as bar, ExitStack() as stack:
        train, held = (stack.enter_context(_Writer(out / split, len(tokenizer))) for split in SPLITS)
        documents = tokenised(_counted(source.documents(), stats, bar), tokenizer)
        sequences = _sequences(documents, ends, min_length, max_length, stats)
        if max_unknown is not None and tokenizer.unk_token_id is not None:
            sequences = _known(sequences, int(tokenizer.unk_token_id), max_unknown, stats)  # pyright: ignore[reportArgumentType]
        for is_held, number, rows in _split(sequences, heldout, seed):
            (held if is_held else train).write(number, rows)
    stats.sequences, stats.tokens = train.sequences + held.sequences, train.tokens + held.tokens
    stats.heldout_sequences, stats.heldout_tokens = held.sequences, held.tokens
    if not train.sequences or not held.sequences:
        raise UserError(
            f"the text is too short: {stats.documents} documents with {stats.characters} characters give "
            f"{stats.sequences} sequences of {min_length} to {max_length} tokens; two are the least "
            "(one to learn from, one held out)"
        )
    with user_errors(doing, out):
        np.save(out / "token_counts.npy", train.counts)
        (out / "stats.json").write_text(json.dumps(asdict(stats), indent=1) + "\n")


def prepare_heldout(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    min_length: int = 12,
    max_length: int = 512,
    max_unknown: float | None = None,
) -> None:
    """Tokenise all of `source` as held-out text into the existing folder `out` (heldout/), as `prepare` does a part of it.

    UserError for text without a sequence, and as `prepare` raises it.
    """
    ends, stats = _special_ends(tokenizer), CorpusStats()
    with (
        user_errors("writing the tokenised text", out),
        ProgressBar("tokenising the text", source.size(), "characters") as bar,
    ):
        documents = tokenised(_counted(source.documents(), stats, bar), tokenizer)
        sequences = _sequences(documents, ends, min_length, max_length, stats)
        if max_unknown is not None and tokenizer.unk_token_id is not None:
            sequences = _known(sequences, int(tokenizer.unk_token_id), max_unknown, stats)  # pyright: ignore[reportArgumentType]
        with _Writer(out / "heldout", len(tokenizer)) as held:
            for number, rows in sequences:
                held.write(number, rows)
    if not held.sequences:
        raise UserError(
            f"the text is too short: {stats.documents} documents with {stats.characters} characters give no sequence of "
            f"{min_length} to {max_length} tokens"
        )


def _special_ends(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The special tokens at the beginning and end of a sequence, (2, 1) int32; UserError for a tokenizer without them."""
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    last = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if first is None or last is None:
        raise UserError(
            f"the tokenizer {type(tokenizer).__name__} has neither [CLS] and [SEP] nor begin and end tokens; "
            "a masked language model's tokenizer has"
        )
    return np.array([[first], [last]], dtype=np.int32)


def _sequences(
    documents: Iterable[np.ndarray], ends: np.ndarray, min_length: int, max_length: int, stats: CorpusStats
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(document number, its sequences) of each tokenised document that gives one; counts the dropped pieces in `stats`."""
    for number, tokens in enumerate(documents):
        pieces = [tokens[start : start + max_length - 2] for start in range(0, len(tokens), max_length - 2)]
        rows = [np.concatenate((ends[0], piece, ends[1])) for piece in pieces if len(piece) + 2 >= min_length]
        stats.dropped += len(pieces) - len(rows)
        if rows:
            yield number, rows


def _known(
    documents: Iterable[tuple[int, list[np.ndarray]]], unknown: int, share: float, stats: CorpusStats
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Drop sequences of which `share` or more is the token `unknown`, as DistilBERT's script; counted in `stats`."""
    for number, rows in documents:
        kept = [row for row in rows if np.count_nonzero(row == unknown) < share * len(row)]
        stats.unknown += len(rows) - len(kept)
        if kept:
            yield number, kept


def load(folder: Path, split: str) -> datasets.Dataset:
    """Open the sequences of a prepared folder, memory-mapped: columns `input_ids` (list of int32) and `doc` (int32).

    `split` is "train" or "heldout".
    """
    import datasets

    return datasets.Dataset.from_file(str(Path(folder) / split / "data.arrow"))


def mapped(folder: Path, split: str) -> MappedTable:
    """Open the sequences of a prepared folder for `TokenizedText`."""
    return MappedTable(Path(folder) / split / "data.arrow")


class TokenizedText:
    """The sequences of a prepared split as NumPy arrays, straight from the memory-mapped Arrow buffers.

    `tokens[row]` is (L,) int32 without a copy, hundreds of times faster than a row of `datasets`; `lengths` (rows,).
    `data`: `mapped`, whose pages are given back after every `RELEASED` rows; or that of `load`.
    """

    def __init__(self, data: datasets.Dataset | MappedTable) -> None:
        self._data = data
        self._open()

    def _open(self) -> None:
        chunks = self._data.data.column("input_ids").chunks
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._starts = np.cumsum([0, *(len(offsets) - 1 for offsets in self._offsets)])
        passing = self._data.passing if isinstance(self._data, MappedTable) else iter
        lengths = [np.diff(offsets) for offsets in passing(self._offsets)]
        self.lengths = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
        self._read = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_data": self._data}  # a loader process maps the file again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._data = state["_data"]
        self._open()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        self._count(1)
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        offsets, place = self._offsets[chunk], row - int(self._starts[chunk])
        return self._values[chunk][offsets[place] : offsets[place + 1]]

    def equal_rows(self, rows: np.ndarray) -> np.ndarray:
        """Indices, sorted, of all rows with the same tokens as one of `rows`, themselves included."""
        wanted = {self[int(row)].tobytes() for row in rows}
        lengths, chunks = np.unique(self.lengths[rows]), np.searchsorted(self._starts, rows, side="right") - 1
        begun = [self._beginnings(int(k), rows[[i]] - self._starts[k]) for i, k in enumerate(chunks)]
        beginnings = np.unique(np.concatenate(begun)) if begun else np.zeros(0, np.uint64)
        equal = list[int]()
        for chunk, start in enumerate(self._starts[:-1].tolist()):
            places = np.flatnonzero(np.isin(self.lengths[start : int(self._starts[chunk + 1])], lengths))
            alike = places[np.isin(self._beginnings(chunk, places), beginnings)]
            equal += [start + place for place in alike.tolist() if self[start + place].tobytes() in wanted]
            self._count(len(places))
        return np.array(equal, dtype=np.int64)

    def _count(self, rows: int) -> None:
        """Count rows that are read, and give back pages where it is time."""
        self._read += rows
        if self._read > RELEASED:
            self._read = 0
            if isinstance(self._data, MappedTable):
                self._data.release()

    def _beginnings(self, chunk: int, places: np.ndarray) -> np.ndarray:
        """A hash (n,) uint64 of the first `PREFIX` tokens of each of the rows `places` (n,) of a chunk."""
        offsets, values = self._offsets[chunk], self._values[chunk]
        index = offsets[places][:, None] + np.arange(PREFIX)
        inside = index < offsets[places + 1][:, None]
        tokens = np.zeros(index.shape, np.uint64)
        tokens[inside] = values[index[inside]] + 1
        return (tokens * _WEIGHTS).sum(1)


def read_stats(folder: Path) -> CorpusStats:
    """Read the counts that `prepare` wrote into a folder."""
    return CorpusStats(**json.loads((Path(folder) / "stats.json").read_text()))


def _counted(texts: Iterable[str], stats: CorpusStats, bar: ProgressBar) -> Iterator[str]:
    for text in texts:
        stats.documents += 1
        stats.characters += len(text)
        yield text
        bar.to(stats.characters)


def _split(
    documents: Iterator[tuple[int, list[np.ndarray]]], share: float, seed: int
) -> Iterator[tuple[bool, int, list[np.ndarray]]]:
    """Yield (held out, document number, sequences), in which a document may come twice.

    A document is held out by a hash of (seed, number); of the first `FEW` the one with the smallest hash always is, and
    the one with the largest never, so that no side is empty. A corpus of fewer documents (one book) is split within
    them: of each, that share of its sequences, in one stretch at a place that the seed decides, so that held-out text is
    not interleaved with training text.
    """

    def draw(number: int) -> float:
        return stable("held out", seed, number) / 2**63

    few = list(islice(documents, FEW))
    if len(few) == FEW:
        always = min(few, key=lambda document: draw(document[0]))[0]
        never = max(few, key=lambda document: draw(document[0]))[0]
        for number, rows in chain(few, documents):
            yield number == always or (draw(number) < share and number != never), number, rows
        return
    sizes = [len(rows) for _, rows in few]
    heldout = [round(share * size) for size in sizes]
    if few and sum(heldout) == 0:
        heldout[int(np.argmax(sizes))] = 1
    if few and sum(heldout) == sum(sizes):
        heldout[int(np.argmax(sizes))] -= 1
    for (number, rows), size in zip(few, heldout, strict=True):
        start = stable("stretch", seed, number) % (len(rows) - size + 1)
        yield True, number, rows[start : start + size]
        yield False, number, rows[:start] + rows[start + size :]


class _Writer:
    """One split's Arrow file, written as a stream of record batches."""

    def __init__(self, folder: Path, vocabulary: int) -> None:
        folder.mkdir()
        self._file = (folder / "data.arrow").open("wb")
        self._stream = pa.ipc.new_stream(self._file, _SCHEMA)
        self._rows: list[np.ndarray] = []
        self._documents: list[int] = []
        self._held = 0
        self.counts = np.zeros(vocabulary, dtype=np.int64)
        self.sequences = self.tokens = 0

    def __enter__(self) -> _Writer:
        return self

    def write(self, document: int, rows: list[np.ndarray]) -> None:
        self._rows += rows
        self._documents += [document] * len(rows)
        self._held += sum(map(len, rows))
        if self._held > RECORDS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            values = np.concatenate(self._rows).astype(np.int32)
            offsets = np.concatenate(([0], np.cumsum([len(row) for row in self._rows]))).astype(np.int32)
            lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
            documents = pa.array(self._documents, pa.int32())
            self._stream.write_batch(pa.record_batch([lists, documents], schema=_SCHEMA))
            self.counts += np.bincount(values, minlength=len(self.counts))
            self.sequences += len(self._rows)
            self.tokens += len(values)
        self._rows, self._documents, self._held = [], [], 0

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is None:
                self._flush()
                self._stream.close()
