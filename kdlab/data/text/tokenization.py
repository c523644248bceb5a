"""Tokenize texts in batches on all cores, in bounded memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1_000_000  # characters of a call of the tokenizer
PIECE = 50_000  # characters of a text that one thread tokenises
Batch = list[tuple[bool, str]]  # (is last piece of its text, piece)


def tokenised(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    """Token ids (n,) int32 of each text, in order, without special tokens; "[MASK]" in a text is plain text.

    A text of more than `PIECE` characters is tokenised in pieces cut after a line's end or a space.
    """
    parts: list[np.ndarray] = []
    for batch, ids in _ahead(encoder(tokenizer), _batches(piece for text in texts for piece in _pieces(text))):
        for (last, _), piece_ids in zip(batch, ids, strict=True):
            parts.append(np.array(piece_ids, dtype=np.int32))
            if last:
                yield np.concatenate(parts)
                parts = []


def _ahead(
    encode: Callable[[list[str]], list[list[int]]], batches: Iterable[Batch]
) -> Iterator[tuple[Batch, list[list[int]]]]:
    """Each batch with its token ids. The next one is tokenised, without Python's lock, while the caller works on this one."""
    with ThreadPoolExecutor(1, "tokenizer") as executor:
        waiting: tuple[Batch, Future[list[list[int]]]] | None = None
        for batch in batches:
            next_one = batch, executor.submit(encode, [piece for _, piece in batch])
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = next_one
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str]], list[list[int]]]:
    """A function that tokenises texts without special tokens; "[MASK]" in a text is plain text."""
    if not tokenizer.is_fast:
        return lambda texts: tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    backend: Any = copy.deepcopy(tokenizer.backend_tokenizer)  # the settings below are state of the caller's tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return lambda texts: [text.ids for text in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """(is last piece, piece) of a text; text without white space is cut anywhere."""
    start = 0
    while len(text) - start > PIECE:
        end = max(text.rfind(mark, start, start + PIECE) for mark in ("\n", " ")) + 1
        end = end if end > start + PIECE // 2 else start + PIECE
        yield False, text[start:end]
        start = end
    yield True, text[start:]


def _batches(pieces: Iterable[tuple[bool, str]]) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1]) + 100  # bounds the number of empty texts in a batch
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
