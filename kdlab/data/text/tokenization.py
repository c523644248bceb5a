"""Tokenize texts in batches on all cores, in bounded memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1_000_000  # characters of a call of the tokenizer
PIECE = 50_000  # characters of a text that one thread tokenises


def tokenised(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    """Token ids (n,) int32 of each text, in order, without special tokens; "[MASK]" in a text is plain text.

    A text of more than `PIECE` characters is tokenised in pieces cut after a line's end or a space.
    """
    encode = encoder(tokenizer)
    parts: list[np.ndarray] = []
    for batch in _batches(piece for text in texts for piece in _pieces(text)):
        ids = encode([piece for _, piece in batch])
        for (last, _), piece_ids in zip(batch, ids, strict=True):
            parts.append(np.array(piece_ids, dtype=np.int32))
            if last:
                yield np.concatenate(parts)
                parts = []


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


def _batches(pieces: Iterable[tuple[bool, str]]) -> Iterator[list[tuple[bool, str]]]:
    batch: list[tuple[bool, str]] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1]) + 100  # bounds the number of empty texts in a batch
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
