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
RECORDS = 1_000_000  # tokens in a record batch of the Arrow files
SPLITS = ("train", "heldout")
_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "doc": pa.int32()})


@dataclass
class CorpusStats:
    """What a corpus holds: `documents` and `characters` read, sequences and tokens of both splits (tokens with the
    special ones), and `dropped`, how many pieces of a document were shorter than a sequence may be."""

    documents: int = 0
    characters: int = 0
    sequences: int = 0
    tokens: int = 0
    dropped: int = 0
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
) -> None:
    """Tokenise `source` into the existing folder `out`: train/, heldout/, token_counts.npy (V,), stats.json.

    A sequence holds `min_length` to `max_length` tokens with its special tokens (classifier and separator, or begin
    and end), and is stored with the number of its document. `token_counts.npy` counts each token of train/ (int64).

    About `heldout` (a share) of the documents that give a sequence are held out, chosen by a stable hash of (seed,
    document number); of the first 20, the one with the smallest hash always is, so that no side is empty. A corpus of
    fewer than 20 documents (a book, say) is split within them: of each document, that share of its sequences, in one
    stretch at a place that the seed decides, so that held-out text is not interleaved with training text.

    It tells how far it is (`kdlab.runtime.progress`). All cores tokenise (RAYON_NUM_THREADS limits them).

    Raises UserError for text that gives no two sequences, a tokenizer without special tokens, a full disk, and
    whatever the source finds wrong with its files.
    """
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    last = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if first is None or last is None:
        raise UserError(
            f"the tokenizer {type(tokenizer).__name__} has neither [CLS] and [SEP] nor begin and end tokens; "
            "a masked language model's tokenizer has"
        )
    if not 2 < min_length <= max_length or not 0 < heldout < 1:
        raise UserError(
            f"min_length {min_length}, max_length {max_length}, heldout {heldout}; "
            "2 < min_length <= max_length, and heldout is a share between 0 and 1"
        )
    if (size := source.size()) is not None:  # a token takes 4 bytes, and comes of 2 bytes of text or more (English: 5)
        require_space(out, 2 * size, "the tokenised text")
    stats = CorpusStats()

    ends = np.array([[first], [last]], dtype=np.int32)

    def sequences() -> Iterator[tuple[int, list[np.ndarray]]]:
        documents = _counted(source.documents(), stats, told)
        for number, tokens in enumerate(tokenised(documents, tokenizer)):
            cut = [tokens[start : start + max_length - 2] for start in range(0, len(tokens), max_length - 2)]
            rows = [np.concatenate((ends[0], piece, ends[1])) for piece in cut if len(piece) + 2 >= min_length]
            stats.dropped += len(cut) - len(rows)
            if rows:
                yield number, rows

    doing = "writing the tokenised text"
    with user_errors(doing, out), ProgressBar("tokenising the text", size, "characters") as told, ExitStack() as stack:
        train, held = (stack.enter_context(_Writer(out / split, len(tokenizer))) for split in SPLITS)
        for is_held, number, rows in _split(sequences(), heldout, seed):
            (held if is_held else train).write(number, rows)
    if not train.sequences or not held.sequences:
        raise UserError(
            f"the text is too short: {stats.documents} documents with {stats.characters} characters give "
            f"{train.sequences + held.sequences} sequences of {min_length} to {max_length} tokens; two are the least "
            "(one to learn from, one held out)"
        )
    stats.sequences, stats.tokens = train.sequences + held.sequences, train.tokens + held.tokens
    stats.heldout_sequences, stats.heldout_tokens = held.sequences, held.tokens
    with user_errors(doing, out):
        np.save(out / "token_counts.npy", train.counts)
        (out / "stats.json").write_text(json.dumps(asdict(stats), indent=1) + "\n")


def load(folder: Path, split: str) -> datasets.Dataset:
    """The sequences of a prepared folder, memory-mapped: columns `input_ids` (list of int32) and `doc` (int32).

    `split` is "train" or "heldout".
    """
    import datasets

    return datasets.Dataset.from_file(str(Path(folder) / split / "data.arrow"))


class TokenizedText:
    """The sequences of a prepared split as NumPy arrays, straight from the memory-mapped Arrow buffers.

    `tokens[row]` is (L,) int32 without a copy, hundreds of times faster than a row of `datasets`; `lengths` (rows,).
    """

    def __init__(self, data: datasets.Dataset) -> None:
        self._data = data
        self._open()

    def _open(self) -> None:
        chunks = self._data.data.column("input_ids").chunks
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._starts = np.cumsum([0, *(len(offsets) - 1 for offsets in self._offsets)])
        lengths = [np.diff(offsets) for offsets in self._offsets]
        self.lengths = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {"_data": self._data}  # a loader process maps the file again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._data = state["_data"]
        self._open()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        offsets, place = self._offsets[chunk], row - int(self._starts[chunk])
        return self._values[chunk][offsets[place] : offsets[place + 1]]


def read_stats(folder: Path) -> CorpusStats:
    """The counts that `prepare` left in a folder."""
    return CorpusStats(**json.loads((Path(folder) / "stats.json").read_text()))


def _counted(texts: Iterable[str], stats: CorpusStats, told: ProgressBar) -> Iterator[str]:
    for text in texts:
        stats.documents += 1
        stats.characters += len(text)
        yield text
        told.to(stats.characters)


def _split(
    documents: Iterator[tuple[int, list[np.ndarray]]], share: float, seed: int
) -> Iterator[tuple[bool, int, list[np.ndarray]]]:
    """(whether held out, document number, sequences), as `prepare` describes the split."""

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
    wanted = [round(share * size) for size in sizes]
    if few and sum(wanted) == 0:
        wanted[int(np.argmax(sizes))] = 1
    if few and sum(wanted) == sum(sizes):
        wanted[int(np.argmax(sizes))] -= 1
    for (number, rows), size in zip(few, wanted, strict=True):
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
